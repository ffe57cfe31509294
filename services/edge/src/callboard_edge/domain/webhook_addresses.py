"""Which addresses a webhook may have, so that no requester reaches what only the site itself should."""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from callboard_contracts.webhooks import WebhooksSection

Address = IPv4Address | IPv6Address

MAX_URL_CHARACTERS = 2000
# Nothing that two parsers of addresses could understand in two ways: no user, no backslash, no escapes in the host.
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?(?:[/?][!-\[\]-~]*)?"
)
_DEFAULT_PORTS = {"https": 443, "http": 80}
_UNICAST6 = IPv6Network("2000::/3")
_NOT_PUBLIC4 = tuple(
    map(
        IPv4Network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
            *("192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24"),
            *("192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
            *("224.0.0.0/4", "240.0.0.0/4"),
        ),
    )
)
_NOT_PUBLIC6 = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")))
"""Beside all outside 2000::/3, where mapped, translated (64:ff9b::), local and multicast addresses are: Teredo and the
other special uses, examples, and 6to4, in which any IPv4 address can stand."""


def is_public(address: Address) -> bool:
    """Whether an address is that of a single machine on the public internet."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC4)
    if address.scope_id is not None or address not in _UNICAST6:
        return False
    return not any(address in network for network in _NOT_PUBLIC6)


class WebhookAddresses:
    """The site's rules for webhooks."""

    def __init__(self, settings: WebhooksSection) -> None:
        self._settings = settings

    def allows(self, host: str) -> bool:
        """Whether an address, in its usual form, may be connected to."""
        try:
            address = ip_address(host)
        except ValueError:
            return False
        return is_public(address) or any(address in network for network in self._settings.allowed_networks)

    def fault(self, url: str) -> str | None:
        """What is wrong with a webhook's URL, or None; what its name stands for is only seen when it is called."""
        found = _URL.fullmatch(url) if len(url) <= MAX_URL_CHARACTERS else None
        if found is None:
            return "is no plain address of a web server, such as https://example.org/hook"
        if found["scheme"] != "https" and not self._settings.allow_http:
            return "has to begin with https://"
        if int(found["port"] or _DEFAULT_PORTS[found["scheme"]]) not in self._settings.ports:
            return f"may only have the ports {', '.join(map(str, self._settings.ports))}"
        host = found["host"].strip("[]")
        # What has only digits and dots is an address to those who connect, although not always in its usual form.
        if (":" in host or host.replace(".", "").isdigit()) and not self.allows(host):
            return "is not a public address"
        return None

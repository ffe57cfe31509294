"""Which address a request really comes from."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

IPV6_NETWORK_BITS = 64
Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def client_address(peer: str | None, forwarded: Sequence[str], trusted: Sequence[Network]) -> str | None:
    """The client's address: the peer's own, or what trusted proxies say; an IPv6 address counts as its /64.

    A proxy appends the address that it saw, so the list of X-Forwarded-For is read from its end, and the first
    address that is no trusted proxy counts. What stands before it was written by the client and is ignored.
    """
    if peer is None or not (trusted or ":" in peer):
        return peer
    address = _parse(peer)
    if address is None:
        return peer
    if trusted and _within(address, trusted):
        hops = [hop for header in forwarded for hop in header.split(",")]
        for hop in reversed(hops):
            named = _parse(hop)
            if named is None:
                break
            address = named
            if not _within(address, trusted):
                break
    return str(_counted(address))


def _counted(address: Address) -> Address:
    # Whoever has one address of such a network has all of them, and could choose another for each attempt.
    if isinstance(address, IPv4Address) or address.is_loopback:
        return address
    return IPv6Address(int(address) >> IPV6_NETWORK_BITS << IPV6_NETWORK_BITS)


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _parse(text: str) -> Address | None:
    """An address as proxies write it: with or without a port, IPv6 with or without brackets, mapped ones as IPv4."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address

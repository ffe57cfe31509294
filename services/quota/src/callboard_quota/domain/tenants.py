"""Turns addresses and models into opaque tenants, so that neither stands in a subject, a metric or a log."""

import hashlib
import hmac
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from callboard_contracts.quota import Hold

SITE = "site"
ANONYMOUS = "anonymous"
ACCOUNT_MARK = "k_"
ADDRESS_MARK = "i_"
"""How the tenants of accounts and addresses begin."""
TOKEN_LENGTH = 16
MAX_CACHED = 1_000
IPV6_NETWORK_BITS = 64


class Secret:
    """The site's secret, from which tenants of addresses and the signatures of holds are derived."""

    def __init__(self, secret: bytes) -> None:
        self._address_key = hmac.digest(secret, b"address", "sha256")
        # Open holds were signed under this label, so it stays as it is.
        # A copy of a prepared digest costs a third of a new one.
        self._signing = hmac.new(hmac.digest(secret, b"seal", "sha256"), digestmod="sha256")
        # Cached, because parsing an address costs a twentieth of a decision.
        self.address_tenant = lru_cache(MAX_CACHED)(self._address_tenant)
        """The tenant of a client's address; an IPv6 address counts as its /64. Raises ValueError for no address."""

    def _address_tenant(self, address: str) -> str:
        parsed = ip_address(address.partition("%")[0])
        if isinstance(parsed, IPv6Address):
            parsed = parsed.ipv4_mapped or IPv6Address(int(parsed) >> IPV6_NETWORK_BITS << IPV6_NETWORK_BITS)
        digest = hmac.digest(self._address_key, parsed.packed, "sha256").hex()
        return f"{ADDRESS_MARK}{digest[:TOKEN_LENGTH]}"

    def signed(self, hold: Hold) -> Hold:
        """The hold with the signature by which quota recognises it."""
        return Hold.model_validate({**vars(hold), "signature": self._sign(hold)})

    def is_ours(self, hold: Hold) -> bool:
        """Whether quota granted this hold exactly as it stands."""
        return hold.signature.isascii() and hmac.compare_digest(self._sign(hold), hold.signature)

    def _sign(self, hold: Hold) -> str:
        entries = [(entry.tenant, entry.metric, entry.bucket, entry.amount) for entry in hold.entries]
        rates = (hold.rates.prompt_units, hold.rates.completion_units, hold.rates.audio_units_per_s)
        text = repr((hold.id, hold.request_id, hold.tenant, hold.kind, hold.model, entries, rates, hold.expires_at))
        mac = self._signing.copy()
        mac.update(text.encode())
        return mac.hexdigest()[: 2 * TOKEN_LENGTH]


def model_tenant(model: str) -> str:
    """The tenant that counts the use of a model over all callers."""
    return f"m_{hashlib.sha256(model.encode()).hexdigest()[:TOKEN_LENGTH]}"

"""Accounts and their API keys, as the bucket ACCOUNTS keeps them.

A key itself is shown once and never stored. `key.<digest>` names the account that a key belongs to, and
`account.<id>` is the one record that says what the account and each of its keys may do.
"""

import hashlib
import secrets
from typing import Literal

from pydantic import Field

from callboard_contracts.config import LimitsSection
from callboard_contracts.model import Message

KEY_PREFIX = "cb_"
KEY_RANDOM_BYTES = 30
"""Forty URL-safe characters."""
DIGEST_SHOWN = 12
"""How many characters of a digest name a key in lists and commands."""
SECRET_SITE = "secret.site"  # noqa: S105 - where the secret stands, not the secret
ACCOUNT_PREFIX = "account."


class AccountKey(Message):
    """One API key of an account, by the hex SHA-256 of its text; times are Unix seconds."""

    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None

    def valid_at(self, now: float) -> bool:
        """Whether the key opens anything at that time."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class Account(Message):
    """Somebody who holds keys; `limits` replaces single limits of the tier and outlives a change of the tier."""

    version: Literal[1] = 1
    id: str = Field(pattern=r"^k_[0-9a-f]{16}$")
    name: str = Field(min_length=1, max_length=200)
    tier: str
    keys: tuple[AccountKey, ...]
    limits: LimitsSection = LimitsSection()
    created_at: float

    def key(self, digest: str) -> AccountKey | None:
        """The key of that digest, or None."""
        for key in self.keys:
            if key.digest == digest:
                return key
        return None


def new_key() -> str:
    """A fresh API key; 240 random bits."""
    return KEY_PREFIX + secrets.token_urlsafe(KEY_RANDOM_BYTES)


def new_account_id() -> str:
    """A fresh account id, which is also the account's tenant on the bus."""
    return f"k_{secrets.token_hex(8)}"


def key_digest(key: str) -> str:
    """The only form in which a key is stored or sent on the bus."""
    # A header may hold any bytes, and what is no UTF-8 is no key of ours, but must not fail.
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


def account_entry(account_id: str) -> str:
    """The bucket's entry that holds an account."""
    return f"{ACCOUNT_PREFIX}{account_id}"


def key_entry(digest: str) -> str:
    """The bucket's entry that names the account of a key."""
    return f"key.{digest}"

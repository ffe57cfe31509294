"""Who sends a request."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller as quota knows it: the hex SHA-256 of the API key, if there is one, and the client's IP address."""

    key_digest: str | None = None
    address: str | None = None


def digest(key: str) -> str:
    """The form in which an API key leaves the edge; the key itself never does."""
    return hashlib.sha256(key.encode()).hexdigest()

"""Who sends a request."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller as quota knows it: the hex SHA-256 of the API key, if there is one, and the client's IP address.

    The key itself never leaves the handler that read it.
    """

    key_digest: str | None = None
    address: str | None = None

"""Who sends a request."""

from typing import NamedTuple


class Caller(NamedTuple):
    """A caller as quota knows it: the hex SHA-256 of the API key, if there is one, and the client's IP address.

    The key itself never leaves the handler that read it.
    """

    key_digest: str | None = None
    address: str | None = None

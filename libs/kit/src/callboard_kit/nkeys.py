"""NKeys: the Ed25519 keys by which users of the bus prove who they are without a password."""

import base64
import binascii
import secrets

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SEED_BYTES = 32
_SEED = 18 << 3
_USER = 20 << 3
_CHECKSUM_BYTES = 2


class UserKey:
    """The key pair of a user, from its seed as `nk` and `callboard nats users` write it."""

    def __init__(self, seed: str) -> None:
        """Raises ValueError for a text that is not the seed of a user's key."""
        self._key = Ed25519PrivateKey.from_private_bytes(_decoded(seed))

    @property
    def public(self) -> str:
        """What the server's configuration names the user by."""
        return _encoded(bytes([_USER]) + self._key.public_key().public_bytes_raw())

    def sign(self, nonce: str) -> bytes:
        """The signature that answers a server's challenge, in the client's form."""
        return base64.urlsafe_b64encode(self._key.sign(nonce.encode())).rstrip(b"=")


def new_seed() -> str:
    """Makes the seed of a new user's key."""
    return _encoded(bytes([_SEED | _USER >> 5, (_USER & 31) << 3]) + secrets.token_bytes(SEED_BYTES))


def _decoded(seed: str) -> bytes:
    text = seed.strip()
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except binascii.Error:
        raise ValueError("not the seed of an NKey") from None
    body, checksum = raw[:-_CHECKSUM_BYTES], raw[-_CHECKSUM_BYTES:]
    if len(body) != SEED_BYTES + 2 or _checksum(body) != checksum or body[0] & 0xF8 != _SEED:
        raise ValueError("not the seed of an NKey")
    if (body[0] & 7) << 5 | (body[1] & 0xF8) >> 3 != _USER:
        raise ValueError("the seed of an NKey that is not a user's")
    return body[2:]


def _encoded(body: bytes) -> str:
    return base64.b32encode(body + _checksum(body)).decode().rstrip("=")


def _checksum(body: bytes) -> bytes:
    return binascii.crc_hqx(body, 0).to_bytes(_CHECKSUM_BYTES, "little")

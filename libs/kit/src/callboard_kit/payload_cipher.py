"""Encrypts the payloads that streams keep on disk, with keys that are erased on time.

The server leaves the bytes of deleted and expired messages in its files until it rewrites them, so a payload becomes
unreadable on time only with its key. The keys are messages of the stream KEYS; of a message that is deleted by its
number the server overwrites the bytes. ADR 0016 has the measurements.
"""

import asyncio
import base64
import logging
import os
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from callboard_contracts.streams import KEY_ROTATION_S, KEYS
from callboard_contracts.subjects import DATA_KEYS
from callboard_kit.bus_errors import ApiError, BusError, BusUnavailable

if TYPE_CHECKING:
    from callboard_kit.bus import Bus

log = logging.getLogger(__name__)

ENCRYPTED = b"\x01"
"""The first byte of an encrypted payload; a payload in plain text is JSON and never begins so."""
SEQ_BYTES = 8
NONCE_BYTES = 12
OVERHEAD_BYTES = len(ENCRYPTED) + SEQ_BYTES + NONCE_BYTES + 16
"""How much larger a payload gets; the last 16 are the authentication tag."""
KEY_BITS = 256
CACHED_KEYS = 64
ERASE_INTERVAL_S = 15.0
NOT_FOUND = 404


class PayloadUnreadable(Exception):  # noqa: N818 - a state, not a failure
    """A payload's key has been erased, or its bytes are damaged."""


@dataclass(frozen=True, slots=True)
class _CurrentKey:
    head: bytes
    """What stands before the nonce: the mark of an encrypted payload, and the key's number."""
    key: AESGCM
    rotate_at: float


class PayloadCipher:
    """Encrypts with the newest key of the stream KEYS and decrypts with any that is not erased yet.

    A key encrypts for `rotation_s` after it was stored. A process that finds no such key stores one; where two do so at
    once, both keys are used.
    """

    def __init__(self, bus: "Bus", rotation_s: float = KEY_ROTATION_S) -> None:
        self._bus = bus
        self._rotation_s = rotation_s
        self._current: _CurrentKey | None = None
        self._renewing = asyncio.Lock()
        self._cache: OrderedDict[int, AESGCM] = OrderedDict()

    async def encrypt(self, payload: bytes) -> bytes:
        """The payload in AES-256-GCM, behind the number of its key and the nonce.

        Raises:
            BusUnavailable: a new key is due and the bus does not store it.
        """
        current = self._current
        if current is None or time.monotonic() >= current.rotate_at:
            current = await self._renewed()
        nonce = os.urandom(NONCE_BYTES)
        sealed = current.key.encrypt(nonce, payload, None)
        return current.head + nonce + sealed

    async def decrypt(self, payload: bytes) -> bytes:
        """The plain text of a payload; one that is not encrypted is returned as it is.

        Raises:
            PayloadUnreadable: the key has been erased.
            BusUnavailable: the key cannot be read at this moment.
        """
        if not payload.startswith(ENCRYPTED):
            return payload
        nonce_at = len(ENCRYPTED) + SEQ_BYTES
        sealed_at = nonce_at + NONCE_BYTES
        key = await self._key(int.from_bytes(payload[len(ENCRYPTED) : nonce_at], "big"))
        if key is None:
            raise PayloadUnreadable("the key has been erased")
        try:
            return key.decrypt(payload[nonce_at:sealed_at], payload[sealed_at:], None)
        except (InvalidTag, ValueError):
            raise PayloadUnreadable("the bytes are damaged") from None

    async def _renewed(self) -> _CurrentKey:
        async with self._renewing:
            if self._current is None or time.monotonic() >= self._current.rotate_at:
                asked_at = time.monotonic()
                info = await _info(self._bus)
                seq, age_s = info["state"]["last_seq"], _age_s(info, "last_ts")
                key = await self._key(seq) if age_s < self._rotation_s else None
                # Another process may just have made it, and nothing encrypted may be on the disk before its key.
                await self._bus.on_disk(KEYS)
                if key is None:
                    new, age_s = AESGCM.generate_key(KEY_BITS), 0.0
                    seq = (await self._bus.publish_stored(DATA_KEYS, new, os.urandom(8).hex())).seq
                    key = self._remember(seq, new)
                head = ENCRYPTED + seq.to_bytes(SEQ_BYTES, "big")
                self._current = _CurrentKey(head, key, asked_at + self._rotation_s - age_s)
            return self._current

    async def _key(self, seq: int) -> AESGCM | None:
        """A key by its number, or None for one that is erased."""
        if (known := self._cache.get(seq)) is not None:
            return known
        try:
            # The stream's leader answers, since a replica that lags behind would take a new key for an erased one.
            found = (await self._bus.api(f"STREAM.MSG.GET.{KEYS}", {"seq": seq}))["message"]
        except ApiError as error:
            if error.code == NOT_FOUND:
                return None
            raise BusUnavailable("the keys cannot be read") from error
        return self._remember(seq, base64.b64decode(found["data"]))

    def _remember(self, seq: int, key: bytes) -> AESGCM:
        self._cache[seq] = AESGCM(key)
        if len(self._cache) > CACHED_KEYS:
            self._cache.popitem(last=False)
        return self._cache[seq]


async def erase_keys(bus: "Bus", life_s: float) -> None:
    """Erases the keys that are older than `life_s`, for as long as the process runs; any number of processes may."""
    while True:
        try:
            await erase_old_keys(bus, life_s)
        except BusError:
            log.warning("keys_not_erased")
        await asyncio.sleep(ERASE_INTERVAL_S)


async def erase_old_keys(bus: "Bus", life_s: float) -> None:
    """Erases, once, the keys that are older than `life_s`; raises BusError."""
    while (info := await _info(bus))["state"]["messages"] and _age_s(info, "first_ts") >= life_s:
        if not await bus.delete_message(KEYS, info["state"]["first_seq"]):
            return


async def _info(bus: "Bus") -> dict[str, Any]:
    try:
        return await bus.api(f"STREAM.INFO.{KEYS}", {})
    except ApiError as error:
        raise BusUnavailable("the stream of keys is missing") from error


def _age_s(info: dict[str, Any], name: str) -> float:
    """How old a key is by the server's clock, which also stamped it."""
    now, stored = (datetime.fromisoformat(text) for text in (info["ts"], info["state"][name]))
    return max(0.0, (now - stored).total_seconds())

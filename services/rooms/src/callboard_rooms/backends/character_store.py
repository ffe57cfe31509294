"""Characters in their bucket, and the news of their changes."""

import logging

from callboard_contracts.characters import CharacterChanged
from callboard_contracts.streams import BUCKET_CHARACTERS
from callboard_contracts.subjects import CTL_CHARACTERS
from callboard_kit import bucket
from callboard_kit.bucket import Bucket
from callboard_kit.bus import Bus, BusError
from callboard_rooms.domain.ports import Conflict, StoreUnavailable

log = logging.getLogger(__name__)

MARKER_LIFE_S = 86_400
"""Longer than an edge takes to notice a deletion."""


class BucketCharacterStore:
    """Reads and changes the entries of the bucket; see `CharacterStore`."""

    def __init__(self, bus: Bus) -> None:
        self._bucket = Bucket(bus, BUCKET_CHARACTERS)

    async def load(self, entry: str) -> tuple[bytes | None, int]:
        """Reads an entry and its revision."""
        try:
            found = await self._bucket.get(entry, deleted=True)
        except BusError as error:
            raise StoreUnavailable("no answer in time") from error
        return (None, 0) if found is None else (None if found.deleted else found.value, found.revision)

    async def save(self, entry: str, data: bytes, revision: int | None) -> int:
        """Writes an entry."""
        try:
            return await self._bucket.put(entry, data, revision)
        except bucket.Conflict:
            raise Conflict(entry) from None
        except BusError as error:
            raise StoreUnavailable("no acknowledgement in time") from error

    async def delete(self, entry: str, revision: int | None) -> int:
        """Deletes an entry."""
        try:
            return await self._bucket.delete(entry, marker_life_s=MARKER_LIFE_S, revision=revision)
        except bucket.Conflict:
            raise Conflict(entry) from None
        except BusError as error:
            raise StoreUnavailable("no acknowledgement in time") from error


class BusCharacterNews:
    """Publishes changes; see `CharacterNews`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def changed(self, news: CharacterChanged) -> None:
        """Says that a character has changed."""
        try:
            await self._bus.publish(CTL_CHARACTERS, news.encoded())
        except BusError:
            log.debug("character_change_untold", extra={"character": news.name})

"""Keeps the edge's view of the characters current.

The rooms service says when it has changed one, and the edge reads that entry. What is written by compare-and-set cannot
be taken from the bucket's own subject, where refused writes pass too. The whole bucket is read at the start, after each
reconnection, and now and then, since news can be lost.
"""

import asyncio
import logging

from nats.aio.msg import Msg

from callboard_contracts.characters import Character, CharacterChanged, character_entry
from callboard_contracts.streams import BUCKET_CHARACTERS
from callboard_contracts.subjects import CTL_CHARACTERS
from callboard_edge.backends.record_watch import RecordWatch
from callboard_edge.domain.characters import Characters
from callboard_kit.bucket import Bucket, Entry
from callboard_kit.bus import Bus, BusError
from callboard_kit.lifecycle import is_set_within

log = logging.getLogger(__name__)

READ_INTERVAL_S = 30.0
RETRY_INTERVAL_S = 1.0
LAG_PAUSE_S = 0.2
"""How long a replica may need until it has what the news tell."""
_PREFIX = character_entry("")


class CharacterWatch(RecordWatch):
    """Fills `Characters` from the bus."""

    name = "character-watch"

    def __init__(self, bus: Bus, characters: Characters) -> None:
        super().__init__(bus, CTL_CHARACTERS)
        self._bucket = Bucket(bus, BUCKET_CHARACTERS)
        self._characters = characters
        self._changed: dict[str, int] = {}
        """The characters of which there are news, and their revisions."""
        self._read_all = True
        self._next_read = 0.0

    async def run(self) -> None:
        """Reads what has changed, for as long as the process runs."""
        while True:
            left_s = max(0.0, self._next_read - asyncio.get_running_loop().time())
            pause_s = RETRY_INTERVAL_S if self._read_all else LAG_PAUSE_S if self._changed else left_s
            await is_set_within(self.due, pause_s)
            self.due.clear()
            self._read_all = self._read_all or asyncio.get_running_loop().time() >= self._next_read
            await self.read()

    async def read(self) -> None:
        """Reads what has changed, or everything."""
        try:
            if self._read_all:
                await self._read_everything()
            for name, revision in list(self._changed.items()):
                await self._read_one(name, revision)
        except BusError as error:
            log.warning("characters_unread", extra={"reason": str(error)})

    async def _read_everything(self) -> None:
        known = {character.name: self._characters.revision(character.name) for character in self._characters}
        entries = await self._bucket.list(character_entry("*"))
        self._read_all = False
        self._next_read = asyncio.get_running_loop().time() + READ_INTERVAL_S
        present = {entry.key.removeprefix(_PREFIX) for entry in entries}
        # Of one that is gone for long no mark is left.
        self._changed = {name: revision for name, revision in self._changed.items() if name in present}
        for entry in entries:
            self._take(entry)
            known.pop(entry.key.removeprefix(_PREFIX), None)
        for name, revision in known.items():
            # One that was written while the bucket was read is at a later revision.
            self._characters.take(name, None, revision)

    async def _read_one(self, name: str, revision: int) -> None:
        entry = await self._bucket.get(character_entry(name), deleted=True)
        if entry is not None and entry.revision >= revision:
            self._changed.pop(name, None)
            self._take(entry)

    def _take(self, entry: Entry) -> None:
        name = entry.key.removeprefix(_PREFIX)
        try:
            character = None if entry.deleted else Character.model_validate_json(entry.value)
        except ValueError:
            log.warning("character_unreadable", extra={"character": name})
            return
        self._characters.take(name, character, entry.revision)

    async def heard(self, message: Msg) -> None:
        """Takes the news of one character."""
        try:
            news = CharacterChanged.model_validate_json(message.data)
        except ValueError:
            log.warning("character_news_malformed")
            return
        self._changed[news.name] = news.revision
        self.due.set()

    def reconnected(self) -> None:
        """Lets every character be read."""
        self._read_all = True
        super().reconnected()

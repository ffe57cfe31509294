"""Characters, as operators list, write, import, export and delete them; the rooms service makes the changes."""

import base64
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Literal, Protocol

from pydantic import ValidationError

from callboard_admin.character_cards import (
    Card,
    CardFormat,
    CardVersion,
    card_file,
    card_of,
    character_from,
    character_of,
    parse_card,
    read_card,
)
from callboard_admin.room_records import RoomRecords
from callboard_contracts.characters import (
    Character,
    CharacterReply,
    DeleteCharacter,
    PutCharacter,
    StoredCharacter,
    attachment_entry,
    character_entry,
    speaker_name,
)
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.rooms import Room
from callboard_contracts.streams import BUCKET_CHARACTERS
from callboard_kit.bucket import Bucket, Entry
from callboard_kit.bus import Bus
from callboard_kit.rooms_rpc import ask_characters

MAX_CHARACTERS = 100_000
KEPT_ELSEWHERE = frozenset({"version", "id", "card", "avatar", "created_at", "changed_at"})
"""What of a character's document is no setting."""


class CharacterBucket(Protocol):
    """The bucket that stores the characters."""

    async def get(self, key: str) -> Entry | None:
        """Reads one entry, or None."""
        ...

    async def list(self, pattern: str, limit: int) -> list[Entry]:
        """Reads the newest value of every entry that matches."""
        ...


class CharacterRecords:
    """Reads characters and changes them.

    Every method raises BusError when the bus fails, and CallboardError for what cannot be done.
    """

    def __init__(
        self,
        bucket: CharacterBucket,
        rooms: RoomRecords,
        ask: Callable[[PutCharacter | DeleteCharacter], Awaitable[CharacterReply]],
    ) -> None:
        self._bucket = bucket
        self._rooms = rooms
        self._ask = ask

    @classmethod
    def on(cls, bus: Bus) -> "CharacterRecords":
        """The characters of an installation."""

        async def ask(request: PutCharacter | DeleteCharacter) -> CharacterReply:
            return await ask_characters(bus, request)

        return cls(Bucket(bus, BUCKET_CHARACTERS), RoomRecords.on(bus), ask)

    async def all(self) -> list[StoredCharacter]:
        """Returns every character, by name."""
        found = map(_stored, await self._bucket.list(character_entry("*"), MAX_CHARACTERS))
        return sorted((one for one in found if one is not None), key=lambda one: one.character.name)

    async def find(self, name: str) -> StoredCharacter:
        """Finds a character by its name; raises CallboardError where there is none."""
        entry = await self._bucket.get(character_entry(name)) if _is_name(name) else None
        stored = None if entry is None else _stored(entry)
        if stored is None:
            raise CallboardError(ErrorCode.NOT_FOUND, "There is no character of that name.", param="name")
        return stored

    async def put(self, character: Character, revision: int | None = None, card: Card | None = None) -> StoredCharacter:
        """Writes a character, with the card that it was imported from; `revision` is as in `PutCharacter`."""
        text = avatar = None
        if card is not None:
            text, avatar = card.text(), base64.b64encode(card.avatar or b"").decode()
        request = PutCharacter(character=character, revision=revision, card=text, avatar=avatar)
        reply = await self._ask(request)
        assert reply.character is not None
        return StoredCharacter(reply.character, reply.revision)

    async def put_settings(self, name: str, settings: dict[str, Any], revision: int | None = None) -> StoredCharacter:
        """Writes a character by its settings; those that are left out are the defaults."""
        unknown = next(iter(KEPT_ELSEWHERE & settings.keys()), None)
        if unknown is not None:
            raise CallboardError(ErrorCode.INVALID_REQUEST, f"'{unknown}' cannot be set.", param=unknown)
        return await self.put(character_from({"display_name": name, **settings, "name": name}), revision)

    async def import_file(
        self, data: bytes, name: str | None, settings: dict[str, Any], *, replaces: bool = False
    ) -> tuple[StoredCharacter, bool]:
        """Writes a character by the file of its card, with some settings of the site's own over it.

        The second is whether a picture was too large to be kept.

        Raises:
            CallboardError: the file is no card; `conflict` where there is a character of that name that is not to be
                replaced.
        """
        card = read_card(data)
        imported = character_of(card, name)
        character = character_from({**imported.model_dump(exclude=set(KEPT_ELSEWHERE)), **settings})
        return await self.put(character, None if replaces else 0, card), card.avatar_dropped

    async def export_file(self, name: str, form: CardFormat, version: CardVersion | None = None) -> bytes:
        """A character as the file of a card."""
        character = (await self.find(name)).character
        text = await self._attachment("card", character)
        imported = None if text is None else parse_card(text)
        avatar = await self._attachment("avatar", character)
        return card_file(replace(card_of(character, imported, version), avatar=avatar), form)

    async def delete(self, name: str, revision: int | None = None) -> Character:
        """Deletes a character, and everything that it remembers of anybody."""
        await self.find(name)
        reply = await self._ask(DeleteCharacter(name=name, revision=revision))
        assert reply.character is not None
        await self._forget(reply.character, None)
        return reply.character

    async def forget(self, name: str, speaker: str | None = None) -> int:
        """Has a character forget a speaker, or all, of every tenant; returns how many memories that were."""
        return await self._forget((await self.find(name)).character, speaker)

    async def _forget(self, character: Character, speaker: str | None) -> int:
        own = [room for room in await self._rooms.all() if _remembers(room, character, speaker)]
        for room in own:
            await self._rooms.end(room)
        return len(own)

    async def _attachment(self, kind: Literal["card", "avatar"], character: Character) -> bytes | None:
        digest = getattr(character, kind)
        entry = await self._bucket.get(attachment_entry(kind, character.name, digest)) if digest else None
        return None if entry is None else entry.value


def settings_of(character: Character) -> dict[str, Any]:
    """The settings of a character, as they may be written again."""
    return character.model_dump(mode="json", exclude=set(KEPT_ELSEWHERE))


def _remembers(room: Room, character: Character, speaker: str | None) -> bool:
    if room.kind != "character":
        return False
    _tenant, _, rest = room.key.partition("/")
    owner, _, of = rest.partition("/")
    return owner == f"{character.name}.{character.id}" and (speaker is None or of == speaker_name(speaker))


def _is_name(text: str) -> bool:
    # Other characters have a meaning in the bucket's subjects.
    return text.isascii() and text.replace("-", "").replace("_", "").isalnum()


def _stored(entry: Entry) -> StoredCharacter | None:
    try:
        return StoredCharacter(Character.model_validate_json(entry.value), entry.revision)
    except ValidationError:
        return None

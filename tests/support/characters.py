"""Characters in memory, written by the rooms service's own code, and cards to import."""

import base64
import json
import struct
import zlib
from fnmatch import fnmatchcase
from typing import Any

from callboard_admin.character_records import CharacterRecords
from callboard_admin.room_records import RoomRecords
from callboard_contracts.characters import CharacterReply, DeleteCharacter, PutCharacter
from callboard_kit.bucket import Entry
from callboard_rooms.backends.memory import MemoryCharacterStore
from callboard_rooms.domain.characters import CharacterService

V2_DATA: dict[str, Any] = {
    "name": "Mira the Miller",
    "description": "{{char}} grinds corn. She knows {{user}}.",
    "personality": "gruff",
    "scenario": "In <USER>'s village.",
    "first_mes": "Hm? {{user}}!",
    "mes_example": "<START>\n{{user}}: Flour?\n{{char}}: By noon.",
    "creator_notes": "Best at low temperature.",
    "system_prompt": "Write as {{char}}. {{original}}",
    "post_history_instructions": "Stay brief.",
    "alternate_greetings": ["Yes?", "Closed."],
    "character_book": {"entries": [{"keys": ["mill"], "content": "Old.", "extensions": {}, "enabled": True}]},
    "tags": ["village"],
    "creator": "somebody",
    "character_version": "1.2",
    "extensions": {"depth_prompt": {"depth": 4}, "agnai/voice": None},
    "field_of_the_future": [1, {"a": 0.5}],
}
V2: dict[str, Any] = {"spec": "chara_card_v2", "spec_version": "2.0", "data": V2_DATA}
V3: dict[str, Any] = {
    "spec": "chara_card_v3",
    "spec_version": "3.0",
    "data": {
        **V2_DATA,
        "nickname": "Mira",
        "group_only_greetings": ["All of you?"],
        "creator_notes_multilingual": {"de": "Gut."},
        "assets": [{"type": "icon", "uri": "ccdefault:", "name": "main", "ext": "png"}],
        "creation_date": 1700000000,
    },
    "name": "Mira the Miller",
}
V1: dict[str, Any] = {
    field: V2_DATA[field] for field in ("name", "description", "personality", "scenario", "first_mes", "mes_example")
} | {"talkativeness": "0.5"}


class ServedCharacters:
    """A bucket of characters and the service that writes it."""

    def __init__(self, rooms: RoomRecords, models: tuple[str, ...] = ("owl", "wren")) -> None:
        self.store = MemoryCharacterStore()
        self._service = CharacterService(self.store, self.store, models, lambda: 1_000_000.0)
        self.records = CharacterRecords(self, rooms, self._ask)

    async def get(self, key: str) -> Entry | None:
        data, revision = self.store.entries.get(key, (None, 0))
        return None if data is None else Entry(key, data, revision)

    async def list(self, pattern: str, limit: int) -> list[Entry]:
        entries = [await self.get(key) for key in self.store.entries if fnmatchcase(key, pattern)]
        return [entry for entry in entries if entry is not None][:limit]

    async def _ask(self, request: PutCharacter | DeleteCharacter) -> CharacterReply:
        if isinstance(request, PutCharacter):
            return await self._service.put(request)
        return await self._service.delete(request)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def picture(*chunks: bytes, pixels: bytes = b"\0\xff") -> bytes:
    """A grey PNG of one pixel, with more chunks before its end."""
    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    image = chunk(b"IDAT", zlib.compress(pixels))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + image + chunk(b"IEND", b"")


def card_text(card: dict[str, Any], keyword: bytes = b"chara", kind: bytes = b"tEXt") -> bytes:
    """A card as a chunk."""
    text = base64.b64encode(json.dumps(card).encode())
    match kind:
        case b"zTXt":
            rest = b"\0" + zlib.compress(text)
        case b"iTXt":
            rest = b"\1\0\0\0" + zlib.compress(text)
        case _:
            rest = text
    return chunk(kind, keyword + b"\0" + rest)

"""Characters: written and deleted by compare-and-set, with what was imported beside them."""

import base64
import binascii
import json
from collections.abc import Callable, Collection
from typing import Literal

from callboard_contracts.characters import (
    MAX_CHARACTER_BYTES,
    Character,
    CharacterChanged,
    CharacterReply,
    DeleteCharacter,
    PutCharacter,
    attachment_digest,
    attachment_entry,
    character_entry,
    new_character_id,
)
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_rooms.domain.ports import CharacterNews, CharacterStore, Conflict

MAX_ATTEMPTS = 20


class CharacterService:
    """Changes characters; `models` are the site's chat models and their aliases.

    Every method raises StoreUnavailable when the bus does not answer in time; then it may have been done.
    """

    def __init__(
        self, store: CharacterStore, news: CharacterNews, models: Collection[str], now: Callable[[], float]
    ) -> None:
        self._store = store
        self._news = news
        self._models = models
        self._now = now

    async def put(self, request: PutCharacter) -> CharacterReply:
        """Writes a character, a new one or over one that is there, and keeps what was imported with it."""
        self._check_models(request.character)
        name = request.character.name
        for _ in range(MAX_ATTEMPTS):
            before, revision = await self._load(name, request.revision)
            changed = await self._with_attachments(request, before)
            if before is not None and _unchanged(before, changed):
                return CharacterReply(character=before, revision=revision)
            now = self._now()
            changed = changed.model_copy(
                update={
                    "id": before.id if before else new_character_id(),
                    "created_at": before.created_at if before else now,
                    "changed_at": now,
                }
            )
            document = changed.compact()
            if len(document) > MAX_CHARACTER_BYTES:
                raise CallboardError(
                    ErrorCode.BODY_TOO_LARGE, f"A character has at most {MAX_CHARACTER_BYTES} bytes.", param="character"
                )
            try:
                written = await self._store.save(character_entry(name), document, revision)
            except Conflict:
                continue
            await self._news.changed(CharacterChanged(name=name, revision=written))
            await self._drop_attachments(before, changed)
            return CharacterReply(character=changed, revision=written)
        raise _conflict()

    async def delete(self, request: DeleteCharacter) -> CharacterReply:
        """Deletes a character and what was imported with it; what it remembers is forgotten like any room."""
        for _ in range(MAX_ATTEMPTS):
            before, revision = await self._load(request.name, request.revision)
            if before is None:
                raise CallboardError(ErrorCode.NOT_FOUND, "There is no character of that name.", param="name")
            try:
                written = await self._store.delete(character_entry(request.name), revision)
            except Conflict:
                continue
            await self._news.changed(CharacterChanged(name=request.name, revision=written))
            await self._drop_attachments(before, None)
            return CharacterReply(character=before, revision=written)
        raise _conflict()

    async def _load(self, name: str, expected: int | None) -> tuple[Character | None, int]:
        """The character and its revision; raises CallboardError (`conflict`) where another one is expected."""
        stored, revision = await self._store.load(character_entry(name))
        if expected is not None and expected != (revision if stored else 0):
            raise _conflict()
        return (Character.model_validate_json(stored) if stored else None), revision

    def _check_models(self, character: Character) -> None:
        for param in ("model", "fallback_model"):
            model = getattr(character, param)
            if model is not None and model not in self._models:
                offered = tuple(self._models)
                raise CallboardError(
                    ErrorCode.UNKNOWN_MODEL,
                    f"There is no model of that name here. On offer: {', '.join(offered) or 'none'}.",
                    param=param,
                    offered=offered,
                )

    async def _with_attachments(self, request: PutCharacter, before: Character | None) -> Character:
        """The character with the digests of what is kept beside it, which is stored first."""
        kept: dict[str, str | None] = {}
        for kind, data in _attachments(request).items():
            digest = getattr(before, kind) if before else None
            if data is not None:
                digest = attachment_digest(data) if data else None
            if data and digest:
                await self._store.save(attachment_entry(kind, request.character.name, digest), data, None)
            kept[kind] = digest
        return request.character.model_copy(update=kept)

    async def _drop_attachments(self, before: Character | None, after: Character | None) -> None:
        kinds: tuple[Literal["card", "avatar"], ...] = ("card", "avatar")
        for kind in kinds:
            old, new = getattr(before, kind) if before else None, getattr(after, kind) if after else None
            if before is not None and old is not None and old != new:
                await self._store.delete(attachment_entry(kind, before.name, old), None)


def _attachments(request: PutCharacter) -> dict[Literal["card", "avatar"], bytes | None]:
    """What came with a character; an empty text takes away what was kept."""
    try:
        avatar = None if request.avatar is None else base64.b64decode(request.avatar, validate=True)
    except binascii.Error:
        raise CallboardError(ErrorCode.INVALID_REQUEST, "The picture is not valid base64.", param="avatar") from None
    if request.card:
        try:
            json.loads(request.card)
        except (ValueError, RecursionError):
            raise CallboardError(ErrorCode.INVALID_REQUEST, "The card is not valid JSON.", param="card") from None
    return {"card": None if request.card is None else request.card.encode(), "avatar": avatar}


def _unchanged(before: Character, after: Character) -> bool:
    ours = {"id": before.id, "created_at": before.created_at, "changed_at": before.changed_at}
    return after.model_copy(update=ours) == before


def _conflict() -> CallboardError:
    return CallboardError(
        ErrorCode.CONFLICT, "The character was changed by somebody else; read it again.", param="revision"
    )

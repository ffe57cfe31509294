"""Characters are written once and by compare-and-set, and what was imported with them goes and stays with them."""

import base64
from typing import Any

import pytest

from callboard_contracts.characters import Character, DeleteCharacter, PutCharacter, attachment_digest
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_rooms.backends.memory import MemoryCharacterStore
from callboard_rooms.domain.characters import CharacterService

pytestmark = pytest.mark.unit

NOW = 1_000_000.0


class Scene:
    """A service over characters in memory."""

    def __init__(self) -> None:
        self.store = MemoryCharacterStore()
        self.now = NOW
        self.service = CharacterService(self.store, self.store, ("owl", "wren"), lambda: self.now)

    async def put(self, name: str = "mira", revision: int | None = None, **fields: Any) -> Character:
        over = {key: fields.pop(key) for key in ("card", "avatar") if key in fields}
        character = Character.model_validate({"name": name, "display_name": "Mira", **fields})
        request = PutCharacter.model_validate({"character": character, "revision": revision, **over})
        reply = await self.service.put(request)
        assert reply.character is not None
        return reply.character

    def kept(self) -> set[str]:
        return {entry for entry, (data, _revision) in self.store.entries.items() if data is not None}


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_character_keeps_its_id_over_changes_and_a_new_one_has_another(scene: Scene) -> None:
    first = await scene.put(desc="miller")
    scene.now += 5
    changed = await scene.put(desc="baker")
    assert (changed.id, changed.created_at, changed.changed_at) == (first.id, NOW, NOW + 5)
    await scene.service.delete(DeleteCharacter(name="mira"))
    assert (await scene.put()).id != first.id
    assert [news.name for news in scene.store.told] == ["mira"] * 4


async def test_same_character_is_not_written_again(scene: Scene) -> None:
    first = await scene.put(desc="miller")
    scene.now += 5
    assert await scene.put(desc="miller") == first
    assert len(scene.store.told) == 1


async def test_change_of_another_revision_is_refused(scene: Scene) -> None:
    await scene.put(revision=0)
    for revision in (0, 7):
        with pytest.raises(CallboardError) as caught:
            await scene.put(revision=revision, desc="baker")
        assert caught.value.info.code is ErrorCode.CONFLICT
    await scene.put(revision=scene.store.entries["character.mira"][1], desc="baker")


async def test_change_between_reading_and_writing_is_seen(scene: Scene) -> None:
    first = await scene.put(desc="miller")

    def other(entry: str) -> None:
        scene.store.before_write = lambda _entry: None
        data, revision = scene.store.entries[entry]
        scene.store.entries[entry] = data, revision + 100

    scene.store.before_write = other
    assert (await scene.put(desc="baker")).id == first.id


async def test_unknown_models_are_refused_by_their_field(scene: Scene) -> None:
    for field in ("model", "fallback_model"):
        fields: dict[str, Any] = {field: "nobody"}
        with pytest.raises(CallboardError) as caught:
            await scene.put("mira", None, **fields)
        assert (caught.value.info.code, caught.value.info.param) == (ErrorCode.UNKNOWN_MODEL, field)
    assert (await scene.put(model="owl", fallback_model="wren")).model == "owl"


async def test_card_and_picture_are_kept_replaced_and_dropped(scene: Scene) -> None:
    picture = base64.b64encode(b"png").decode()
    first = await scene.put(card='{"a": 1}', avatar=picture)
    assert first.card == attachment_digest(b'{"a": 1}')
    assert scene.kept() == {"character.mira", f"card.mira.{first.card}", f"avatar.mira.{first.avatar}"}
    # A change that says nothing of them leaves them as they are.
    second = await scene.put(desc="baker")
    assert (second.card, second.avatar) == (first.card, first.avatar)
    third = await scene.put(card='{"a": 2}', avatar="")
    assert third.avatar is None
    assert scene.kept() == {"character.mira", f"card.mira.{third.card}"}
    await scene.service.delete(DeleteCharacter(name="mira"))
    assert scene.kept() == set()


async def test_what_is_no_card_and_no_picture_is_refused(scene: Scene) -> None:
    for field, value in (("card", "{"), ("card", "[" * 20_000), ("avatar", "not base64!")):
        fields: dict[str, Any] = {field: value}
        with pytest.raises(CallboardError) as caught:
            await scene.put("mira", None, **fields)
        assert (caught.value.info.code, caught.value.info.param) == (ErrorCode.INVALID_REQUEST, field)


async def test_deleting_what_is_not_there_is_told(scene: Scene) -> None:
    with pytest.raises(CallboardError) as caught:
        await scene.service.delete(DeleteCharacter(name="mira"))
    assert caught.value.info.code is ErrorCode.NOT_FOUND


async def test_document_that_is_too_large_is_refused(scene: Scene) -> None:
    with pytest.raises(CallboardError) as caught:
        await scene.put(greetings=["x" * 60_000] * 8)
    assert caught.value.info.code is ErrorCode.BODY_TOO_LARGE

"""Characters as operators write, import, export and delete them."""

import json

import pytest

from callboard_admin.character_records import settings_of
from callboard_admin.room_records import RoomRecords
from callboard_contracts.characters import Character, memory_key
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.rooms import Room, RoomReply, RoomRequest, room_id
from callboard_kit.fake_bucket import FakeBucket
from tests.support.characters import V2, V3, ServedCharacters, card_text, picture

pytestmark = pytest.mark.unit


class Site:
    """Characters, and the rooms in which they remember."""

    def __init__(self) -> None:
        self.rooms = FakeBucket()
        self.ended: list[str] = []
        self.characters = ServedCharacters(RoomRecords(self.rooms, self._end))
        self.records = self.characters.records

    async def _end(self, request: RoomRequest) -> RoomReply:
        self.ended.append(request.key)
        return RoomReply()

    def remembers(self, tenant: str, character: Character, speaker: str) -> str:
        key = memory_key(tenant, character, speaker)
        name = room_id("character", key)
        self.rooms.set(name, Room(id=name, kind="character", key=key, created_at=0, active_at=0).compact())
        return key


@pytest.fixture
def site() -> Site:
    return Site()


async def test_settings_are_written_shown_and_written_again(site: Site) -> None:
    first = await site.records.put_settings("mira", {"desc": "miller", "model": "owl", "words": {"Ada": "Ay-da"}})
    assert (await site.records.find("mira")) == first
    settings = settings_of(first.character)
    assert not {"id", "version", "card"} & settings.keys()
    assert await site.records.put_settings("mira", settings, first.revision) == first
    assert [one.character.name for one in await site.records.all()] == ["mira"]


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"memory": 5}, "memory"),
        ({"id": "x"}, "id"),
        ({"memory_messages": -1}, "memory_messages"),
        ({"words": {"a": "[b]"}}, "words.a"),
        ({"prompt_format": "none"}, "prompt_format"),
    ],
)
async def test_wrong_setting_is_refused_by_its_name(site: Site, settings: dict[str, object], param: str) -> None:
    with pytest.raises(CallboardError) as caught:
        await site.records.put_settings("mira", settings)
    assert caught.value.info.code is ErrorCode.INVALID_REQUEST
    assert (caught.value.info.param or "").startswith(param)


async def test_wrong_names_are_refused_and_not_found(site: Site) -> None:
    for name in ("", "Mira", "a.b", "*", "a/b", "x" * 65):
        with pytest.raises(CallboardError):
            await site.records.put_settings(name, {})
        with pytest.raises(CallboardError) as caught:
            await site.records.find(name)
        assert caught.value.info.code is ErrorCode.NOT_FOUND


async def test_card_is_imported_once_and_comes_out_again(site: Site) -> None:
    data = picture(card_text(V3, b"ccv3"))
    stored, dropped = await site.records.import_file(data, None, {"model": "owl"})
    assert (stored.character.name, stored.character.model, dropped) == ("mira-the-miller", "owl", False)
    with pytest.raises(CallboardError) as caught:
        await site.records.import_file(data, None, {})
    assert caught.value.info.code is ErrorCode.CONFLICT
    exported = json.loads(await site.records.export_file("mira-the-miller", "json"))
    assert exported["data"]["extensions"].pop("callboard") == {"model": "owl"}
    assert exported == V3
    again, _dropped = await site.records.import_file(
        await site.records.export_file("mira-the-miller", "png"), None, {}, replaces=True
    )
    assert settings_of(again.character) == settings_of(stored.character)
    assert again.character.avatar == stored.character.avatar
    # A card without a picture takes the old one away.
    await site.records.import_file(json.dumps(V2).encode(), "mira-the-miller", {}, replaces=True)
    with pytest.raises(CallboardError) as caught:
        await site.records.export_file("mira-the-miller", "png")
    assert caught.value.info.code is ErrorCode.NOT_FOUND


async def test_character_forgets_a_speaker_or_all_and_nobody_elses(site: Site) -> None:
    mira = (await site.records.put_settings("mira", {})).character
    mo = (await site.records.put_settings("mira-2", {})).character
    ada, bo, other = (site.remembers(*one) for one in (("t", mira, "Ada"), ("u", mira, "Bo"), ("t", mo, "Ada")))
    assert await site.records.forget("mira", " Ada ") == 1
    assert site.ended == [ada]
    await site.records.delete("mira")
    assert set(site.ended) == {ada, bo}
    assert other not in site.ended

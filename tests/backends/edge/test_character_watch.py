"""The edge sees characters come, change and go as the rooms service writes them, over a real nats-server."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from callboard_contracts.characters import Character, DeleteCharacter, PutCharacter, character_entry
from callboard_contracts.config import Config
from callboard_edge.backends import character_watch
from callboard_edge.backends.character_watch import CharacterWatch
from callboard_edge.domain.characters import Characters
from callboard_kit.bus import Bus
from callboard_kit.provisioning import apply_streams
from callboard_rooms.backends.character_store import BucketCharacterStore, BusCharacterNews
from callboard_rooms.domain.characters import CharacterService
from callboard_rooms.domain.ports import Conflict
from tests.backends.edge.watches import until, watching
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.backend


@pytest.fixture
async def server(tmp_path: Path) -> AsyncGenerator[NatsServer]:
    server = NatsServer(tmp_path / "nats")
    await asyncio.to_thread(server.start)
    yield server
    await asyncio.to_thread(server.stop)


@pytest.fixture
async def bus(server: NatsServer) -> AsyncGenerator[Bus]:
    config = Config.model_validate({"nats": {"url": server.url}})
    bus = await Bus.connect(config.nats, "test", lambda: None)
    await apply_streams(bus, config)
    yield bus
    await bus.close()


@pytest.fixture
async def characters(bus: Bus) -> AsyncGenerator[Characters]:
    """What an edge knows, whose watch runs."""
    found = Characters()
    async with watching(CharacterWatch(bus, found)):
        yield found


@pytest.fixture
def service(bus: Bus) -> CharacterService:
    return CharacterService(BucketCharacterStore(bus), BusCharacterNews(bus), (), lambda: 1.0)


def put(name: str, desc: str = "") -> PutCharacter:
    return PutCharacter(character=Character(name=name, display_name=name, desc=desc), card="{}")


def seen(characters: Characters) -> dict[str, str]:
    return {one.name: one.desc for one in characters}


async def test_characters_are_seen_as_they_are_written(service: CharacterService, characters: Characters) -> None:
    await service.put(put("mira"))
    await service.put(put("mo"))
    await until(lambda: seen(characters) == {"mira": "", "mo": ""})
    await service.put(put("mira", "miller"))
    await service.delete(DeleteCharacter(name="mo"))
    await until(lambda: seen(characters) == {"mira": "miller"})
    await service.put(put("mo", "again"))
    await until(lambda: seen(characters) == {"mira": "miller", "mo": "again"})


async def test_characters_that_were_there_before_are_read_at_the_start(bus: Bus, service: CharacterService) -> None:
    await service.put(put("mira"))
    await service.put(put("mo"))
    await service.delete(DeleteCharacter(name="mo"))
    found = Characters()
    watch = CharacterWatch(bus, found)
    await watch.start()
    assert seen(found) == {"mira": ""}
    await watch.close()


async def test_news_that_were_lost_are_made_up_for(
    monkeypatch: pytest.MonkeyPatch, bus: Bus, characters: Characters
) -> None:
    class Silent:
        async def changed(self, news: object) -> None:
            del news

    monkeypatch.setattr(character_watch, "READ_INTERVAL_S", 0.2)
    telling = CharacterService(BucketCharacterStore(bus), BusCharacterNews(bus), (), lambda: 1.0)
    silent = CharacterService(BucketCharacterStore(bus), Silent(), (), lambda: 1.0)
    await silent.put(put("mira"))
    # A reconnection reads all of it, and so does the passing of time from then on.
    for take in bus._on_reconnect:  # pyright: ignore[reportPrivateUsage]
        take()
    await until(lambda: seen(characters) == {"mira": ""})
    await silent.delete(DeleteCharacter(name="mira"))
    await telling.put(put("mo"))
    await until(lambda: seen(characters) == {"mo": ""})


async def test_store_keeps_to_revisions(bus: Bus) -> None:
    store, entry = BucketCharacterStore(bus), character_entry("mira")
    assert await store.load(entry) == (None, 0)
    first = await store.save(entry, b"1", 0)
    with pytest.raises(Conflict):
        await store.save(entry, b"2", 0)
    assert await store.load(entry) == (b"1", first)
    with pytest.raises(Conflict):
        await store.delete(entry, first + 7)
    mark = await store.delete(entry, first)
    assert await store.load(entry) == (None, mark)
    assert await store.save(entry, b"3", mark) > mark
    assert await store.save(entry, b"4", None) > mark

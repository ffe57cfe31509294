"""Callers' slots: over a real nats-server and in memory, with faults on the bus."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest

from callboard_contracts.config import Config, NatsSection
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.saves import PART_BYTES
from callboard_contracts.streams import SAVES
from callboard_edge.backends import saved_slots
from callboard_edge.backends.fake_saved_slots import FakeSavedSlots
from callboard_edge.backends.saved_slots import BusSavedSlots
from callboard_edge.domain.saved_slots import Save, SavedSlots, SavesFull
from callboard_kit.bus import Bus
from callboard_kit.provisioning import apply_streams
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.backend

MIB = 1024 * 1024
LIFE_S = 3600.0
CONFIG = Config.model_validate({"kobold": {"saves_max_mib": 16, "saves_life_s": LIFE_S}})


def story(word: str, size_bytes: int = 3 * PART_BYTES + 7) -> Save:
    """A save whose bytes tell which one it is at every place."""
    return Save(f"The {word}", "kcpp_lzma_b64", (word.encode() * (size_bytes // len(word) + 1))[:size_bytes])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def bus(server: NatsServer) -> AsyncGenerator[Bus]:
    bus = await Bus.connect(NatsSection(url=server.url), "test-slots", lambda: None)
    await apply_streams(bus, CONFIG)
    yield bus
    await bus.api(f"STREAM.PURGE.{SAVES}", {})
    await bus.close()


def on_bus(bus: Bus, max_bytes: int = 16 * MIB, ahead_s: float = 0.0) -> BusSavedSlots:
    """The slots on the bus, by a clock that may run ahead."""
    return BusSavedSlots(bus, max_bytes, LIFE_S, lambda: bus.clock.now() + ahead_s)


@pytest.fixture(params=["fake", "bus"])
def slots(request: pytest.FixtureRequest, bus: Bus) -> SavedSlots:
    return FakeSavedSlots(16 * MIB) if request.param == "fake" else on_bus(bus)


async def stored(bus: Bus) -> dict[str, Any]:
    """The subjects of the stream, with how many messages each has."""
    found = (await bus.api(f"STREAM.INFO.{SAVES}", {"subjects_filter": ">"}))["state"]
    return found.get("subjects") or {}


async def test_what_is_saved_is_loaded_replaced_and_erased_and_nobody_else_sees_it(slots: SavedSlots) -> None:
    assert (await slots.titles("ann"), await slots.load("ann", 3)) == ({}, None)
    await slots.save("ann", 3, story("owl"))
    await slots.save("bob", 3, story("wren"))
    assert await slots.titles("ann") == {3: "The owl"}
    assert await slots.load("ann", 3) == story("owl")
    await slots.save("ann", 3, story("finch", 5))
    assert await slots.load("ann", 3) == story("finch", 5)
    await slots.erase("ann", 3)
    assert (await slots.titles("ann"), await slots.load("ann", 3)) == ({}, None)
    assert await slots.load("bob", 3) == story("wren")


async def test_a_store_that_is_full_keeps_what_it_has_and_can_be_emptied(slots: SavedSlots) -> None:
    await slots.save("ann", 0, story("owl", 10 * MIB))
    with pytest.raises(SavesFull):
        await slots.save("bob", 0, story("wren", 10 * MIB))
    assert (await slots.titles("bob"), await slots.titles("ann")) == ({}, {0: "The owl"})
    await slots.erase("ann", 0)
    await slots.save("bob", 0, story("wren", 10 * MIB))
    assert await slots.load("bob", 0) == story("wren", 10 * MIB)


async def test_saves_at_once_leave_one_of_them_whole(bus: Bus) -> None:
    words = ("owl", "wren", "finch", "robin")
    await asyncio.gather(*(on_bus(bus).save("ann", 1, story(word, PART_BYTES * 2 + 9)) for word in words))
    found = await on_bus(bus).load("ann", 1)
    assert found in [story(word, PART_BYTES * 2 + 9) for word in words]
    # Nothing of the others is left.
    assert len(await stored(bus)) == 1 + 3


async def test_loads_beside_saves_see_one_or_the_other(bus: Bus) -> None:
    slots = on_bus(bus)
    await slots.save("ann", 1, story("owl"))
    both = [story("owl"), story("wren")]

    async def write() -> None:
        for number in range(6):
            await slots.save("ann", 1, both[number % 2])

    async with asyncio.TaskGroup() as group:
        writing = group.create_task(write())
        while not writing.done():
            assert await on_bus(bus).load("ann", 1) in both


async def test_an_edge_killed_in_the_middle_leaves_nothing_to_be_seen_and_the_next_save_removes_it(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = on_bus(bus)
    await slots.save("ann", 1, story("owl", 10))

    async def die(*_arguments: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patched:
        patched.setattr(BusSavedSlots, "_replace", die)
        with pytest.raises(asyncio.CancelledError):
            await slots.save("ann", 1, story("wren"))
    assert await slots.load("ann", 1) == story("owl", 10)
    assert len(await stored(bus)) == 1 + 1 + 4
    await slots.save("ann", 2, story("finch", 10))
    assert len(await stored(bus)) == 1 + 2 + 4, "it may still be being written"
    later = on_bus(bus, ahead_s=saved_slots.ABANDONED_S + 1)
    await later.save("ann", 2, story("robin", 10))
    assert len(await stored(bus)) == 1 + 2
    assert await slots.load("ann", 1) == story("owl", 10)


async def test_a_stream_that_takes_no_more_is_full_and_nothing_of_the_save_is_left(bus: Bus) -> None:
    """The room beyond the limit is for saves that are begun at the same time."""
    slots = on_bus(bus, max_bytes=1024 * MIB)
    for slot in range(7):
        await slots.save("ann", slot, story("owl", 10 * MIB))
    before = await stored(bus)
    with pytest.raises(SavesFull):
        await slots.save("ann", 8, story("wren", 20 * MIB))
    assert await stored(bus) == before
    assert list(await slots.titles("ann")) == list(range(7))
    await slots.erase("ann", 0)
    await slots.save("ann", 8, story("wren", 10))


async def test_a_slot_is_forgotten_after_its_life(bus: Bus) -> None:
    await on_bus(bus).save("ann", 1, story("owl", 10))
    late = on_bus(bus, ahead_s=LIFE_S + 1)
    assert (await late.titles("ann"), await late.load("ann", 1)) == ({}, None)
    await late.save("ann", 2, story("wren", 10))
    assert len(await stored(bus)) == 1 + 1


async def test_without_its_stream_it_is_an_error_of_the_catalogue(bus: Bus) -> None:
    slots = on_bus(bus)
    await bus.api(f"STREAM.DELETE.{SAVES}", {})
    try:
        for call in (
            slots.titles("ann"),
            slots.load("ann", 1),
            slots.save("ann", 1, story("owl")),
            slots.erase("ann", 1),
        ):
            with pytest.raises(CallboardError) as refused:
                await call
            assert refused.value.info.code is ErrorCode.BUS_UNAVAILABLE
    finally:
        await apply_streams(bus, CONFIG)

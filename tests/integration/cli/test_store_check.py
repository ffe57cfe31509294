"""A damaged store is found at the start, and what can be kept is kept."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from callboard_cli.up.store_check import StoreCheck
from callboard_contracts.config import Config, NatsSection
from callboard_contracts.streams import SETTLEMENT, USAGE
from callboard_kit.bus import Bus
from callboard_kit.provisioning import apply_streams
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.integration

MESSAGES = 40


@pytest.fixture
def server(tmp_path: Path) -> Generator[NatsServer]:
    server = NatsServer(tmp_path, sync="always")
    server.start()
    yield server
    server.kill()


@asynccontextmanager
async def checked(server: NatsServer) -> AsyncGenerator[tuple[Bus, StoreCheck]]:
    bus = await Bus.connect(NatsSection(url=server.url), "test", lambda: None)
    try:
        yield bus, StoreCheck(bus, Config(), server.folder)
    finally:
        await bus.close()


async def filled(server: NatsServer) -> None:
    """A store with usage events, of which a quarter is settled, and a record of it."""
    async with checked(server) as (bus, store):
        assert await store.find_losses() == []
        await apply_streams(bus, Config())
        for number in range(MESSAGES):
            await bus.publish_stored("usage.someone", b"x" * 400, f"id-{number}")
        settled = await bus.connection.jetstream().pull_subscribe_bind(SETTLEMENT, USAGE)
        for message in await settled.fetch(MESSAGES // 4):
            await message.ack_sync()
        await settled.unsubscribe()
        await store.record()


async def again(server: NatsServer, end: Callable[[], None], between: Callable[[], object] = lambda: None) -> None:
    """Ends the server, does something to its store, and starts it on that."""

    def work() -> None:
        end()
        between()
        # Otherwise a stream that could not be read makes the server unhealthy.
        server.health = "healthz?js-enabled-only=true"
        server.start()

    await asyncio.to_thread(work)


def usage_folder(server: NatsServer) -> Path:
    return server.folder / "store" / "jetstream" / "$G" / "streams" / USAGE


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def block(server: NatsServer) -> Path:
    return usage_folder(server) / "msgs" / "1.blk"


DAMAGES: dict[str, tuple[Callable[[NatsServer], None], str]] = {
    "block cut": (lambda server: cut(block(server)), "the stream USAGE has lost 20 of its 40 messages"),
    "block emptied": (lambda server: os.truncate(block(server), 0), "the stream USAGE has lost 40 of its 40 messages"),
    "block gone": (lambda server: block(server).unlink(), "the stream USAGE has lost 40 of its 40 messages"),
}


@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.parametrize(("damage", "loss"), DAMAGES.values(), ids=DAMAGES)
async def test_lost_messages_are_counted(
    server: NatsServer, damage: Callable[[NatsServer], None], loss: str, end: str
) -> None:
    await filled(server)
    await again(server, server.stop if end == "stop" else server.kill, lambda: damage(server))
    async with checked(server) as (_, store):
        assert await store.find_losses() == [loss]


async def test_a_stream_whose_description_is_damaged_keeps_its_messages_and_what_is_settled(server: NatsServer) -> None:
    await filled(server)
    await again(server, server.stop, lambda: (usage_folder(server) / "meta.inf").write_bytes(b"{"))
    async with checked(server) as (bus, store):
        expected = "the description of the stream USAGE could not be read and is made anew"
        assert await store.find_losses() == [expected]
        await apply_streams(bus, Config())
    await again(server, server.stop)
    async with checked(server) as (bus, store):
        assert await store.find_losses() == []
        consumer = await bus.api(f"CONSUMER.INFO.{USAGE}.{SETTLEMENT}", {})
        assert consumer["ack_floor"]["stream_seq"] == MESSAGES // 4
        assert (await bus.api(f"STREAM.INFO.{USAGE}", {}))["state"]["messages"] == MESSAGES


async def test_a_whole_store_has_no_losses_whatever_was_deleted_or_written_since(server: NatsServer) -> None:
    await filled(server)
    async with checked(server) as (bus, store):
        for number in range(5):
            await bus.publish_stored("usage.someone", b"later", f"later-{number}")
        job = await bus.publish_stored("job.chat.local.live.someone", b"job", "job")
        await store.record()
        await bus.delete_message("CHAT", job.seq)
    await again(server, server.kill)
    async with checked(server) as (_, store):
        assert await store.find_losses() == []


async def test_a_stream_that_is_gone_is_named(server: NatsServer) -> None:
    await filled(server)
    await again(server, server.stop, lambda: usage_folder(server).rename(server.folder / "elsewhere"))
    async with checked(server) as (_, store):
        assert await store.find_losses() == ["the stream USAGE is missing, which had 40 messages"]

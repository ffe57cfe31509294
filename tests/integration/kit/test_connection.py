"""The short cuts of the connection, on a real server."""

import asyncio
import logging
import os
import signal
from collections.abc import Sequence

import pytest
from nats.aio.msg import Msg

from callboard_kit.bus import Bus, BusUnavailable, NoResponders
from callboard_kit.connection import MAX_UNSENT_BYTES
from callboard_kit.lifecycle import is_set_within
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.integration

MANY = 300


async def until_equal(found: Sequence[bytes | None], wanted: Sequence[bytes | None]) -> None:
    async with asyncio.timeout(10):
        while len(found) < len(wanted):
            await asyncio.sleep(0.01)
    assert found == wanted


async def test_messages_come_in_order_with_their_headers(bus: Bus) -> None:
    found: list[Msg] = []
    await bus.subscribe_now("test.order", found.append)
    for n in range(MANY):
        await bus.publish("test.order", b"%d" % n, {"Number": str(n)} if n % 2 else None, reply="test.answer")
    async with asyncio.timeout(10):
        while len(found) < MANY:
            await asyncio.sleep(0.01)
    assert [int(message.data) for message in found] == list(range(MANY))
    assert [message.headers for message in found[:3]] == [None, {"Number": "1"}, None]
    assert found[0].reply == "test.answer"


async def test_a_failing_receiver_is_logged_and_the_rest_still_comes(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    found: list[bytes] = []

    def receive(message: Msg) -> None:
        if message.data == b"bad":
            raise ValueError
        found.append(message.data)

    await bus.subscribe_now("test.fails", receive)
    with caplog.at_level(logging.ERROR):
        for data in (b"one", b"bad", b"two"):
            await bus.publish("test.fails", data)
        await until_equal(found, [b"one", b"two"])
    assert [record.message for record in caplog.records] == ["message_failed"]


async def test_a_queue_shares_and_an_ended_subscription_gets_nothing(bus: Bus) -> None:
    first: list[bytes] = []
    second: list[bytes] = []
    one = await bus.subscribe_now("test.queue", lambda message: first.append(message.data), "workers")
    await bus.subscribe_now("test.queue", lambda message: second.append(message.data), "workers")
    for n in range(MANY):
        await bus.publish("test.queue", b"%d" % n)
    async with asyncio.timeout(10):
        while len(first) + len(second) < MANY:
            await asyncio.sleep(0.01)
    assert len(first) + len(second) == MANY
    assert first
    assert second
    await bus.unsubscribe(one)
    before = len(first)
    await bus.publish("test.queue", b"last")
    async with asyncio.timeout(10):
        while b"last" not in second:
            await asyncio.sleep(0.01)
    assert len(first) == before


async def test_many_requests_at_once_each_get_their_own_answer(bus: Bus) -> None:
    async def echo(message: Msg) -> None:
        await bus.publish(message.reply, message.data)

    subscription = await bus.subscribe("test.echo", echo)
    asked = [b"%d" % n for n in range(MANY)]
    assert await asyncio.gather(*(bus.request("test.echo", data, 10) for data in asked)) == asked
    await bus.unsubscribe(subscription)


async def test_an_answer_after_the_timeout_is_handed_over_once_and_one_after_that_is_dropped(bus: Bus) -> None:
    asked: list[Msg] = []
    late: list[bytes] = []
    await bus.subscribe_now("test.slow", asked.append)
    with pytest.raises(BusUnavailable):
        await bus.request("test.slow", b"", 0.1, late.append, late_s=5)
    with pytest.raises(BusUnavailable):
        await bus.request("test.slow", b"", 0.1, late.append, late_s=0.05)
    await asyncio.sleep(0.2)
    for message in (asked[1], asked[0], asked[0]):
        await bus.publish(message.reply, b"granted")
    assert await bus.connection.rtt(5) > 0
    await until_equal(late, [b"granted"])


async def test_whoever_works_on_an_answer_puts_the_timeout_off_and_only_up_to_a_bound(bus: Bus) -> None:
    stop = asyncio.Event()

    async def work(reply: str, beats: int) -> None:
        for _ in range(beats):
            await bus.publish(reply)
            if await is_set_within(stop, 0.1):
                return
        await bus.publish(reply, b"done")

    working: list[asyncio.Future[None]] = []
    beats = 10
    await bus.subscribe_now("test.work", lambda asked: working.append(asyncio.ensure_future(work(asked.reply, beats))))
    assert await bus.request("test.work", b"", 0.5, wait_s=20) == b"done"
    beats = 1000
    late: list[bytes] = []
    with pytest.raises(BusUnavailable):
        await bus.request("test.work", b"", 0.5, late.append, late_s=5, wait_s=1.0)
    stop.set()
    await asyncio.gather(*working)
    assert late == []


async def test_a_request_that_no_task_waits_for_ends_with_its_answer_or_without_one(bus: Bus) -> None:
    ended: list[bytes | None] = []
    asked: list[Msg] = []
    with pytest.raises(NoResponders):
        await bus.request("test.later", b"", 5)
    bus.request_later("test.later", b"first", ended.append, 5)
    # Whom nobody hears is told so.
    await until_equal(ended, [b""])
    await bus.subscribe_now("test.later", asked.append)
    bus.request_later("test.later", b"second", ended.append, 5)
    bus.request_later("test.later", b"third", ended.append, 0.2)
    await until_equal(ended, [b"", None])
    assert [message.data for message in asked] == [b"second", b"third"]
    for message in (asked[0], asked[0], asked[1]):
        await bus.publish(message.reply, b"granted")
    await until_equal(ended, [b"", None, b"granted"])
    assert await bus.connection.rtt(5) > 0
    assert ended == [b"", None, b"granted"]
    assert bus.connection._resp_map == {}  # pyright: ignore[reportPrivateUsage] - what would grow without end


async def test_an_empty_answer_is_one_where_no_heartbeats_are_expected(bus: Bus) -> None:
    async def answer(asked: Msg) -> None:
        await bus.publish(asked.reply)

    subscription = await bus.subscribe("test.empty", answer)
    assert await bus.request("test.empty", b"", 5) == b""
    await bus.unsubscribe(subscription)


async def test_a_request_that_nobody_hears_fails_at_once_and_leaves_nothing_behind(bus: Bus) -> None:
    late: list[bytes] = []
    with pytest.raises(NoResponders):
        await bus.request("test.nobody", b"", 5, late.append, late_s=5)
    assert late == []
    assert bus.connection._resp_map == {}  # pyright: ignore[reportPrivateUsage] - what would grow without end


async def test_a_cancelled_request_leaves_nothing_behind(bus: Bus) -> None:
    await bus.subscribe_now("test.silent", lambda _message: None)
    asking = asyncio.ensure_future(bus.request("test.silent", b"", 5))
    await asyncio.sleep(0.05)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert bus.connection._resp_map == {}  # pyright: ignore[reportPrivateUsage] - what would grow without end


async def test_what_is_published_goes_out_in_order_together_or_at_once(bus: Bus) -> None:
    found: list[bytes] = []
    await bus.subscribe_now("test.mixed", lambda message: found.append(message.data))
    for n in range(MANY):
        # A header with a line break is for the client itself, which sends through a task of its own.
        headers = {"Note": "two\nlines"} if n % 7 == 0 else {"Note": "one"} if n % 3 == 0 else None
        await bus.publish("test.mixed", b"%d" % n, headers)
    await until_equal(found, [b"%d" % n for n in range(MANY)])
    assert await bus.connection.rtt(5) > 0
    waiting = bus.connection.pending_data_size
    await bus.publish("test.mixed", b"later")
    assert bus.connection.pending_data_size > waiting
    await bus.publish("test.mixed", b"now", flush=True)
    assert bus.connection.pending_data_size == 0


@pytest.mark.parametrize("subject", ["", "two words", "a\r\nPUB b 0", "tab\there"])
async def test_what_is_no_subject_is_refused_and_nothing_goes_out(bus: Bus, subject: str) -> None:
    everything: list[Msg] = []
    await bus.subscribe_now(">", everything.append)
    with pytest.raises(BusUnavailable, match="BadSubjectError"):
        await bus.publish(subject, b"x")
    assert await bus.connection.rtt(5) > 0
    assert everything == []


async def test_a_message_over_the_servers_limit_is_refused(bus: Bus) -> None:
    with pytest.raises(BusUnavailable, match="MaxPayloadError"):
        await bus.publish("test.large", b"x" * (bus.connection.max_payload + 1))


@pytest.mark.parametrize("headers", [None, {"Note": "short"}, {"Note": "two\nlines"}])
async def test_a_message_is_too_large_by_what_the_server_counts_and_the_connection_stays(
    bus: Bus, headers: dict[str, str] | None
) -> None:
    found: list[bytes] = []
    await bus.subscribe_now("test.limit", lambda message: found.append(b"%d" % len(message.data)))
    most = bus.connection.max_payload
    block_bytes = len("NATS/1.0\r\n\r\n") + sum(len(f"{name}: {value}\r\n") for name, value in (headers or {}).items())
    room = most - (block_bytes if headers else 0)
    await bus.publish("test.limit", b"x" * room, headers)
    for too_large in (room + 1, most, most + 1):
        if too_large > room:
            with pytest.raises(BusUnavailable, match="MaxPayloadError"):
                await bus.publish("test.limit", b"x" * too_large, headers)
    await bus.publish("test.limit", b"after")
    await until_equal(found, [b"%d" % room, b"5"])


async def test_a_server_that_does_not_read_fills_the_clients_bounded_buffer_and_nothing_is_lost(
    bus: Bus, server: NatsServer
) -> None:
    part, parts = b"x" * 256 * 1024, 48
    found: list[bytes] = []
    await bus.subscribe_now("test.flood", lambda message: found.append(message.data[:2]))
    assert await bus.connection.rtt(5) > 0
    assert server.child is not None
    os.kill(server.child.pid, signal.SIGSTOP)
    try:
        for n in range(parts):
            await bus.publish("test.flood", b"%02d" % n + part)
            await asyncio.sleep(0)
        assert bus.connection._unsent_bytes() < MAX_UNSENT_BYTES + 2 * len(part)  # pyright: ignore[reportPrivateUsage]
        assert bus.connection.pending_data_size > MAX_UNSENT_BYTES
    finally:
        os.kill(server.child.pid, signal.SIGCONT)
    await until_equal(found, [b"%02d" % n for n in range(parts)])

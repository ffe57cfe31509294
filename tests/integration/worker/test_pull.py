import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from callboard_contracts import subjects
from callboard_contracts.headers import MESSAGE_TTL
from callboard_contracts.jobs import DeadLetter
from callboard_contracts.streams import DEAD_PAYLOAD_LIFE_S, DLQ, MAX_DELIVERIES
from callboard_kit.bus import Bus, BusUnavailable
from callboard_kit.lifecycle import Shutdown
from callboard_kit.stream_reads import read_last
from callboard_worker import dead_letters, pull
from callboard_worker.dead_letters import DeadLetters
from callboard_worker.pull import Delivery, Nak, PullLoop, Superseded
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.integration

LIVE = "job.chat.main.live.tenant"
BATCH = "job.chat.main.batch.tenant"


@asynccontextmanager
async def pulling(
    bus: Bus,
    handle: Callable[[Delivery], Awaitable[None]],
    slots: int = 1,
    drain_s: float = 5.0,
    room: Callable[[], int] | None = None,
) -> AsyncGenerator[PullLoop]:
    loop = PullLoop(bus, "CHAT", "chat-main-live", "chat-main-batch", slots, handle, room=room)
    shutdown = Shutdown()
    running = asyncio.ensure_future(loop.run(shutdown.wait))
    try:
        yield loop
    finally:
        shutdown.request_stop("end of test")
        await running
        await loop.drain(drain_s)


async def eventually(condition: Callable[[], bool], timeout_s: float = 15.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def left_in_queue(bus: Bus) -> int:
    # A report on a job takes effect a moment after it was sent.
    await asyncio.sleep(0.2)
    state = (await bus.api("STREAM.INFO.CHAT", {}))["state"]
    count: int = state["messages"]
    return count


async def test_job_is_handled_once_and_leaves_the_queue(bus: Bus) -> None:
    seen: list[tuple[bytes, int]] = []

    async def handle(delivery: Delivery) -> None:
        seen.append((delivery.data, delivery.attempt))

    async with pulling(bus, handle):
        await bus.publish_stored(LIVE, b"one", "one")
        await bus.publish_stored(BATCH, b"two", "two")
        await eventually(lambda: len(seen) == 2)
    assert sorted(seen) == [(b"one", 1), (b"two", 1)]
    assert await left_in_queue(bus) == 0


async def test_no_more_jobs_run_than_there_are_slots(bus: Bus) -> None:
    running, most, done = 0, 0, 0

    async def handle(_delivery: Delivery) -> None:
        nonlocal running, most, done
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= 1
        done += 1

    for number in range(4):
        await bus.publish_stored(LIVE, b"live", f"live{number}")
        await bus.publish_stored(BATCH, b"batch", f"batch{number}")
    async with pulling(bus, handle, slots=2):
        await eventually(lambda: done == 8)
    assert most == 2
    assert await left_in_queue(bus) == 0


async def test_one_pull_asks_for_many_jobs_and_what_it_leaves_open_is_asked_for_again(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "PULL_LIFE_S", 0.4)
    slots = 8
    attempts: list[int] = []
    gate = asyncio.Event()

    async def handle(delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        await gate.wait()

    async with pulling(bus, handle, slots=slots) as loop:
        for number in range(3):
            await bus.publish_stored(f"{LIVE}{number}", b"live", f"live{number}")
        await eventually(lambda: loop.running == 3)
        # The pulls that were filled in part end, and further ones follow.
        await asyncio.sleep(1.0)
        for number in range(3, slots + 2):
            await bus.publish_stored(f"{LIVE}{number}", b"live", f"live{number}")
        await eventually(lambda: loop.running == slots)
        await asyncio.sleep(0.5)
        assert attempts == [1] * slots
        gate.set()
        await eventually(lambda: len(attempts) == slots + 2)
    assert attempts == [1] * (slots + 2)


async def test_jobs_of_a_worker_with_many_slots_take_few_pulls(bus: Bus) -> None:
    jobs = 64
    done = 0

    async def handle(_delivery: Delivery) -> None:
        nonlocal done
        done += 1

    async with pulling(bus, handle, slots=64):
        await asyncio.sleep(0.2)
        pulls: list[str] = []
        watch = await bus.subscribe_now(
            "$JS.API.CONSUMER.MSG.NEXT.CHAT.chat-main-live", lambda one: pulls.append(one.reply)
        )
        for number in range(jobs):
            await bus.publish_stored(f"{LIVE}{number}", b"live", f"live{number}")
        await eventually(lambda: done == jobs)
        await bus.unsubscribe(watch)
        assert len(set(pulls)) <= 2
        assert len(pulls) < jobs / 4


async def test_no_more_jobs_are_taken_than_are_welcome(bus: Bus) -> None:
    room, gate = 1, asyncio.Event()
    seen: list[bytes] = []

    async def handle(delivery: Delivery) -> None:
        nonlocal room
        seen.append(delivery.data)
        room = 0
        await gate.wait()

    for number in range(3):
        await bus.publish_stored(LIVE, b"live%d" % number, f"live{number}")
    async with pulling(bus, handle, slots=8, room=lambda: room):
        await eventually(lambda: len(seen) == 1)
        room = 1
        await eventually(lambda: len(seen) == 2)
        gate.set()
        room = 8
        await eventually(lambda: len(seen) == 3)
    assert seen == [b"live0", b"live1", b"live2"]


async def test_live_jobs_overtake_waiting_batch_jobs(bus: Bus) -> None:
    order: list[bytes] = []

    async def handle(delivery: Delivery) -> None:
        order.append(delivery.data)
        await asyncio.sleep(0.05)

    for number in range(4):
        await bus.publish_stored(BATCH, b"batch", f"batch{number}")
    for number in range(4):
        await bus.publish_stored(LIVE, b"live", f"live{number}")
    async with pulling(bus, handle):
        await eventually(lambda: len(order) == 8)
    assert order == [b"live"] * 4 + [b"batch"] * 4


async def test_consumer_that_is_gone_is_asked_for_now_and_then_until_it_is_back(bus: Bus) -> None:
    seen: list[bytes] = []

    async def handle(delivery: Delivery) -> None:
        seen.append(delivery.data)

    names = ("chat-main-live", "chat-main-batch")
    known = [(await bus.api(f"CONSUMER.INFO.CHAT.{name}", {}))["config"] for name in names]
    async with pulling(bus, handle, slots=4):
        await asyncio.sleep(0.2)
        for name in names:
            await bus.api(f"CONSUMER.DELETE.CHAT.{name}", {})
        sent = bus.connection.stats["out_msgs"]
        await asyncio.sleep(1.5)
        # Seven rounds of at most five pulls.
        assert 0 < bus.connection.stats["out_msgs"] - sent <= 40
        for name, config in zip(names, known, strict=True):
            await bus.api(f"CONSUMER.CREATE.CHAT.{name}", {"stream_name": "CHAT", "config": config})
        await bus.publish_stored(LIVE, b"one", "one")
        await eventually(lambda: seen == [b"one"], 5)


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("name", ["chat-main-live", "chat-main-batch"])
async def test_loop_is_not_served_for_as_long_as_one_consumer_is_missing(bus: Bus, name: str, slots: int) -> None:
    config = (await bus.api(f"CONSUMER.INFO.CHAT.{name}", {}))["config"]
    changes: list[bool] = []

    async def handle(_delivery: Delivery) -> None:
        raise AssertionError

    names = ("chat-main-live", "chat-main-batch")
    loop = PullLoop(bus, "CHAT", *names, slots, handle, on_change=lambda: changes.append(loop.served))
    shutdown = Shutdown()
    running = asyncio.ensure_future(loop.run(shutdown.wait))
    try:
        await bus.api(f"CONSUMER.DELETE.CHAT.{name}", {})
        await eventually(lambda: not loop.served)
        # The pulls of the other consumer go on, and say nothing of this one.
        await asyncio.sleep(1.0)
        assert changes == [False]
        await bus.api(f"CONSUMER.CREATE.CHAT.{name}", {"stream_name": "CHAT", "config": config})
        await eventually(lambda: changes == [False, True])
    finally:
        shutdown.request_stop("end of test")
        await running
    assert await left_in_queue(bus) == 0


async def test_live_job_is_never_handed_to_a_worker_that_batch_jobs_fill(bus: Bus) -> None:
    slots = 6
    attempts: list[int] = []
    filled = asyncio.Semaphore(0)
    let = asyncio.Event()

    async def handle(delivery: Delivery) -> None:
        if delivery.data == b"live":
            attempts.append(delivery.attempt)
            return
        filled.release()
        await let.wait()

    async with pulling(bus, handle, slots=slots):
        await asyncio.sleep(0.2)
        for n in range(slots):
            await bus.publish_stored(f"job.chat.main.batch.tenant{n}", b"batch", f"batch{n}")
        for _ in range(slots):
            await asyncio.wait_for(filled.acquire(), 10)
        await asyncio.sleep(0.2)
        await bus.publish_stored(LIVE, b"live", "live")
        await asyncio.sleep(1.0)
        assert attempts == []
        let.set()
        await eventually(lambda: bool(attempts), 5)
    assert attempts == [1]
    assert await left_in_queue(bus) == 0


async def test_job_that_raises_is_tried_again_later(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "ERROR_DELAY_S", 0.05)
    attempts: list[int] = []

    async def handle(delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if delivery.attempt == 1:
            raise ValueError

    async with pulling(bus, handle):
        await bus.publish_stored(LIVE, b"one", "one")
        await eventually(lambda: len(attempts) == 2)
    assert attempts == [1, 2]
    assert await left_in_queue(bus) == 0


async def test_job_given_back_comes_to_another_worker(bus: Bus) -> None:
    attempts: list[int] = []

    async def handle(delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if delivery.attempt < 3:
            raise Nak(0.02)

    async with pulling(bus, handle):
        await bus.publish_stored(LIVE, b"one", "one")
        await eventually(lambda: len(attempts) == 3)
    assert attempts == [1, 2, 3]


async def test_superseded_job_is_neither_acknowledged_nor_given_back(bus: Bus) -> None:
    attempts: list[int] = []

    async def handle(delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        raise Superseded

    async with pulling(bus, handle):
        await bus.publish_stored(LIVE, b"one", "one")
        await eventually(lambda: len(attempts) == 1)
        await asyncio.sleep(0.3)
    assert attempts == [1]
    assert await left_in_queue(bus) == 1


async def test_running_job_is_given_back_when_the_drain_runs_out(bus: Bus) -> None:
    attempts: list[int] = []

    async def lasts(delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        await asyncio.sleep(60)

    async with pulling(bus, lasts, drain_s=0.1):
        await bus.publish_stored(LIVE, b"one", "one")
        await eventually(lambda: attempts == [1])

    async def handle(delivery: Delivery) -> None:
        attempts.append(delivery.attempt)

    async with pulling(bus, handle):
        await eventually(lambda: len(attempts) == 2, timeout_s=15)
    assert attempts == [1, 2]
    assert await left_in_queue(bus) == 0


async def test_drain_waits_for_what_runs_and_takes_nothing_new(bus: Bus) -> None:
    seen: list[bytes] = []

    async def handle(delivery: Delivery) -> None:
        await asyncio.sleep(0.3)
        seen.append(delivery.data)

    async with pulling(bus, handle) as loop:
        await bus.publish_stored(LIVE, b"one", "one")
        await eventually(lambda: loop.running == 1)
        await bus.publish_stored(LIVE, b"two", "two")
    assert seen == [b"one"]
    assert await left_in_queue(bus) == 1


async def test_long_job_is_not_delivered_twice(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "HEARTBEAT_S", 0.3)
    config = (await bus.api("CONSUMER.INFO.CHAT.chat-main-live", {}))["config"]
    body = {"stream_name": "CHAT", "config": {**config, "ack_wait": 1_000_000_000}}
    await bus.api("CONSUMER.CREATE.CHAT.chat-main-live.job.chat.main.live.*", body)
    attempts: list[int] = []

    async def handle(delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        await asyncio.sleep(3)

    async with pulling(bus, handle, slots=2):
        await bus.publish_stored(LIVE, b"one", "one")
        await eventually(lambda: len(attempts) == 1)
        await asyncio.sleep(2.5)
    assert attempts == [1]


async def test_jobs_are_taken_again_after_the_server_was_killed(bus: Bus, server: NatsServer) -> None:
    seen: list[bytes] = []

    async def handle(delivery: Delivery) -> None:
        seen.append(delivery.data)

    async with pulling(bus, handle):
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await bus.publish_stored(LIVE, b"after", "after", timeout_s=10)
        await eventually(lambda: len(seen) == 1)
    assert seen == [b"after"]
    assert await left_in_queue(bus) == 0
    await bus.close()


async def test_dead_job_whose_answer_fails_is_answered_later_or_by_the_next_process(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "RETRY_PAUSES_S", (0.05, 0.05))
    tries: list[bytes] = []
    answered: list[bytes] = []

    async def handle(_delivery: Delivery) -> None:
        raise Nak(0.01)

    async def on_dead(data: bytes) -> None:
        tries.append(data)
        if data == b"late" and tries.count(data) < 3:
            raise ExceptionGroup("usage", [BusUnavailable("no acknowledgement")])
        if data == b"never":
            raise ValueError
        answered.append(data)

    queue_dead_letters = DeadLetters(bus, "CHAT", on_dead)
    await queue_dead_letters.start()
    async with pulling(bus, handle):
        for number, job in enumerate((b"late", b"never")):
            await bus.publish_stored(f"{LIVE}{number}", job, job.decode())
        await eventually(lambda: (tries.count(b"late"), tries.count(b"never")) == (3, 3))
        await eventually(lambda: answered == [b"late"])
    await queue_dead_letters.close()
    assert await left_in_queue(bus) == 1

    async def succeed(data: bytes) -> None:
        answered.append(data)

    following = DeadLetters(bus, "CHAT", succeed)
    await following.recover()
    assert answered == [b"late", b"never"]
    assert await left_in_queue(bus) == 0


async def test_job_that_used_up_its_deliveries_is_answered_copied_and_removed(bus: Bus) -> None:
    answered: list[bytes] = []

    async def handle(_delivery: Delivery) -> None:
        raise Nak(0.01)

    async def on_dead(data: bytes) -> None:
        answered.append(data)

    queue_dead_letters = DeadLetters(bus, "CHAT", on_dead)
    await queue_dead_letters.start()
    async with pulling(bus, handle):
        await bus.publish_stored(LIVE, b"the client's words", "poison")
        await eventually(lambda: answered == [b"the client's words"])
        async with asyncio.timeout(20):
            while await left_in_queue(bus):
                await asyncio.sleep(0.02)
    await queue_dead_letters.close()
    letter = await read_last(bus, "DLQ", "dlq.chat")
    assert letter is not None
    note = DeadLetter.model_validate_json(letter.data)
    assert (note.request_id, note.stream, note.subject, note.deliveries) == ("poison", "CHAT", LIVE, MAX_DELIVERIES)


async def test_job_that_is_removed_while_it_runs_is_no_dead_letter(bus: Bus) -> None:
    running, told = asyncio.Event(), asyncio.Event()

    async def handle(_delivery: Delivery) -> None:
        running.set()
        await told.wait()

    await bus.subscribe_now("$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.CHAT.*", lambda _message: told.set())
    async with pulling(bus, handle), asyncio.timeout(20):
        seq = (await bus.publish_stored(LIVE, b"nobody waits", "left")).seq
        await running.wait()
        assert await bus.delete_message("CHAT", seq)
        await told.wait()
    assert (await bus.api(f"STREAM.INFO.{DLQ}", {}))["state"]["messages"] == 0


async def test_encrypted_payload_of_a_dead_job_is_kept_for_a_while_and_its_letter_without_it_where_it_cannot(
    bus: Bus,
) -> None:
    async def answer(_data: bytes) -> None:
        pass

    async def die(name: str) -> int:
        seq = (await bus.publish_stored(LIVE, await bus.cipher.encrypt(b"the client's words"), name)).seq
        await DeadLetters(bus, "CHAT", answer).set_aside(seq, MAX_DELIVERIES, answer)
        return seq

    seq = await die("first")
    kept = await read_last(bus, DLQ, subjects.dead_payload("CHAT", seq))
    assert kept is not None
    assert kept.headers[MESSAGE_TTL] == f"{DEAD_PAYLOAD_LIFE_S}s"
    assert await bus.cipher.decrypt(kept.data) == b"the client's words"
    # An earlier version declared the stream without lives of single messages.
    config = (await bus.api(f"STREAM.INFO.{DLQ}", {}))["config"]
    await bus.api(f"STREAM.DELETE.{DLQ}", {})
    await bus.api(f"STREAM.CREATE.{DLQ}", {**config, "allow_msg_ttl": False})
    seq = await die("second")
    assert await read_last(bus, DLQ, subjects.dead_payload("CHAT", seq)) is None
    letter = await read_last(bus, DLQ, subjects.dead_letter("CHAT"))
    assert letter is not None
    assert DeadLetter.model_validate_json(letter.data).request_id == "second"
    assert await left_in_queue(bus) == 0

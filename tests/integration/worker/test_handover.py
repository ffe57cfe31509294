"""Jobs go to the worker that they prefer while it has room, whichever worker takes them from the queue."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from nats.aio.msg import Msg
from prometheus_client import CollectorRegistry

from callboard_contracts import subjects
from callboard_contracts.config import Config
from callboard_contracts.headers import JOB_REPLY, JOB_SUBJECT, PREFERRED_WORKER
from callboard_kit.bus import Bus
from callboard_kit.lifecycle import Shutdown
from callboard_worker import handover
from callboard_worker.handover import ROOM, Handover
from callboard_worker.metrics import WorkerMetrics
from callboard_worker.pull import Delivery, PullLoop

pytestmark = pytest.mark.integration

LIVE = "job.chat.main.live.tenant"
BATCH = "job.chat.main.batch.tenant"
PLACE = "$JS.ACK.NONE.chat-main-live.1.7.7.1700000000000000000.0"
"""A place in a queue of which no server knows."""


@dataclass
class Seat:
    """One worker, and what it has run."""

    loop: PullLoop
    metrics: WorkerMetrics
    seen: list[Delivery] = field(default_factory=list[Delivery])
    ready: bool = True

    def count(self, outcome: str) -> float:
        return self.metrics.preferred_jobs.labels(outcome)._value.get()  # pyright: ignore[reportPrivateUsage]


@asynccontextmanager
async def seat(
    config: Config, name: str, slots: int = 1, handle: Callable[[Delivery], Awaitable[None]] | None = None
) -> AsyncGenerator[Seat]:
    async def run(delivery: Delivery) -> None:
        one.seen.append(delivery)
        if handle is not None:
            await handle(delivery)

    metrics = WorkerMetrics("chat", (), CollectorRegistry())
    bus = await Bus.connect(config.nats, name, lambda: None)
    part = Handover(bus, name, metrics, lambda: one.ready)
    loop = PullLoop(bus, "CHAT", "chat-main-live", "chat-main-batch", slots, run, part.passes_on)
    one = Seat(loop, metrics)
    shutdown = Shutdown()
    await part.listen(loop)
    await bus.connection.flush()
    running = asyncio.ensure_future(loop.run(shutdown.wait))
    try:
        yield one
    finally:
        shutdown.request_stop("end of test")
        await running
        await loop.drain(5)
        await bus.close()


async def post(bus: Bus, *names: str, preferred: str, subject: str = LIVE) -> None:
    for name in names:
        await bus.publish_stored(subject, name.encode(), name, headers={PREFERRED_WORKER: preferred})


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def empty(bus: Bus) -> None:
    async with asyncio.timeout(20):
        while (await bus.api("STREAM.INFO.CHAT", {}))["state"]["messages"]:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("subject", [LIVE, BATCH])
async def test_every_job_runs_on_the_worker_that_it_prefers(bus: Bus, config: Config, subject: str) -> None:
    names = [f"job {number}" for number in range(20)]
    posted = 0
    async with seat(config, "ada") as ada, seat(config, "bob") as bob:

        def all_ran() -> bool:
            return len(ada.seen) + len(bob.seen) == posted

        for name in names:
            posted += 1
            # Whichever of the two takes it from the queue, it is one and the other in turn that it prefers.
            await post(bus, name, preferred="bob" if posted % 2 else "ada", subject=subject)
            await until(all_ran)
            await empty(bus)
    assert [delivery.data.decode() for delivery in ada.seen] == names[1::2]
    assert [delivery.data.decode() for delivery in bob.seen] == names[::2]
    assert {(delivery.subject, delivery.attempt) for delivery in ada.seen + bob.seen} == {(subject, 1)}
    assert sum(one.count("handed_over") for one in (ada, bob)) > 0
    assert sum(one.count(outcome) for one in (ada, bob) for outcome in ("handed_over", "here")) >= len(names)


async def test_nobody_waits_for_a_worker_that_is_full(bus: Bus, config: Config) -> None:
    go_on = asyncio.Event()

    async def wait(_delivery: Delivery) -> None:
        await go_on.wait()

    async with seat(config, "ada", handle=wait) as ada, seat(config, "bob") as bob:
        await post(bus, "first", preferred="ada")
        await until(lambda: len(ada.seen) == 1)
        await post(bus, "second", "third", preferred="ada")
        await until(lambda: len(bob.seen) == 2)
        assert bob.count("full") == 2
        go_on.set()
        await empty(bus)
    assert len(ada.seen) == 1


async def test_nobody_waits_for_a_worker_that_is_gone_or_not_ready(bus: Bus, config: Config) -> None:
    async with seat(config, "bob") as bob:
        await post(bus, "for nobody", preferred="carol")
        await until(lambda: len(bob.seen) == 1)
        assert bob.count("gone") == 1
        async with seat(config, "ada", slots=2) as ada:
            ada.ready = False
            for number in range(10):
                await post(bus, f"for one that is not ready {number}", preferred="ada")
            await until(lambda: len(bob.seen) + len(ada.seen) == 11)
            await empty(bus)
    assert bob.count("full") == len(bob.seen) - 1
    assert bob.count("handed_over") == 0


async def test_job_that_is_handed_out_again_runs_where_it_is(bus: Bus, config: Config) -> None:
    failed: list[bytes] = []

    async def fail_once(delivery: Delivery) -> None:
        if delivery.attempt == 1:
            failed.append(delivery.data)
            raise RuntimeError

    async with seat(config, "bob", handle=fail_once) as bob:
        await post(bus, "job", preferred="bob")
        await until(lambda: len(bob.seen) == 2)
        await empty(bus)
    assert bob.count("here") == 1


async def test_job_that_is_lost_between_two_workers_is_handed_out_again(bus: Bus, config: Config) -> None:
    """Whoever promised room dies before the job comes."""

    async def promises(message: Msg) -> None:
        await bus.publish(message.reply, ROOM)

    promising = await bus.subscribe(subjects.offered_job("ada"), promises)
    async with seat(config, "bob") as bob:
        await post(bus, "job", preferred="ada")
        await until(lambda: bob.count("handed_over") == 1)
        assert not bob.seen
        await until(lambda: len(bob.seen) == 1)
        await empty(bus)
    assert bob.seen[0].attempt == 2
    await bus.unsubscribe(promising)


async def test_promise_that_is_not_kept_frees_its_slot(
    bus: Bus, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "PROMISE_LIFE_S", 0.3)
    async with seat(config, "ada") as ada:
        assert await bus.request(subjects.offered_job("ada"), b"", 5) == ROOM
        assert await bus.request(subjects.offered_job("ada"), b"", 5) == handover.FULL
        await asyncio.sleep(0.5)
        assert await bus.request(subjects.offered_job("ada"), b"", 5) == ROOM
        await post(bus, "job", preferred="ada")
        await until(lambda: len(ada.seen) == 1)


@pytest.mark.parametrize("promised", [False, True])
async def test_job_that_finds_no_slot_is_given_back(
    bus: Bus, config: Config, monkeypatch: pytest.MonkeyPatch, *, promised: bool
) -> None:
    """It comes after its promise, or another came first over a pull that stood open."""
    monkeypatch.setattr(handover, "PROMISE_LIFE_S", 30.0)
    go_on = asyncio.Event()

    async def wait(_delivery: Delivery) -> None:
        await go_on.wait()

    async with seat(config, "ada", handle=wait) as ada:
        told: list[bytes] = []
        if promised:
            assert await bus.request(subjects.offered_job("ada"), b"", 5) == ROOM
            await post(bus, "came first", preferred="ada")
            await until(lambda: ada.loop.running == 1)

        async def note(message: Msg) -> None:
            told.append(message.data)

        place = await bus.subscribe(PLACE, note)
        headers = {JOB_SUBJECT: LIVE, JOB_REPLY: PLACE}
        await bus.publish(subjects.handed_over_job("ada"), b"late", headers)
        await until(lambda: bool(told))
        await bus.unsubscribe(place)
        go_on.set()
    assert told[0].startswith(b"-NAK")
    assert [delivery.data for delivery in ada.seen] == [b"came first"] * promised

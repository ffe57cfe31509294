"""Running jobs end when nobody waits for them, when they are late, and when their engine is silent; not before."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import pytest

from callboard_contracts import subjects
from callboard_contracts.interest import EDGE_LOST_S, EdgeHeartbeat, ResumeReply
from callboard_contracts.jobs import Job
from callboard_kit.bus import Bus, BusUnavailable, NoResponders
from callboard_kit.bus_clock import BusClock
from callboard_worker import running as running_module
from callboard_worker.pull import Superseded
from callboard_worker.running import RECONNECT_GRACE_S, RunningJob, RunningJobs

pytestmark = pytest.mark.unit

EDGE = "e1"


@dataclass
class Message:
    subject: str
    data: bytes = b""


class FakeBus:
    """Hands over what a test publishes, and answers who asks for an edge."""

    def __init__(self) -> None:
        self.clock = clock()
        self.connected = True
        self.answers: list[ResumeReply | Exception] = []
        self.asked: list[str] = []
        self.subscribers: dict[str, Callable[[Any], Awaitable[None]]] = {}
        self.reconnected: Callable[[], None] = lambda: None

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        self.reconnected = callback

    async def subscribe(self, subject: str, callback: Callable[[Any], Awaitable[None]]) -> None:
        self.subscribers[subject] = callback

    async def request(self, subject: str, _payload: bytes, _timeout_s: float) -> bytes:
        self.asked.append(subject)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer.encoded()

    async def cancel(self, request_id: str) -> None:
        await self.subscribers["ctl.cancel.*"](Message(subjects.cancel(request_id)))

    async def beat(self, *still_open: str, edge: str = EDGE, attempts: dict[str, int] | None = None) -> None:
        heartbeat = EdgeHeartbeat(edge=edge, open=still_open, attempts=attempts or {})
        await self.subscribers["ctl.interest.*"](Message(subjects.interest(edge), heartbeat.encoded()))


def clock() -> BusClock:
    async def read() -> float:
        return time.time()

    return BusClock(read)


def job(name: str = "r1", life_s: float = 60, version: Literal[1, 2] = 2) -> Job:
    now = time.time()
    return Job(version=version, request_id=name, edge=EDGE, tenant="t1", created_at=now - 2, deadline_at=now + life_s)


@pytest.fixture
def bus() -> FakeBus:
    return FakeBus()


class Jobs(RunningJobs):
    """The jobs of a process whose clock a test moves on."""

    def __init__(self, bus: Bus, stall_timeout_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(bus, stall_timeout_s)
        self._monkeypatch = monkeypatch

    def pass_s(self, seconds: float) -> None:
        """Has the jobs looked at after some time, which passes at once."""
        now = time.monotonic
        self._monkeypatch.setattr(time, "monotonic", lambda: now() + seconds)
        self.check()


@contextmanager
def entered(jobs: RunningJobs, job: Job, attempt: int, *, is_batch: bool) -> Generator[RunningJob[Job]]:
    running = jobs.enter(job, attempt, is_batch=is_batch)
    try:
        yield running
    finally:
        jobs.leave(running)


@pytest.fixture
async def jobs(bus: FakeBus, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    monkeypatch.setattr(running_module, "WATCH_INTERVAL_S", 0.01)
    jobs = Jobs(cast("Bus", bus), 20, monkeypatch)
    await jobs.listen()
    return jobs


def reason(running: RunningJob[Job]) -> str | None:
    return running.cancel_scope.reason


async def test_cancelled_job_ends_and_others_do_not(jobs: Jobs, bus: FakeBus) -> None:
    with (
        entered(jobs, job("r1"), 1, is_batch=False) as first,
        entered(jobs, job("r2"), 1, is_batch=True) as second,
    ):
        await bus.cancel("r1")
        assert (reason(first), reason(second)) == ("cancelled", None)
        await bus.cancel("r2")
        assert reason(second) == "cancelled"


async def test_cancellation_that_overtook_its_job_is_remembered(
    jobs: Jobs, bus: FakeBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_module, "REMEMBERED_CANCELS", 2)
    for name in ("r1", "r2", "r3"):
        await bus.cancel(name)
    with entered(jobs, job("r1"), 1, is_batch=False) as forgotten, entered(jobs, job("r3"), 1, is_batch=False) as known:
        assert (reason(forgotten), reason(known)) == (None, "cancelled")


async def test_job_that_runs_here_is_not_entered_twice(jobs: Jobs) -> None:
    with entered(jobs, job(), 1, is_batch=False), pytest.raises(Superseded), entered(jobs, job(), 2, is_batch=False):
        pass
    with entered(jobs, job(), 3, is_batch=False) as again:
        assert again.attempt == 3


async def test_wait_in_the_queue_is_known_of_first_attempts_only(jobs: Jobs) -> None:
    with entered(jobs, job("r1"), 1, is_batch=False) as first, entered(jobs, job("r2"), 2, is_batch=False) as second:
        assert first.queue_s == pytest.approx(2, abs=1)
        assert second.queue_s is None


async def test_job_that_two_heartbeats_in_a_row_do_not_name_is_cancelled(jobs: Jobs, bus: FakeBus) -> None:
    with entered(jobs, job(), 1, is_batch=False) as running:
        # The first may have been sent before the job was.
        await bus.beat("other")
        await bus.beat("other", "r1")
        await bus.beat("other")
        assert reason(running) is None
        await bus.beat("other")
        assert reason(running) == "cancelled"


async def test_heartbeats_of_other_edges_say_nothing(jobs: Jobs, bus: FakeBus) -> None:
    with entered(jobs, job(), 1, is_batch=False) as running:
        for _ in range(3):
            await bus.beat(edge="e2")
        assert reason(running) is None


async def test_heartbeat_that_makes_no_sense_is_left_aside(jobs: Jobs, bus: FakeBus) -> None:
    with entered(jobs, job(), 1, is_batch=False) as running:
        for _ in range(3):
            await bus.subscribers["ctl.interest.*"](Message(subjects.interest(EDGE), b"{no"))
        assert reason(running) is None


async def test_edge_that_is_gone_ends_its_live_jobs(jobs: Jobs, bus: FakeBus) -> None:
    bus.answers = [NoResponders("x")]
    with (
        entered(jobs, job("r1"), 1, is_batch=False) as live,
        entered(jobs, job("r2"), 1, is_batch=True) as batch,
        entered(jobs, job("r3", version=1), 1, is_batch=False) as old,
    ):
        for _ in range(4):
            jobs.pass_s(EDGE_LOST_S - 1)
            await bus.beat("r1")
        assert reason(live) is None
        assert bus.asked == []
        jobs.pass_s(EDGE_LOST_S + 0.5)
        await watch_until(jobs, lambda: reason(live) is not None)
        assert bus.asked == [subjects.resume(EDGE, "r1")]
        assert [reason(running) for running in (live, batch, old)] == ["cancelled", None, None]


@pytest.mark.parametrize("answer", [BusUnavailable("no answer in time"), ResumeReply(open=True, attempt=1)])
async def test_edge_that_stands_still_keeps_its_jobs(jobs: Jobs, bus: FakeBus, answer: ResumeReply | Exception) -> None:
    bus.answers = [answer]
    with entered(jobs, job(), 1, is_batch=False) as running:
        for asked in (1, 2):
            jobs.pass_s(EDGE_LOST_S + 0.5)
            await watch_until(jobs, lambda: not running.edge_silent)
            assert len(bus.asked) == asked
        assert reason(running) is None


async def test_edge_gets_a_grace_period_after_the_bus_was_away(jobs: Jobs, bus: FakeBus) -> None:
    with entered(jobs, job(), 1, is_batch=False) as running:
        bus.connected = False
        jobs.pass_s(EDGE_LOST_S * 2)
        bus.connected = True
        bus.reconnected()
        jobs.pass_s(EDGE_LOST_S + 1)
        assert not running.edge_silent
        jobs.pass_s(RECONNECT_GRACE_S)
        assert running.edge_silent


async def test_newer_attempt_that_the_edge_has_seen_supersedes(jobs: Jobs, bus: FakeBus) -> None:
    with entered(jobs, job(), 2, is_batch=False) as running:
        await bus.beat("r1", attempts={"r1": 2})
        assert reason(running) is None
        await bus.beat("r1", attempts={"r1": 3})
        assert reason(running) == "superseded"


async def test_job_ends_at_its_deadline(jobs: Jobs) -> None:
    with entered(jobs, job(life_s=10), 1, is_batch=True) as running:
        jobs.pass_s(5)
        assert reason(running) is None
        jobs.pass_s(6)
        assert reason(running) == "deadline"


async def test_engine_that_is_silent_while_something_is_expected_of_it_stalls(jobs: Jobs) -> None:
    with entered(jobs, job(), 1, is_batch=True) as running:
        jobs.pass_s(25)
        assert reason(running) is None
        running.heard_at = asyncio.get_running_loop().time()
        jobs.pass_s(15)
        assert reason(running) is None
        jobs.pass_s(6)
        assert reason(running) == "stalled"


async def watch_until(jobs: Jobs, condition: Callable[[], bool]) -> None:
    watching = asyncio.ensure_future(jobs.watch())
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_what_may_be_lost_with_the_bus_is_sent_again_from_where_the_edge_is(jobs: Jobs, bus: FakeBus) -> None:
    sent: list[int] = []

    async def resend(seq: int) -> None:
        sent.append(seq)

    bus.answers = [NoResponders("x"), BusUnavailable("x"), ResumeReply(open=True, attempt=1, next_seq=7)]
    with entered(jobs, job(), 1, is_batch=False) as running, entered(jobs, job("r2"), 1, is_batch=False):
        running.resend = resend
        bus.reconnected()
        await watch_until(jobs, lambda: sent == [7])
        assert bus.asked == [subjects.resume(EDGE, "r1")] * 3
        assert reason(running) is None


@pytest.mark.parametrize(("is_batch", "version"), [(True, 2), (False, 1)])
async def test_job_without_a_watching_edge_sends_all_again_once_the_bus_is_settled(
    jobs: Jobs, bus: FakeBus, *, is_batch: bool, version: Literal[1, 2]
) -> None:
    sent: list[int] = []

    async def resend(seq: int) -> None:
        sent.append(seq)

    with entered(jobs, job(version=version), 1, is_batch=is_batch) as running:
        running.resend = resend
        bus.reconnected()
        watching = asyncio.ensure_future(jobs.watch())
        await asyncio.sleep(0.1)
        assert sent == []
        jobs.pass_s(RECONNECT_GRACE_S)
        async with asyncio.timeout(10):
            while not sent:
                await asyncio.sleep(0.01)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        assert sent == [0]
        assert bus.asked == []
        assert reason(running) is None


@pytest.mark.parametrize(
    ("reply", "expected"),
    [(ResumeReply(open=False), "cancelled"), (ResumeReply(open=True, attempt=2), "superseded")],
)
async def test_edge_that_is_asked_after_the_bus_was_away_may_end_the_job(
    jobs: Jobs, bus: FakeBus, reply: ResumeReply, expected: str
) -> None:
    async def resend(_seq: int) -> None:
        raise AssertionError

    bus.answers = [reply]
    with entered(jobs, job(), 1, is_batch=False) as running:
        running.resend = resend
        bus.reconnected()
        await watch_until(jobs, lambda: reason(running) is not None)
        assert reason(running) == expected

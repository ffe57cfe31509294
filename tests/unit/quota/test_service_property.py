"""Any interleaving of requests, extensions, reports, repeats, contradictions and crashes over a whole service.

Two processes with reservations, settler and reaper share one store, which is away now and then. Edges wait, repeat what
got no answer, and give back what is granted too late, if they live to hear of it. Workers extend holds and report,
reports are delivered any number of times and at once, also with another amount. Whatever happens, no limit is passed,
and once all is delivered and every lease is over the counters agree with the log of usage events.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from callboard_contracts.config import QuotaSection
from callboard_contracts.quota import (
    Hold,
    ReleaseRequest,
    ReserveReply,
    ReserveRequest,
    UsageEvent,
    VerifyReply,
    VerifyRequest,
    Work,
)
from callboard_quota.backends.memory import (
    MemoryAccounts,
    MemoryCounterStore,
    MemoryJournal,
    MemoryLedger,
    MemoryUsageLog,
)
from callboard_quota.domain.concurrency import ConcurrencyWait
from callboard_quota.domain.event_rules import EventRules
from callboard_quota.domain.ledger import Ledger
from callboard_quota.domain.ports import Change
from callboard_quota.domain.reaper import Reaper
from callboard_quota.domain.reservations import ReservationService
from callboard_quota.domain.settlement import Settler
from callboard_quota.domain.tenants import Secret
from callboard_quota.domain.usage_totals import UsageAggregator
from callboard_quota.domain.verification import Verifier
from tests.unit.quota.interleaving import (
    NOON,
    Interleaving,
    ManualClock,
    Stepper,
    leases_in,
    no_pause,
    no_reward,
    run,
    yield_once,
)

pytestmark = [pytest.mark.unit, pytest.mark.timeout(400)]

DAY_TOKENS = 3_000
SITE_TOKENS = 5_000
JOBS = 2
SETTINGS = QuotaSection.model_validate(
    {
        "site_tier": "whole",
        "tiers": {
            "anonymous": {"tokens_per_day": DAY_TOKENS, "jobs_at_once": JOBS},
            "whole": {"tokens_per_day": SITE_TOKENS},
            "standard": {},
        },
    }
)
SECRET = Secret(b"s" * 32)
RULES = EventRules(SECRET, MemoryAccounts())


@dataclass
class Job:
    """One request as its edge and its worker know it."""

    request: ReserveRequest
    hold: Hold | None = None
    tries: list[Stepper[object]] = field(default_factory=list[Stepper[object]])
    extensions: list[Hold] = field(default_factory=list[Hold])
    events: list[UsageEvent] = field(default_factory=list[UsageEvent])
    given_back: bool = False


class Process:
    """One quota process over the shared store."""

    def __init__(self, store: MemoryLedger, clock: ManualClock) -> None:
        journal = MemoryJournal()
        self.ledger = Ledger(store, clock, SECRET.signed)
        waits = ConcurrencyWait(self.ledger, no_pause)
        self.reservations = ReservationService(
            SETTINGS, SECRET, MemoryAccounts(), self.ledger, clock, journal, waits, no_pause
        )
        self.settler = Settler(SETTINGS, RULES, self.ledger, MemoryCounterStore(store), clock, journal, no_reward)
        self.reaper = Reaper(store, self.ledger, clock, journal, MemoryCounterStore(store))
        self.reaping: Stepper[object] | None = None


class ServiceInterleaving(Interleaving):
    """Two processes over one store, and the jobs of their clients."""

    def __init__(self, data: st.DataObject) -> None:
        super().__init__(data, ManualClock(NOON + data.draw(st.sampled_from([0.0, 1797.0]), label="start")))
        self.store = MemoryLedger(self.clock, yield_once)
        self.store.on_change = self._saw
        self.log = MemoryUsageLog()
        self.processes = [Process(self.store, self.clock) for _ in range(2)]
        self.jobs: list[Job] = []
        self.owners: dict[int, tuple[Job, bool]] = {}
        self.granted: dict[str, Hold] = {}
        self.late: set[str] = set()
        self.taken: dict[str, dict[int, int]] = {}

    def _saw(self, change: Change, _value: int) -> None:
        if change.id is None:
            return
        hold_id, _, step = change.id.rpartition(".")
        if step[0] in "rs":
            taken = self.taken.setdefault(hold_id, {})
            taken[int(step[1:])] = taken.get(int(step[1:]), 0) + change.amount

    def take_step(self, n: int) -> None:
        """One random step."""
        process = self.processes[n % 2]
        moves = [
            "reserve",
            "retry",
            "repeat",
            "repeat",
            "outage",
            "extends",
            "report",
            "contradict",
            "deliver",
            "deliver",
            "release",
            "reap",
        ]
        match self.data.draw(st.sampled_from([*moves, "step", "step", "step", "step", "kill", "wait"])):
            case "reserve":
                self._reserve(process, self._new_job(n), extends=False)
            case "retry":
                self._with_job(lambda job: self._reserve(process, job, extends=False))
            case "repeat":
                self._with_job(lambda job: self._repeat(process, job))
            case "outage":
                self.store.failing = not self.store.failing
            case "extends":
                self._with_job(lambda job: self._reserve(process, job, extends=True) if self._runs(job) else None)
            case "report":
                self._with_job(lambda job: self._report(job) if self._runs(job) else None)
            case "contradict":
                self._with_job(lambda job: self._report(job) if job.events else None)
            case "deliver":
                events = [event for job in self.jobs for event in job.events]
                if events:
                    now = self.clock.now()
                    together = self.data.draw(st.lists(st.sampled_from(events), min_size=1, max_size=3))
                    settling = process.settler.settle_all([(event, now) for event in together])
                    self.steppers.append(Stepper("settle", settling))
            case "release":
                self._with_job(lambda job: self._release(process, job))
            case "reap":
                self.reap(process)
            case "wait":
                self.clock.at += self.data.draw(st.sampled_from([0.2, 1.0, 45.0]))
            case kind:
                self.step_or_kill(kind)
        self._check_in_use()

    def _check_in_use(self) -> None:
        """What is held for work that goes on stays held until it reports, whoever repeats what meanwhile."""
        for job in self.jobs:
            hold = job.hold
            if hold and not job.given_back and not job.events and hold.expires_at > self.clock.now():
                taken = [self.taken[hold.id].get(n, 0) for n in range(len(hold.entries))]
                assert taken == [entry.amount for entry in hold.entries], job.request.request_id

    def _new_job(self, n: int) -> Job:
        caller = self.data.draw(st.sampled_from(["192.0.2.1", "192.0.2.2"]))
        tokens = self.data.draw(st.sampled_from([1, 700, 1_500]))
        work = Work(prompt_tokens=tokens)
        job = Job(
            ReserveRequest(request_id=f"r{n}", kind="speech", model="owl", work=work, address=caller, life_s=20.0)
        )
        self.jobs.append(job)
        return job

    def _with_job(self, stepper: Callable[[Job], None]) -> None:
        if self.jobs:
            stepper(self.jobs[self.data.draw(st.integers(0, len(self.jobs) - 1))])

    def _repeat(self, process: Process, job: Job) -> None:
        """Asks again for what got no answer, of another process perhaps; what the others still grant comes too late."""
        if job.hold is None and not job.given_back:
            request = job.request.model_copy(update={"repeat": len(job.tries) + 1, "wait_s": 5.0})
            stepper = Stepper[object]("repeat", process.reservations.reserve(request))
            job.tries.append(stepper)
            self.owners[id(stepper)] = job, False
            self.start(stepper)

    @staticmethod
    def _runs(job: Job) -> bool:
        return job.hold is not None and not job.given_back

    def _reserve(self, process: Process, job: Job, *, extends: bool) -> None:
        request = job.request
        if extends:
            tokens = self.data.draw(st.sampled_from([1, 400, 900]))
            work = Work(prompt_tokens=tokens)
            request = request.model_copy(update={"extends": job.hold, "address": None, "work": work})
        stepper = Stepper[object]("extends" if extends else "reserve", process.reservations.reserve(request))
        self.owners[id(stepper)] = job, extends
        self.start(stepper)

    def _report(self, job: Job) -> None:
        assert job.hold is not None
        extensions = (
            tuple(job.extensions[: self.data.draw(st.integers(0, len(job.extensions)))])
            if job.events
            else job.extensions
        )
        held = sum(hold.entries[0].amount for hold in (job.hold, *extensions)) // 1000
        event = UsageEvent(
            request_id=job.request.request_id,
            tenant=job.hold.tenant,
            kind="speech",
            model="owl",
            pool="p",
            work=Work(prompt_tokens=self.data.draw(st.integers(0, held))),
            outcome="stop",
            hold=job.hold,
            extensions=tuple(extensions),
            at=self.clock.now(),
        )
        job.events.append(event)
        self.log.store(event, self.clock.now())

    def _release(self, process: Process, job: Job) -> None:
        if job.hold is not None and not job.events:
            job.given_back = True
            self.steppers.append(Stepper("release", process.reservations.release(ReleaseRequest(hold=job.hold))))

    def check_result(self, stepper: Stepper[object]) -> None:
        """Adds a grant and checks that it was allowed."""
        if (
            isinstance(stepper.result, ReserveReply)
            and stepper.result.hold
            and stepper.result.hold.id not in self.granted
        ):
            hold = stepper.result.hold
            self.granted[hold.id] = hold
            job, extends = self.owners[id(stepper)]
            self._check_limits()
            if extends:
                job.extensions.append(hold)
            elif job.tries and (stepper is not job.tries[-1] or job.hold is not None):
                self._came_late(hold)
            else:
                job.hold = job.hold or hold
                if job.tries and all(one.done for one in self.steppers if one.name in {"reserve", "repeat"}):
                    # Nobody else is still at it. Whatever others took of this request has been given back, but for what
                    # was granted meanwhile: whoever asked for that gives it back, or else it expires. What could not be
                    # given back in an outage is kept by its process, which ends it at its next reaping.
                    left = {one.id for one in run(leases_in(self.store)) if one.request_id == hold.request_id}
                    kept = {one.id for process in self.processes for one in process.ledger.unconfirmed_holds}
                    assert left - self.late - kept == {hold.id}

    def _came_late(self, hold: Hold) -> None:
        """The edge gives a late grant back, unless it did not live to hear of it."""
        self.late.add(hold.id)
        if self.data.draw(st.booleans(), label="hears of a late grant"):
            process = self.processes[0]
            self.steppers.append(Stepper("release", process.reservations.release(ReleaseRequest(hold=hold))))

    def _check_limits(self) -> None:
        """The granted holds take no more than each limit allows."""
        sums: dict[tuple[str, str], int] = {}
        for hold in self.granted.values():
            for n, entry in enumerate(hold.entries):
                key = (entry.tenant, entry.metric)
                sums[key] = sums.get(key, 0) + self.taken[hold.id].get(n, 0)
        for (tenant, metric), used in sums.items():
            allowed = JOBS if metric == "jobs" else (SITE_TOKENS if tenant == "site" else DAY_TOKENS) * 1000
            assert used <= allowed, (tenant, metric)

    def finish(self) -> VerifyReply:
        """Runs everything to its end, delivers every event again, and compares the counters."""
        self.store.failing = False
        self.run_all()
        self._check_in_use()
        for event in [logged.event for logged in self.log.logged]:
            assert event is not None
            run(self.processes[0].settler.settle(event))
        self.clock.at += 60.0
        for process in self.processes:
            assert run(process.reaper.pass_once()).count == 0
        counters = MemoryCounterStore(self.store)
        aggregator = UsageAggregator(self.log, counters, RULES, lambda: SETTINGS)
        verifier = Verifier(self.store, counters, self.log, aggregator, self.clock, no_pause)
        return run(verifier.verify(VerifyRequest(since=NOON)))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_counters_agree_and_no_limit_is_passed_whatever_is_repeated_or_killed(data: st.DataObject) -> None:
    interleaving = ServiceInterleaving(data)
    try:
        for n in range(data.draw(st.integers(5, 70), label="steps")):
            interleaving.take_step(n)
        reply = interleaving.finish()
    finally:
        interleaving.kill_all()
    assert reply.drift == ()
    assert reply.events == len({job.request.request_id for job in interleaving.jobs if job.events})
    assert all(value == 0 for counter, value in interleaving.store.values.items() if counter.metric == "jobs")

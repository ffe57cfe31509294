"""An engine that shares its jobs with volunteers: who gets a job, and what becomes of one that is dropped."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from callboard_chat.backends.fake import FakeEngine, FakeScript
from callboard_chat.backends.shared import SharedEngine
from callboard_chat.backends.volunteers import VolunteerEngine
from callboard_chat.domain.models import ServedModel
from callboard_chat.domain.pending_jobs import PendingJobs
from callboard_chat.domain.ports import Chunk, Continuation
from callboard_chat.domain.shared_jobs import SharingRule
from callboard_chat.domain.volunteer_models import VolunteerModels
from callboard_contracts.chat import ChatJob, ChatRequest, OutputFormat, Tool
from callboard_contracts.errors import ErrorCode
from callboard_contracts.volunteers import HandedJob, PopRequest, VolunteerOffer, VolunteerTerms
from callboard_worker.engine import EngineError, EngineUnavailable
from tests.backends.chat.suite import request, text_of

pytestmark = pytest.mark.backend

ANN = "k_00000000000000aa"
OWN = "Once upon a time, a fake engine spoke these twelve words. End."
SERVED = ServedModel("stub", "engine/stub")
WRITTEN = ServedModel("stub", "stub", tools="refuse", json_schema=False, prompt_format="alpaca")


class Clock:
    """Time that a test moves on."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Stage:
    """A shared engine with one own slot, whose replies end when `go` is set, and volunteers by hand."""

    def __init__(
        self,
        first: str = "own",
        after_jobs: int = 0,
        after_s: float = 60.0,
        clock: "Clock | None" = None,
        **script: Any,
    ) -> None:
        self.own = FakeEngine(FakeScript(**script))
        self.pending = PendingJobs("0123abcd", 8)
        self.models = VolunteerModels({"stub": WRITTEN}, "alpaca")
        names = {"stub": ("stub", "koboldcpp/stub")}
        volunteers = VolunteerEngine(self.pending, self.models, 30.0, keep_alive_s=0.01, names=names)
        rule = SharingRule(first == "own", after_jobs, after_s)
        self.engine = SharedEngine(self.own, volunteers, {"stub": SERVED}, rule, 1, clock)
        self._tickets = 0

    def ask(
        self,
        request_id: str,
        wanted: ChatRequest | None = None,
        said: Continuation | None = None,
        *,
        batch: bool = False,
        seen: list[Chunk] | None = None,
    ) -> "asyncio.Task[list[Chunk]]":
        wanted = wanted or request(limit=40)
        job = ChatJob(request_id=request_id, edge="e", tenant="t", created_at=0, deadline_at=9e9, request=wanted)
        asked = wanted.model_copy(update={"model": "engine/stub"})

        async def whole() -> list[Chunk]:
            async with aclosing(self.engine.stream_job(job, asked, said, batch=batch)) as chunks:
                found = [] if seen is None else seen
                async for chunk in chunks:
                    found.append(chunk)
                return found

        return asyncio.ensure_future(whole())

    def sees(self, **fields: Any) -> VolunteerOffer:
        offer = VolunteerOffer.model_validate(
            {
                "worker_id": "w",
                "worker_name": "barn",
                "account": ANN,
                "models": ("koboldcpp/stub",),
                "max_length": 4096,
                "max_context_length": 8192,
                **fields,
            }
        )
        self.models.see(offer)
        return offer

    def pop(self, **fields: Any) -> HandedJob | None:
        self._tickets += 1
        reply = self.pending.pop(PopRequest(ticket=f"t{self._tickets}", offer=self.sees(**fields)))
        return reply.jobs[0] if reply.jobs else None

    async def got(self, **fields: Any) -> HandedJob:
        async with asyncio.timeout(5):
            while (job := self.pop(**fields)) is None:
                await asyncio.sleep(0.005)
        return job

    async def busy(self, waiting: int) -> None:
        """Waits until the own engine writes, and so many jobs wait for volunteers."""
        async with asyncio.timeout(5):
            while (self.own.state.active, self.pending.waiting) != (1, waiting):
                await asyncio.sleep(0.005)


async def test_own_engine_comes_first_and_volunteers_get_what_it_has_no_room_for() -> None:
    stage = Stage(first_delay_s=0.2)
    stage.sees()
    own = stage.ask("r1")
    await stage.busy(0)
    assert stage.engine.room() == 1
    other = stage.ask("r2")
    await stage.busy(1)
    job = await stage.got()
    assert job.model == "koboldcpp/stub"
    assert "### Instruction:\nTell me a story." in job.payload["prompt"]
    assert stage.pending.submit(job.id, ANN, "\n A barn.").outcome == "accepted"
    chunks = await other
    assert text_of(chunks) == "A barn."
    assert chunks[-1].served_by is not None
    assert text_of(await own) == OWN
    assert [chunk.served_by for chunk in await own if chunk.served_by] == []
    assert stage.engine.room() == 1


async def test_job_that_waits_for_both_goes_to_the_own_engine_once_that_has_room() -> None:
    stage = Stage(first_delay_s=0.05)
    stage.sees()
    first, second = stage.ask("r1"), stage.ask("r2")
    await stage.busy(1)
    assert [text_of(chunks) for chunks in await asyncio.gather(first, second)] == [OWN, OWN]
    assert (stage.pending.waiting, stage.pop()) == (0, None)


async def test_so_many_jobs_wait_for_those_who_come_first() -> None:
    stage = Stage(after_jobs=1, first_delay_s=0.1)
    stage.sees()
    asked = [stage.ask(f"r{n}") for n in range(3)]
    await stage.busy(1)
    job = await stage.got()
    stage.pending.submit(job.id, ANN, "x")
    assert sorted(text_of(chunks) for chunks in await asyncio.gather(*asked)) == sorted([OWN, OWN, "x"])


async def test_live_jobs_get_an_own_slot_before_batch_jobs() -> None:
    stage = Stage(first_delay_s=0.05)
    first = stage.ask("r1")
    await stage.busy(0)
    ended: list[str] = []
    for name, batch in (("batch", True), ("live", False)):
        stage.ask(name, batch=batch).add_done_callback(lambda _task, name=name: ended.append(name))
    await first
    async with asyncio.timeout(5):
        while len(ended) < 2:
            await asyncio.sleep(0.005)
    assert ended == ["live", "batch"]
    # Without a volunteer no more is welcome than the own engine has slots.
    assert stage.engine.room() == 1


async def test_volunteers_come_first_and_the_own_engine_gets_what_they_have_no_room_for() -> None:
    stage = Stage("volunteers", after_jobs=1)
    stage.sees()
    asked = stage.ask("r1")
    job = await stage.got()
    stage.pending.submit(job.id, ANN, "A barn.")
    assert text_of(await asked) == "A barn."
    asked, other = stage.ask("r2"), stage.ask("r3")
    # Nobody pops: the second in line is one more than waits for volunteers, and so the own engine's.
    done, _ = await asyncio.wait((asked, other), timeout=5, return_when=asyncio.FIRST_COMPLETED)
    assert [text_of(task.result()) for task in done] == [OWN]
    stage.pending.submit((await stage.got()).id, ANN, "Another.")
    assert {text_of(asked.result() if asked in done else await asked), text_of(await other)} == {OWN, "Another."}


@pytest.mark.parametrize("volunteer_seen", [True, False])
async def test_own_engine_writes_where_volunteers_are_absent_or_slow_to_come(*, volunteer_seen: bool) -> None:
    stage = Stage("volunteers", after_jobs=8, after_s=0.05)
    if volunteer_seen:
        stage.sees()
    assert text_of(await stage.ask("r1")) == OWN


async def test_volunteers_write_while_the_own_engine_is_away() -> None:
    stage = Stage(after_jobs=8, unavailable_times=1)
    stage.sees()
    with pytest.raises(EngineUnavailable):
        await stage.ask("r1")
    assert stage.engine.room() == 1
    again = stage.ask("r1")
    stage.pending.submit((await stage.got()).id, ANN, "A barn.")
    assert text_of(await again) == "A barn."


async def test_job_that_a_volunteer_drops_goes_to_the_own_engine() -> None:
    stage = Stage("volunteers", after_jobs=8)
    stage.sees()
    asked = stage.ask("r1")
    job = await stage.got()
    assert stage.pending.submit(job.id, ANN, None).outcome == "faulted"
    chunks = await asked
    assert text_of(chunks) == OWN
    assert not any(chunk.served_by for chunk in chunks)
    assert stage.pending.submit(job.id, ANN, "late").outcome == "aborted"


async def test_text_that_a_volunteer_drops_half_told_breaks_off_and_goes_on_with_the_own_engine() -> None:
    stage = Stage("volunteers", after_jobs=8)
    stage.sees()
    asked = stage.ask("r1")
    job = await stage.got()
    stage.pending.progress(job.id, ANN, "Once upon ", None)
    await asyncio.sleep(0)
    stage.pending.submit(job.id, ANN, None)
    with pytest.raises(EngineUnavailable):
        await asked
    said = Continuation("Once upon ", "", 3)
    rest = await stage.ask("r1", said=said)
    assert "Once upon " + text_of(rest) == OWN
    assert stage.own.state.requests[-1][1] == said


async def test_where_only_volunteers_may_their_failures_fail_the_request_and_own_slots_stay_free() -> None:
    stage = Stage()
    wanted = request(limit=40, volunteers=VolunteerTerms(workers=("w", "w2", "w3"), own_engine="may_not"))
    asked = stage.ask("r1", wanted)
    for worker in ("w", "w2", "w3"):
        job = await stage.got(worker_id=worker)
        assert stage.pending.submit(job.id, ANN, None).outcome == "faulted"
    with pytest.raises(EngineError) as failed:
        await asked
    assert failed.value.info.code is ErrorCode.ENGINE_FAILED
    assert not stage.own.state.requests


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": (Tool(name="look"),)},
        {"output_format": OutputFormat(kind="json_object")},
        {"top_logprobs": 1},
        {"volunteers": VolunteerTerms(own_engine="must")},
    ],
    ids=["tools", "form", "logprobs", "own-engine-asked-for"],
)
async def test_what_volunteers_cannot_do_or_may_not_waits_for_the_own_engine(fields: dict[str, Any]) -> None:
    stage = Stage("volunteers", first_delay_s=0.05)
    stage.sees()
    first, second = (stage.ask(name, request(limit=40, **fields)) for name in ("r1", "r2"))
    await stage.busy(0)
    assert stage.pop() is None
    await asyncio.gather(first, second)
    assert len(stage.own.state.requests) == 2


async def test_cancelled_jobs_leave_their_slot_and_their_place() -> None:
    stage = Stage(hang_at=0)
    stage.sees()
    asked = [stage.ask(f"r{n}") for n in range(3)]
    await stage.busy(2)
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    assert (stage.pending.waiting, stage.engine.room(), stage.own.state.active) == (0, 1, 0)


async def test_worker_is_ready_while_either_is_there() -> None:
    stage = Stage()
    stage.own.ready = _away  # type: ignore[method-assign]
    assert await stage.engine.ready() == "engine: away"
    stage.sees()
    assert await stage.engine.ready() is None


async def _away() -> str:
    return "engine: away"


async def test_time_in_line_is_no_work_and_a_dropped_job_is_told_at_once() -> None:
    clock = Clock()
    stage = Stage(clock=clock, first_delay_s=0.2)
    stage.sees()
    first = stage.ask("r1")
    await stage.busy(0)
    seen: list[Chunk] = []
    second = stage.ask("r2", seen=seen)
    stage.pending.submit((await stage.got()).id, ANN, None)
    async with asyncio.timeout(5):
        while not seen:
            await asyncio.sleep(0.005)
    assert not first.done()
    # Nothing is expected of an engine by it, so that none can fall silent meanwhile.
    assert [(one.text, one.restarts, one.read_prompt_tokens) for one in seen] == [("", 1, 0)]
    clock.now_s += 60
    assert text_of(await first) == text_of(await second) == OWN
    assert (seen[-1].worked_s, seen[-1].restarts) == (0.0, 1)

"""The engine whose replies volunteers write, with a volunteer that streams, and with those that misbehave."""

import asyncio
from contextlib import aclosing

import pytest

from callboard_chat.domain.pending_jobs import MAX_IN_HAND, PendingJobs
from callboard_chat.domain.ports import Continuation
from callboard_chat.domain.volunteer_rewards import reward_by
from callboard_contracts.chat import ChatJob, Sampling
from callboard_contracts.errors import ErrorCode
from callboard_contracts.kudos_price import KudosSection, reward
from callboard_contracts.volunteers import (
    MAX_TEXT_BYTES,
    PopRequest,
    ServedBy,
    VolunteerOffer,
    VolunteerTerms,
    handout_mark,
)
from callboard_worker.engine import EngineError, EngineUnavailable
from tests.backends.chat.suite import collect, request, text_of
from tests.backends.chat.volunteer_stage import ANN, BEN, MARK, Stage

pytestmark = pytest.mark.backend


@pytest.fixture
async def stage() -> Stage:
    return Stage()


async def test_a_job_is_handed_out_in_the_hordes_words_and_answered(stage: Stage) -> None:
    sampling = Sampling(
        temperature=0.7, repetition_penalty=1.1, typical_p=0.9, stop=("\nYou:",), sampler_order=("top_k", "top_a")
    )
    asked = stage.ask(request("An owl", limit=40, mode="completion", sampling=sampling))
    job = await stage.got()
    assert job.id.startswith(MARK)
    assert job.id.endswith(handout_mark("w"))
    assert job.model == "stub"
    assert job.payload == {
        "prompt": "An owl",
        "n": 1,
        "max_length": 40,
        "max_context_length": 8192,
        "temperature": 0.7,
        "rep_pen": 1.1,
        "typical": 0.9,
        "stop_sequence": ["\nYou:"],
        "sampler_order": [0, 1],
    }
    reply = stage.submit(job, " sat in the oak.")
    assert (reply.outcome, reply.tokens, reply.suspicions) == ("accepted", 4, ())
    last = (await asked)[-1]
    assert (last.text, last.finish, last.completion_tokens) == (" sat in the oak.", "stop", 4)
    assert last.served_by == ServedBy(worker_id="w", worker_name="w", model="stub", account=ANN)


async def test_a_horde_requesters_context_is_what_must_fit_and_what_is_told(stage: Stage) -> None:
    wanted = request("An owl", mode="completion", context_tokens=2048, volunteers=VolunteerTerms(any_model=True))
    asked = stage.ask(wanted)
    assert await stage.pop(max_context_length=1024) is None
    job = await stage.pop(models=("raven",))
    assert job is not None
    assert (job.model, job.payload["max_context_length"]) == ("raven", 2048)
    stage.submit(job, "x")
    await asked


async def test_text_is_streamed_while_a_volunteer_tells_it(stage: Stage) -> None:
    job_request = ChatJob(
        request_id="r1", edge="e", tenant="t", created_at=0, deadline_at=9e9, request=request(mode="completion")
    )
    async with aclosing(stage.engine.stream_job(job_request, job_request.request, None)) as chunks:
        first = asyncio.ensure_future(anext(chunks))
        job = await stage.got()
        assert stage.pending.progress(job.id, BEN, "Once", None).outcome == "foreign"
        assert stage.pending.progress(job.id, ANN, "Once", None).outcome == "accepted"
        assert stage.pending.progress(job.id, ANN, None, " upon").outcome == "accepted"
        said = ""
        while said != "Once upon":
            said += (await first).text
            first = asyncio.ensure_future(anext(chunks))
        stage.submit(job, "Once upon a time.")
        rest = [await first, *[chunk async for chunk in chunks]]
    assert said + text_of(rest) == "Once upon a time."
    assert rest[-1].completion_tokens == 5


async def test_another_volunteer_goes_on_after_what_was_told(stage: Stage) -> None:
    asked = stage.ask(request("Tell.", limit=40, mode="completion"))
    first = await stage.got("w1")
    stage.pending.progress(first.id, ANN, "Once upon", None)
    assert stage.submit(first, None).outcome == "faulted"
    assert await stage.pop("w1") is None
    second = await stage.got("w2", BEN)
    assert second.payload["prompt"] == "Tell.Once upon"
    assert second.payload["max_length"] == 37
    stage.submit(second, " a time.", BEN)
    chunks = await asked
    assert text_of(chunks) == "Once upon a time."
    assert chunks[-1].served_by is not None
    assert chunks[-1].served_by.worker_id == "w2"


async def test_a_silent_volunteer_loses_the_job_and_comes_too_late(stage: Stage) -> None:
    asked = stage.ask()
    job = await stage.got("w1")
    assert job.ttl_s == 36.0
    stage.clock.now_s += job.ttl_s + 1
    async with asyncio.timeout(5):
        while (again := await stage.pop("w2", BEN)) is None:
            await asyncio.sleep(0.005)
    assert stage.submit(job, "late").outcome == "aborted"
    assert stage.submit(again, "in time", BEN).outcome == "accepted"
    assert text_of(await asked) == "in time"
    offer = VolunteerOffer(
        worker_id="w1", worker_name="w1", account=ANN, models=("stub",), max_length=80, max_context_length=1024
    )
    assert stage.pending.pop(PopRequest(ticket="x", offer=offer)).dropped == 1
    assert stage.pending.pop(PopRequest(ticket="y", offer=offer)).dropped == 0


async def test_the_third_failure_fails_the_request(stage: Stage) -> None:
    asked = stage.ask()
    for worker in ("w1", "w2", "w3"):
        assert stage.submit(await stage.got(worker), None).outcome == "faulted"
    with pytest.raises(EngineError) as failed:
        await asked
    assert failed.value.info.code is ErrorCode.ENGINE_FAILED
    assert await stage.pop("w4") is None


async def test_only_the_volunteer_that_has_a_job_submits_it_and_once(stage: Stage) -> None:
    asked = stage.ask()
    job = await stage.got()
    assert stage.submit(job, "stolen", BEN).outcome == "foreign"
    assert stage.submit(job, "mine").outcome == "accepted"
    assert stage.submit(job, "mine").outcome == "duplicate"
    assert stage.submit(job, "stolen", BEN).outcome == "foreign"
    assert stage.pending.submit("00000000-0000-4000-8000-000000000000", ANN, "x").outcome == "unknown"
    assert stage.pending.progress(job.id, ANN, "more", None).outcome == "duplicate"
    assert text_of(await asked) == "mine"


async def test_a_cancelled_job_is_not_pending_and_its_volunteer_comes_too_late(stage: Stage) -> None:
    waiting, handed = stage.ask(), stage.ask(request_id="r2")
    job = await stage.got()
    for task in (waiting, handed):
        task.cancel()
    await asyncio.gather(waiting, handed, return_exceptions=True)
    assert (stage.pending.waiting, stage.pending.handed_out) == (0, 0)
    assert stage.submit(job, "late").outcome == "aborted"
    assert await stage.pop() is None


async def test_what_was_streamed_before_the_reply_ended_still_counts(stage: Stage) -> None:
    job_request = ChatJob(
        request_id="r1", edge="e", tenant="t", created_at=0, deadline_at=9e9, request=request(mode="completion")
    )
    chunks = stage.engine.stream_job(job_request, job_request.request, None)
    first = asyncio.ensure_future(anext(chunks))
    job = await stage.got()
    stage.pending.progress(job.id, ANN, "Once. STOP", None)
    await first
    await chunks.aclose()
    assert stage.submit(job, "Once. STOP and more").outcome == "accepted"
    assert stage.submit(job, "Once. STOP and more").outcome == "duplicate"


async def test_a_waiting_volunteer_gets_a_job_the_moment_it_comes(stage: Stage) -> None:
    popped = asyncio.ensure_future(stage.pop(wait_s=5.0))
    await asyncio.sleep(0.01)
    assert stage.pending.parked == 1
    asked = stage.ask()
    async with asyncio.timeout(1):
        job = await popped
    assert job is not None
    stage.submit(job, "here")
    assert text_of(await asked) == "here"
    assert await stage.pop(wait_s=0.01) is None
    assert stage.pending.parked == 0


async def test_what_went_to_a_volunteer_that_left_goes_back_without_a_failure(stage: Stage) -> None:
    asked = stage.ask()
    await stage.got("w1")
    stage.pending.withdraw_pop("t1")
    again = await stage.got("w1")
    stage.submit(again, "back")
    assert text_of(await asked) == "back"


async def test_a_text_that_contradicts_what_was_streamed_is_a_failure(stage: Stage) -> None:
    asked = stage.ask()
    job = await stage.got("w1")
    stage.pending.progress(job.id, ANN, "Once upon", None)
    reply = stage.submit(job, "Twice upon a time")
    assert (reply.outcome, reply.suspicions) == ("faulted", ("contradictory",))
    second = await stage.got("w2")
    stage.submit(second, " a time.")
    assert text_of(await asked) == "Once upon a time."


async def test_texts_that_look_false_are_told(stage: Stage) -> None:
    long = "The same sentence again and again. " * 20
    found: list[tuple[str, ...]] = []
    for text in ("  ", long, long):
        asked = stage.ask(request(limit=400, mode="completion"))
        found.append(stage.submit(await stage.got(), text).suspicions)
        await asked
    assert found == [("empty",), ("speed",), ("speed", "repeated")]


async def test_a_volunteer_that_tells_without_end_loses_the_job(stage: Stage) -> None:
    asked = stage.ask()
    job = await stage.got("w1")
    half = "x" * (MAX_TEXT_BYTES // 2)
    told = [stage.pending.progress(job.id, ANN, None, piece).outcome for piece in (half, half, "x")]
    assert told == ["accepted", "accepted", "faulted"]
    stage.submit(await stage.got("w2"), ".")
    assert text_of(await asked) == f"{half}{half}."


async def test_a_volunteer_has_so_many_jobs_in_hand_and_no_more() -> None:
    stage = Stage(most_jobs=MAX_IN_HAND + 1)
    asked = [stage.ask(request_id=f"r{number}") for number in range(MAX_IN_HAND + 1)]
    held = [await stage.got() for _ in range(MAX_IN_HAND)]
    assert await stage.pop() is None
    assert await stage.pop(wait_s=0.01) is None
    stage.submit(held[0], "x")
    held[0] = await stage.got()
    for job in held:
        stage.submit(job, "x")
    await asyncio.gather(*asked)


async def test_too_many_pending_jobs_are_refused() -> None:
    stage = Stage(most_jobs=1)
    asked = stage.ask()
    await asyncio.sleep(0)
    with pytest.raises(EngineUnavailable):
        await stage.ask(request_id="r2")
    stage.submit(await stage.got(), "x")
    await asked


async def test_another_process_takes_the_text_of_a_job_that_it_has_taken_over(stage: Stage) -> None:
    lost = Stage("fedcba98")
    first = lost.ask()
    job = await lost.got()
    lost.pending.progress(job.id, ANN, "Once", None)
    first.cancel()
    asked = stage.ask(said=Continuation("Once", "", 1))
    await asyncio.sleep(0)
    by = ServedBy(worker_id="w", worker_name="barn", model="", account=ANN)
    assert stage.pending.submit(job.id, ANN, "Twice upon", by).outcome == "aborted"
    assert stage.pending.submit(job.id, ANN, "Once upon", by).outcome == "accepted"
    assert stage.pending.submit(job.id, ANN, "Once upon", by).outcome == "duplicate"
    chunks = await asked
    assert text_of(chunks) == " upon"
    assert chunks[-1].served_by == by.model_copy(update={"model": "stub"})


async def test_a_job_is_as_old_as_its_request_wherever_it_waited_before(stage: Stage) -> None:
    asked = [
        stage.ask(request("young", mode="completion"), request_id="r1"),
        stage.ask(request("old", mode="completion"), request_id="r2", age_s=60.0),
        stage.ask(request("of a faster clock", mode="completion"), request_id="r3", age_s=-5.0),
    ]
    await asyncio.sleep(0)
    prompts: list[str] = []
    for _ in asked:
        job = await stage.got()
        prompts.append(job.payload["prompt"])
        stage.submit(job, "text")
    assert prompts == ["old", "young", "of a faster clock"]
    await asyncio.gather(*asked)


@pytest.mark.parametrize("validated", [True, False])
async def test_who_finished_the_job_of_a_lost_process_earns_as_its_program_does(*, validated: bool) -> None:
    section = KudosSection(enabled=True)
    lost, stage = Stage("fedcba98"), Stage()
    stage.pending = PendingJobs(MARK, 8, stage.clock, reward_by(section))
    stage.engine.pending = stage.pending
    first = lost.ask()
    job = await lost.got()
    first.cancel()
    asked = stage.ask()
    await asyncio.sleep(0)
    by = ServedBy(worker_id="w", worker_name="barn", model="", account=ANN)
    reply = stage.pending.submit(job.id, ANN, "Once upon a time", by, adopter_validated=validated)
    whole = reward(section, tokens=20, prompt_tokens=20, billions=None)
    assert reply.reward == (whole if validated else int(whole * section.unvalidated_share))
    await asked


async def test_a_reply_outside_of_a_job_is_written_too(stage: Stage) -> None:
    asked = asyncio.ensure_future(collect(stage.engine, request(mode="completion")))
    stage.submit(await stage.got(), "plain")
    assert text_of(await asked) == "plain"


async def test_models_are_those_that_were_lately_offered(stage: Stage) -> None:
    await stage.pop(models=("owl", "raven"), max_length=80, max_context_length=1024)
    await stage.pop("w2", models=("owl",), max_length=512)
    assert list(stage.models) == ["owl", "raven"]
    assert stage.models.lengths("owl") == (512, 8192)
    assert stage.models["raven"].context_tokens == 1024
    assert stage.models["heron"].name == "heron"
    stage.clock.now_s += 301
    assert list(stage.models) == []

"""Jobs for volunteers that end by their deadline, that are withheld, and that ask for something of their volunteer."""

import asyncio

import pytest

from callboard_contracts.volunteers import PopRequest, ServedBy, SubmitReply, TextNotes, VolunteerOffer, VolunteerTerms
from tests.backends.chat.suite import request, text_of
from tests.backends.chat.volunteer_stage import ANN, Stage

pytestmark = pytest.mark.backend


@pytest.fixture
async def stage() -> Stage:
    return Stage()


async def test_a_job_is_given_for_no_longer_than_it_has_itself(stage: Stage) -> None:
    asked = stage.ask(left_s=12.0)
    job = await stage.got()
    assert job.ttl_s == 12.0
    stage.clock.now_s += 13
    # The job ends by its deadline; that is no failure of whoever had it.
    await asyncio.sleep(0.03)
    assert not asked.done()
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    assert stage.submit(job, "late").outcome == "aborted"
    reply = stage.pending.pop(PopRequest(ticket="t", offer=_offer()))
    assert (reply.jobs, reply.dropped) == ((), 0)


async def test_who_gives_up_a_job_for_want_of_time_has_dropped_none(stage: Stage) -> None:
    asked = stage.ask(left_s=12.0)
    assert stage.submit(await stage.got(), None) == SubmitReply(outcome="faulted")
    asked.cancel()
    other = stage.ask(request_id="r2", left_s=900.0)
    assert stage.submit(await stage.got(), None) == SubmitReply(outcome="faulted", worker_id="w")
    other.cancel()
    await asyncio.gather(asked, other, return_exceptions=True)


async def test_a_job_that_is_about_to_end_is_given_to_nobody(stage: Stage) -> None:
    late, waited = stage.ask(left_s=0.5), stage.ask(request_id="r2", left_s=20.0)
    await asyncio.sleep(0)
    stage.clock.now_s += 19.5
    assert await stage.pop() is None
    parked = asyncio.ensure_future(stage.pop(wait_s=0.05))
    await asyncio.sleep(0)
    third = stage.ask(request_id="r3", left_s=0.5)
    assert await parked is None
    for one in (late, waited, third):
        one.cancel()
    await asyncio.gather(late, waited, third, return_exceptions=True)
    assert stage.pending.waiting == 0


@pytest.mark.parametrize(
    ("state", "told", "text", "shown"),
    [
        ("censored", "", "[censored]", "[censored]"),
        ("censored", "", "", ""),
        ("censored", "Once", "[censored]", "Once"),
        ("csam", "", "what nobody shall read", ""),
        ("csam", "Once", "Once more", "Once"),
    ],
)
async def test_a_text_that_is_withheld_ends_the_job_and_is_nobodys_failure(
    state: str, told: str, text: str, shown: str, stage: Stage
) -> None:
    remark = {"type": "censorship", "value": "csam"}
    for number in range(3):
        asked = stage.ask(request_id=f"r{number}")
        job = await stage.got()
        if told:
            stage.pending.progress(job.id, ANN, told, None)
        reply = stage.submit(job, text, state=state, seed=7, gen_metadata=[remark])
        assert (reply.outcome, reply.suspicions, reply.tokens, reply.seconds) == ("accepted", (), 0, 0)
        chunks = await asked
        assert text_of(chunks) == shown
        assert (chunks[-1].finish, chunks[-1].restarts) == ("stop", 0)
        by = chunks[-1].served_by
        assert by is not None
        assert (by.notes.state, by.notes.seed, by.notes.gen_metadata[0].value) == (state, 7, "csam")
        assert stage.submit(job, text).outcome == "duplicate"


async def test_a_text_whose_process_was_lost_may_be_withheld_too() -> None:
    lost, heir = Stage(), Stage("ffff0000")
    old = lost.ask()
    job = await lost.got()
    asked = heir.ask()
    await asyncio.sleep(0)
    adopter = ServedBy(worker_id="w", worker_name="w", model="", account=ANN)
    reply = heir.pending.submit(job.id, ANN, "no", adopter, notes=TextNotes(state="csam", seed=3))
    chunks = await asked
    assert (reply.outcome, text_of(chunks), chunks[-1].finish) == ("accepted", "", "stop")
    assert chunks[-1].served_by is not None
    assert chunks[-1].served_by.notes == TextNotes(state="csam", seed=3)
    old.cancel()
    await asyncio.gather(old, return_exceptions=True)


async def test_only_the_time_of_whoever_wrote_counts_as_work(stage: Stage) -> None:
    asked = stage.ask()
    await asyncio.sleep(0)
    stage.clock.now_s += 500
    job = await stage.got()
    stage.clock.now_s += 9
    # One that failed without a word has written nothing.
    stage.submit(job, None)
    stage.clock.now_s += 100
    job = await stage.got("w2")
    stage.clock.now_s += 2
    stage.pending.progress(job.id, ANN, "Once ", None)
    await asyncio.sleep(0.03)
    stage.submit(job, None)
    stage.clock.now_s += 50
    job = await stage.got("w3")
    stage.clock.now_s += 3
    stage.submit(job, "upon a time.")
    chunks = await asked
    assert text_of(chunks) == "Once upon a time."
    assert chunks[-1].worked_s == 5.0
    assert max(chunk.worked_s or 0.0 for chunk in chunks) == 5.0


async def test_texts_of_one_request_go_out_one_by_one_where_its_requester_wants_that(stage: Stage) -> None:
    for alone in (False, True):
        terms = VolunteerTerms(any_model=True, disable_batching=alone)
        wanted = request(mode="completion").model_copy(update={"volunteers": terms, "context_tokens": 1024})
        asked = [stage.ask(wanted, request_id=f"{alone}{number}") for number in range(2)]
        await asyncio.sleep(0)
        reply = stage.pending.pop(PopRequest(ticket=f"t{alone}", offer=_offer(), amount=5))
        assert len(reply.jobs) == (1 if alone else 2)
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


async def test_soft_prompts_and_switches_reach_those_who_have_them(stage: Stage) -> None:
    terms = VolunteerTerms(any_model=True, softprompt="Owls", formatting=("frmttriminc", "singleline"))
    wanted = request(mode="completion").model_copy(update={"volunteers": terms, "context_tokens": 1024})
    asked = stage.ask(wanted)
    assert await stage.pop(softprompts=("Ravens",)) is None
    job = await stage.pop(softprompts=("Ravens", "Owls"))
    assert job is not None
    assert job.softprompt == "Owls"
    assert (job.payload["frmttriminc"], job.payload["singleline"]) == (True, True)
    assert "frmtrmblln" not in job.payload
    stage.submit(job, "Hoo.")
    assert text_of(await asked) == "Hoo."


def _offer() -> VolunteerOffer:
    return VolunteerOffer(
        worker_id="w", worker_name="w", account=ANN, models=("stub",), max_length=4096, max_context_length=8192
    )

"""Which of the waiting jobs a volunteer gets."""

import random
import time
from typing import Any

import pytest

from callboard_chat.domain.volunteer_matching import (
    MAX_HEAD_START_S,
    MAX_SEARCHED,
    RETRY_SAME_S,
    WaitingJob,
    WaitingJobs,
)
from callboard_contracts.kudos import KUDOS_SCALE
from callboard_contracts.volunteer_conditions import Conditions
from callboard_contracts.volunteers import VolunteerOffer

pytestmark = pytest.mark.unit


def offer(**fields: Any) -> VolunteerOffer:
    base: dict[str, Any] = {"worker_id": "w", "worker_name": "barn", "account": "k_own", "models": ("owl",)}
    return VolunteerOffer.model_validate({"max_length": 512, "max_context_length": 4096, **base, **fields})


def job(length: int = 80, context: int = 2048, at: float = 0.0, **fields: Any) -> WaitingJob:
    conditions = {name: fields.pop(name) for name in tuple(fields) if name in Conditions.__dataclass_fields__}
    conditions.setdefault("unpaid", not fields.get("kudos"))
    base: dict[str, Any] = {"models": ("owl",), "prompt": "An owl", "entered_at": at}
    return WaitingJob(Conditions(length, context, **conditions), **{**base, **fields})


def waiting(*jobs: WaitingJob) -> WaitingJobs:
    found = WaitingJobs()
    for one in jobs:
        found.add(one)
    return found


@pytest.mark.parametrize(
    ("wanted", "given", "reason"),
    [
        (job(length=513), {}, "max_length"),
        (job(context=4097), {}, "max_context_length"),
        (job(models=("raven",)), {}, "models"),
        (job(nsfw=True), {"nsfw": False}, "nsfw"),
        (job(trusted_only=True), {}, "untrusted"),
        (job(validated_only=True), {}, "untrusted"),
        (job(slow_workers=False), {"slow": True}, "performance"),
        (job(), {"extra_slow": True}, "performance"),
        (job(workers=frozenset({"other"})), {}, "worker_id"),
        (job(workers=frozenset({"w"}), excludes=True), {}, "worker_id"),
        (job(prompt="An OWL sat"), {"blacklist": ("owl s",)}, "blacklist"),
        (job(), {"needs_kudos": True}, "kudos"),
        (job(softprompt="Owls"), {"softprompts": ("Ravens",)}, "matching_softprompt"),
        (job(failed_at={"w": 99.0}), {}, "worker_id"),
    ],
)
def test_a_job_that_does_not_fit_is_skipped_by_its_reason(
    wanted: WaitingJob, given: dict[str, Any], reason: str
) -> None:
    jobs = waiting(wanted)
    assert jobs.take(offer(**given), 100.0) is None
    assert jobs.skipped(offer(**given), 100.0) == {reason: 1}
    assert len(jobs) == 1


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        (job(length=512, context=4096), {}),
        (job(models=()), {}),
        (job(models=("raven", "owl")), {}),
        (job(nsfw=True), {}),
        (job(trusted_only=True, validated_only=True), {"trusted": True, "validated": True}),
        (job(extra_slow_workers=True), {"extra_slow": True, "slow": True}),
        (job(workers=frozenset({"w", "other"})), {}),
        (job(workers=frozenset({"other"}), excludes=True), {}),
        (job(kudos=1), {"needs_kudos": True}),
        (job(softprompt="Owls"), {"softprompts": ("Ravens", "Owls")}),
        (job(failed_at={"w": 100.0 - RETRY_SAME_S}), {}),
    ],
)
def test_a_job_that_fits_is_taken_once(wanted: WaitingJob, given: dict[str, Any]) -> None:
    jobs = waiting(wanted)
    assert jobs.take(offer(**given), 100.0) is wanted
    assert jobs.take(offer(**given), 100.0) is None
    assert len(jobs) == 0


def test_older_jobs_come_first_and_kudos_count_as_a_bounded_head_start() -> None:
    old, young, rich = job(at=0.0), job(at=50.0), job(at=60.0, kudos=10**12 * KUDOS_SCALE)
    late = job(at=MAX_HEAD_START_S + 1.0, kudos=10**12 * KUDOS_SCALE)
    jobs = waiting(late, young, rich, old)
    order = [jobs.take(offer(), 200.0) for _ in range(4)]
    assert order == [rich, old, late, young]


def test_jobs_of_the_owner_and_of_priority_users_come_before_all_others() -> None:
    stranger, friend, own = job(at=0.0, requester="a"), job(at=9.0, requester="k_f"), job(at=10.0, requester="k_own")
    jobs = waiting(stranger, own, friend)
    assert jobs.take(offer(priority=("k_f",)), 20.0) is friend
    assert jobs.take(offer(own_only=True), 20.0) is own
    assert jobs.take(offer(own_only=True), 20.0) is None
    assert jobs.take(offer(), 20.0) is stranger


def test_blacklisted_words_are_searched_for_in_so_many_characters_and_no_more() -> None:
    bad = job(prompt="a bad word " + " " * MAX_SEARCHED)
    jobs = waiting(bad, job(at=1.0, prompt="fine"))
    assert jobs.take(offer(blacklist=("bad",)), 2.0) is None
    assert jobs.skipped(offer(blacklist=("bad",)), 2.0) == {"blacklist": 2}
    # A single prompt is looked at however long it is.
    assert jobs.take(offer(blacklist=("good",)), 2.0) is bad


def test_a_job_of_several_models_leaves_all_of_its_places() -> None:
    both = job(models=("owl", "raven"))
    jobs = waiting(both, job(models=("raven",), at=1.0))
    assert jobs.take(offer(models=("owl",)), 5.0) is both
    assert jobs.take(offer(models=("owl",)), 5.0) is None
    assert jobs.take(offer(models=("raven",)), 5.0) is not both


def test_jobs_that_are_taken_out_or_given_back_keep_their_rank() -> None:
    first, second = job(at=0.0), job(at=1.0)
    jobs = waiting(first, second)
    assert jobs.take(offer(), 2.0) is first
    jobs.add(first)
    jobs.remove(second)
    jobs.remove(second)
    assert jobs.take(offer(), 2.0) is first
    assert len(jobs) == 0


def test_every_pop_gets_the_job_that_comes_first_of_all_that_fit() -> None:
    dice = random.Random(7)
    jobs = [
        job(
            dice.randrange(16, 600),
            dice.randrange(80, 9000),
            at=dice.uniform(0, 500),
            models=dice.choice((("owl",), ("raven",), ("owl", "raven"), ())),
            nsfw=dice.random() < 0.2,
            workers=frozenset({dice.choice("wxy")}) if dice.random() < 0.2 else frozenset(),
            requester=dice.choice(("k_own", "k_f", "k_a", "")),
            kudos=dice.choice((0, 10**6)),
        )
        for _ in range(400)
    ]
    left = waiting(*jobs)
    for _ in range(600):
        one = offer(
            worker_id=dice.choice("wxyz"),
            models=dice.choice((("owl",), ("owl", "raven"), ("wren",))),
            max_length=dice.randrange(16, 600),
            max_context_length=dice.choice((1024, 2048, 5000, dice.randrange(80, 9000))),
            nsfw=dice.random() < 0.5,
            needs_kudos=dice.random() < 0.1,
            own_only=dice.random() < 0.1,
            priority=("k_f",) if dice.random() < 0.3 else (),
        )
        fitting = [two for two in jobs if left.fits(two, one, 600.0)]
        preferred = [two for two in fitting if two.requester in (one.account, *one.priority)]
        expected = min(preferred or fitting, key=lambda two: two.rank, default=None)
        assert left.take(one, 600.0) is expected
        if expected is not None:
            jobs.remove(expected)
    assert len(left) == len(jobs)


def test_jobs_that_ask_for_other_volunteers_or_models_are_counted_as_skipped() -> None:
    jobs = waiting(
        job(length=100, workers=frozenset({"x", "y"})),
        job(workers=frozenset({"w"}), context=5000),
        job(models=("raven",)),
        *(job(length=length) for length in (500, 511, 513)),
    )
    assert jobs.skipped(offer(max_length=505), 1.0) == {"worker_id": 1, "models": 1, "max_length": 2}


@pytest.mark.parametrize("kind", ["taken", "own", "none fits"])
def test_the_cost_of_a_pop_does_not_grow_with_the_jobs_that_wait(kind: str) -> None:
    """Measured with lengths of all kinds; the factor leaves room for a busy machine."""

    def cost_s(count: int) -> float:
        jobs = waiting(
            *(
                job(
                    16 + 7 * n % 480,
                    80 + 37 * n % 8000,
                    at=float(n),
                    requester="k_own" if kind == "own" else "k_a",
                    kudos=0,
                )
                for n in range(count)
            )
        )
        one = offer(max_context_length=4096, needs_kudos=kind == "none fits")
        best = float("inf")
        for _ in range(5):
            started = time.perf_counter()
            for _ in range(20):
                taken = jobs.take(one, 1e6)
                assert (taken is None) == (kind == "none fits")
                if taken is None:
                    assert jobs.skipped(one, 1e6)["kudos"]
                else:
                    jobs.add(taken)
            best = min(best, (time.perf_counter() - started) / 20)
        return best

    # From here on all of the lengths are there, and the number of piles grows no further.
    assert cost_s(10_000) < 4 * cost_s(1_000)

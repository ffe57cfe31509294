"""Which of the waiting jobs a volunteer gets: what fits it, then by rank.

Jobs lie in groups by model, and there in piles of those with the same conditions and nearly the same lengths, ordered
by rank. A pop looks at the first jobs, one of which usually fits; if none does, it takes the best of the tops of all
piles that fit. So its cost grows with the number of different conditions, not with that of jobs.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from heapq import merge
from itertools import chain, islice

from callboard_contracts.kudos import KUDOS_SCALE
from callboard_contracts.volunteer_conditions import Conditions
from callboard_contracts.volunteers import VolunteerOffer

HEAD_START_S = 10.0
"""How much sooner a job counts as come for each doubling of its requester's kudos."""
MAX_HEAD_START_S = 120.0
"""The most that kudos count for; so late at most does a job without any come after one that came later."""
RETRY_SAME_S = 15.0
"""How long a volunteer that failed on a job does not get it again, so that others may try it first."""
FIRST_LOOKS = 32
"""So many jobs are looked at by rank before the piles are."""
MAX_LOOKS = 200
"""So many jobs of one pile are looked at for one pop, where blacklists and exclusions pass them over."""
MAX_SEARCHED = 4_000_000
"""So many characters of prompts are searched for one job, each once for each blacklisted word: some milliseconds."""
ANY = ""
"""The group of jobs that any model may write."""
MODEL, WORKER = "model", "worker"
STEPS = 4
"""Lengths that differ by less than this part of a power of two share a pile."""


@dataclass(slots=True)
class SearchBudget:
    """How many characters may still be searched for blacklisted words."""

    left: int = MAX_SEARCHED

    def covers(self, characters: int) -> bool:
        """Whether any are left, of which so many are taken off; a single prompt may be longer than all of them."""
        some = self.left > 0
        self.left -= characters
        return some


@dataclass(eq=False)
class WaitingJob:
    """A job that waits for a volunteer; `models` are those that may write it, none for any.

    `workers` are the volunteers asked for, or with `excludes` those that may not have it. `entered_at` is monotonic, in
    seconds. `requester` is the account or address that asks, which no volunteer is told. One that is `alone` goes out
    in no batch.
    """

    conditions: Conditions
    models: tuple[str, ...]
    prompt: str
    entered_at: float
    requester: str = ""
    kudos: int = 0
    workers: frozenset[str] = frozenset()
    excludes: bool = False
    alone: bool = False
    failed_at: dict[str, float] = field(default_factory=dict[str, float])

    @cached_property
    def rank(self) -> float:
        """Jobs with a lower one come first: when it came, less the head start of its requester's kudos.

        A head start that grows no further is the ageing: every job becomes the oldest in the end.
        """
        doublings = math.log2(1 + max(0, self.kudos) / KUDOS_SCALE)
        return self.entered_at - min(MAX_HEAD_START_S, HEAD_START_S * doublings)

    @cached_property
    def folded(self) -> str:
        """The prompt as blacklisted words are looked for in it."""
        return self.prompt.casefold()

    @property
    def asks_for(self) -> frozenset[str]:
        """The volunteers that alone may have it; none where others may."""
        return frozenset() if self.excludes else self.workers

    def refusal(self, offer: VolunteerOffer, now: float, budget: SearchBudget) -> str | None:
        """Why this one job is not for a volunteer whose models and conditions fit, or None.

        What the budget does not cover counts as blacklisted.
        """
        if self.workers and (offer.worker_id in self.workers) == self.excludes:
            return "worker_id"
        failed_at = self.failed_at.get(offer.worker_id)
        if failed_at is not None and now - failed_at < RETRY_SAME_S:
            return "worker_id"
        words = offer.blacklist
        if words and not (
            budget.covers(len(words) * len(self.folded)) and all(word not in self.folded for word in words)
        ):
            return "blacklist"
        return None

    def model_for(self, offer: VolunteerOffer) -> str | None:
        """The first of the volunteer's models that may write it, or None."""
        if not self.models:
            return next(iter(offer.models), None)
        return next((model for model in offer.models if model in self.models), None)


_Ranked = tuple[float, int, WaitingJob]
_Place = tuple[str | None, str, str]
"""Whose jobs, or None for all; and the model that may write them, or the volunteer that they ask for."""


@dataclass(eq=False, slots=True)
class _Pile:
    """Jobs of like conditions by rank: `every` one of them, and in `parts` those with the very same.

    A volunteer that `most` allows may have all, and one that `least` refuses none.
    """

    least: Conditions
    most: Conditions
    every: list[_Ranked] = field(default_factory=list[_Ranked])
    parts: dict[Conditions, list[_Ranked]] = field(default_factory=dict[Conditions, list[_Ranked]])

    def fitting(self, offer: VolunteerOffer) -> Iterator[list[_Ranked]]:
        """The jobs whose conditions a volunteer fulfils."""
        if self.most.refusal(offer) is None:
            yield self.every
        elif self.least.refusal(offer) is None:
            yield from (part for conditions, part in self.parts.items() if conditions.refusal(offer) is None)

    def refused(self, offer: VolunteerOffer) -> Iterator[tuple[str, int]]:
        """Why a volunteer may not have the others, and how many."""
        if (reason := self.least.refusal(offer)) is not None:
            yield reason, len(self.every)
        elif self.most.refusal(offer) is not None:
            for conditions, part in self.parts.items():
                if (reason := conditions.refusal(offer)) is not None:
                    yield reason, len(part)


@dataclass(eq=False, slots=True)
class _Group:
    """Jobs in one place: all of them by rank, and in piles by the most that they ask for."""

    every: list[_Ranked] = field(default_factory=list[_Ranked])
    piles: dict[Conditions, _Pile] = field(default_factory=dict[Conditions, _Pile])


class WaitingJobs:
    """The jobs that wait, in the order in which volunteers get them."""

    def __init__(self) -> None:
        self._groups: dict[_Place, _Group] = {}
        self._numbers: dict[WaitingJob, int] = {}
        self._asking = 0
        """How many jobs ask for certain volunteers, which others need not look at."""
        self._count = 0

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, job: WaitingJob) -> None:
        """Takes in a job, new or given back."""
        self._count += 1
        self._numbers[job] = self._count
        self._asking += bool(job.asks_for)
        ranked = (job.rank, self._count, job)
        least, most = _bounds(job.conditions)
        for place in _places(job):
            group = self._groups.setdefault(place, _Group())
            pile = group.piles.setdefault(most, _Pile(least, most))
            insort(group.every, ranked)
            insort(pile.every, ranked)
            insort(pile.parts.setdefault(job.conditions, []), ranked)

    def remove(self, job: WaitingJob) -> None:
        """Takes out a job, if it waits."""
        number = self._numbers.pop(job, None)
        if number is None:
            return
        self._asking -= bool(job.asks_for)
        ranked, most = (job.rank, number), _bounds(job.conditions)[1]
        for place in _places(job):
            group = self._groups[place]
            pile = group.piles[most]
            part = pile.parts[job.conditions]
            for jobs in (group.every, pile.every, part):
                del jobs[bisect_left(jobs, ranked)]
            if not part:
                del pile.parts[job.conditions]
            if not pile.every:
                del group.piles[most]
            if not group.every:
                del self._groups[place]

    def take(self, offer: VolunteerOffer, now: float) -> WaitingJob | None:
        """The job that a volunteer gets, which then waits no longer, or None."""
        budget = SearchBudget()
        found = self._best(offer, now, _preferred(offer), budget)
        if found is None and not offer.own_only:
            found = self._best(offer, now, (None,), budget)
        if found is not None:
            self.remove(found)
        return found

    def skipped(self, offer: VolunteerOffer, now: float) -> dict[str, int]:
        """How many jobs a volunteer could not take, by the Horde's words for the reasons.

        Of those that its conditions fit, the first are looked at one by one.
        """
        found: dict[str, int] = {}
        looked_at, looks, budget = 0, MAX_LOOKS, SearchBudget()
        for group in self._groups_of(offer, (None,), MODEL):
            looked_at += len(group.every)
            for pile in group.piles.values():
                for reason, count in pile.refused(offer):
                    found[reason] = found.get(reason, 0) + count
                for _, _, job in _first(pile.fitting(offer), looks):
                    looks -= 1
                    if (reason := job.refusal(offer, now, budget)) is not None:
                        found[reason] = found.get(reason, 0) + 1
        asking_others = self._asking - sum(len(group.every) for group in self._groups_of(offer, (None,), WORKER))
        if asking_others:
            found["worker_id"] = found.get("worker_id", 0) + asking_others
        others = len(self) - looked_at - self._asking
        if others > 0:
            found["models"] = others
        return found

    def fits(self, job: WaitingJob, offer: VolunteerOffer, now: float, budget: SearchBudget | None = None) -> bool:
        """Whether a volunteer may have a job."""
        if offer.own_only and job.requester not in _preferred(offer):
            return False
        return (
            job.model_for(offer) is not None
            and job.conditions.refusal(offer) is None
            and job.refusal(offer, now, budget or SearchBudget()) is None
        )

    def _best(
        self, offer: VolunteerOffer, now: float, requesters: Sequence[str | None], budget: SearchBudget
    ) -> WaitingJob | None:
        """The job that comes first of those that a volunteer may have, of some requesters or all."""
        groups = list(self._groups_of(offer, requesters, MODEL, WORKER))
        for ranked in islice(merge(*(islice(group.every, FIRST_LOOKS) for group in groups)), FIRST_LOOKS):
            if self.fits(ranked[2], offer, now, budget):
                return ranked[2]
        best: _Ranked | None = None
        for ranked_jobs in (jobs for group in groups for pile in group.piles.values() for jobs in pile.fitting(offer)):
            for ranked in islice(ranked_jobs, MAX_LOOKS):
                if best is not None and ranked[:2] >= best[:2]:
                    break
                job = ranked[2]
                if job.model_for(offer) is not None and job.refusal(offer, now, budget) is None:
                    best = ranked
                    break
        return best[2] if best else None

    def _groups_of(self, offer: VolunteerOffer, requesters: Sequence[str | None], *kinds: str) -> Iterator[_Group]:
        """The groups in which there may be something for a volunteer, of some requesters or all."""
        for requester in requesters:
            for kind in kinds:
                for name in (offer.worker_id,) if kind == WORKER else (ANY, *offer.models):
                    if (group := self._groups.get((requester, kind, name))) is not None:
                        yield group


def _preferred(offer: VolunteerOffer) -> tuple[str, ...]:
    """Whose jobs a volunteer takes before all others."""
    return tuple(dict.fromkeys((offer.account, *offer.priority)))


def _places(job: WaitingJob) -> Iterator[_Place]:
    kind, names = (WORKER, tuple(job.asks_for)) if job.asks_for else (MODEL, tuple(dict.fromkeys(job.models)) or (ANY,))
    for name in names:
        yield None, kind, name
        yield job.requester, kind, name


def _first(piles: Iterable[list[_Ranked]], most: int) -> Iterator[_Ranked]:
    return islice(chain.from_iterable(piles), max(0, most))


@lru_cache(maxsize=4096)
def _bounds(conditions: Conditions) -> tuple[Conditions, Conditions]:
    """The least and the most that jobs of one pile ask for."""
    (least_length, most_length), (least_context, most_context) = map(
        _step, (conditions.max_length, conditions.context_length)
    )
    return (
        replace(conditions, max_length=least_length, context_length=least_context),
        replace(conditions, max_length=most_length, context_length=most_context),
    )


def _step(length: int) -> tuple[int, int]:
    """Between which lengths one lies, of four to each power of two; lengths that are usual end a step."""
    width = max(1, 2 ** (max(1, length - 1).bit_length() - 1) // STEPS)
    most = -(-length // width) * width
    return most - width + 1, most

"""Which of the waiting jobs a volunteer gets: what fits it, then by rank.

Jobs lie in groups by model, and there in piles of those with the same lengths and conditions, ordered by rank. A pop
looks at the top of each pile that fits and takes the best, so that its cost grows with the number of different
conditions, not with that of jobs.
"""

import math
from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from callboard_contracts.kudos import KUDOS_SCALE
from callboard_contracts.volunteers import VolunteerOffer

HEAD_START_S = 10.0
"""How much sooner a job counts as come for each doubling of its requester's kudos."""
MAX_HEAD_START_S = 120.0
"""The most that kudos count for; so late at most does a job without any come after one that came later."""
RETRY_SAME_S = 15.0
"""How long a volunteer that failed on a job does not get it again, so that others may try it first."""
MAX_LOOKS = 200
"""So many jobs of one pile are looked at for one pop, where blacklists and exclusions pass them over."""
MAX_SEARCHED = 4_000_000
"""So many characters of prompts are searched for one job, each once for each blacklisted word: some milliseconds."""
ANY = ""
"""The group of jobs that any model may write."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a job asks of its volunteer; jobs with the same lie in one pile."""

    max_length: int
    context_length: int
    trusted_only: bool = False
    validated_only: bool = False
    slow_workers: bool = True
    extra_slow_workers: bool = False
    nsfw: bool = False

    def refusal(self, offer: VolunteerOffer) -> str | None:
        """The Horde's word for why a volunteer may not have such a job, or None."""
        if self.context_length > offer.max_context_length:
            return "max_context_length"
        if self.max_length > offer.max_length:
            return "max_length"
        if self.nsfw and not offer.nsfw:
            return "nsfw"
        if (self.trusted_only and not offer.trusted) or (self.validated_only and not offer.validated):
            return "untrusted"
        if (offer.slow and not self.slow_workers) or (offer.extra_slow and not self.extra_slow_workers):
            return "performance"
        return None


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
    seconds. `requester` is the account or address that asks, which no volunteer is told.
    """

    conditions: Conditions
    models: tuple[str, ...]
    prompt: str
    entered_at: float
    requester: str = ""
    kudos: int = 0
    workers: frozenset[str] = frozenset()
    excludes: bool = False
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
        if offer.needs_kudos and self.kudos <= 0:
            return "kudos"
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
_Group = dict[Conditions, list[_Ranked]]


class WaitingJobs:
    """The jobs that wait, in the order in which volunteers get them."""

    def __init__(self) -> None:
        self._by_model: dict[str, _Group] = {}
        self._by_worker: dict[str, _Group] = {}
        """Jobs that ask for certain volunteers, which others need not look at."""
        self._by_requester: dict[str, dict[WaitingJob, None]] = {}
        self._numbers: dict[WaitingJob, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, job: WaitingJob) -> None:
        """Takes in a job, new or given back."""
        self._count += 1
        self._numbers[job] = self._count
        ranked = (job.rank, self._count, job)
        for groups, name in self._places(job):
            insort(groups.setdefault(name, {}).setdefault(job.conditions, []), ranked)
        self._by_requester.setdefault(job.requester, {})[job] = None

    def remove(self, job: WaitingJob) -> None:
        """Takes out a job, if it waits."""
        number = self._numbers.pop(job, None)
        if number is None:
            return
        for groups, name in self._places(job):
            group = groups[name]
            pile = group[job.conditions]
            del pile[_position(pile, job.rank, number)]
            if not pile:
                del group[job.conditions]
            if not group:
                del groups[name]
        own = self._by_requester[job.requester]
        del own[job]
        if not own:
            del self._by_requester[job.requester]

    def take(self, offer: VolunteerOffer, now: float) -> WaitingJob | None:
        """The job that a volunteer gets, which then waits no longer, or None."""
        budget = SearchBudget()
        found = self._of_preferred(offer, now, budget)
        if found is None and not offer.own_only:
            found = self._best(offer, now, budget)
        if found is not None:
            self.remove(found)
        return found

    def skipped(self, offer: VolunteerOffer, now: float) -> dict[str, int]:
        """How many jobs a volunteer could not take, by the Horde's words for the reasons."""
        found: dict[str, int] = {}
        budget = SearchBudget()
        looked_at = 0
        for name in self._groups_of(offer):
            for conditions, pile in self._by_model.get(name, {}).items():
                looked_at += len(pile)
                reason = conditions.refusal(offer)
                if reason is not None:
                    found[reason] = found.get(reason, 0) + len(pile)
                    continue
                for _, _, job in pile[:MAX_LOOKS]:
                    if (reason := job.refusal(offer, now, budget)) is not None:
                        found[reason] = found.get(reason, 0) + 1
        for worker, group in self._by_worker.items():
            if worker != offer.worker_id:
                found["worker_id"] = found.get("worker_id", 0) + sum(map(len, group.values()))
        others = len(self) - looked_at - found.get("worker_id", 0)
        if others > 0:
            found["models"] = others
        return found

    def fits(self, job: WaitingJob, offer: VolunteerOffer, now: float, budget: SearchBudget) -> bool:
        """Whether a volunteer may have a job."""
        if offer.own_only and job.requester not in self._preferred(offer):
            return False
        return (
            job.model_for(offer) is not None
            and job.conditions.refusal(offer) is None
            and job.refusal(offer, now, budget) is None
        )

    def _best(self, offer: VolunteerOffer, now: float, budget: SearchBudget) -> WaitingJob | None:
        best: _Ranked | None = None
        for pile in self._piles(offer):
            if best is not None and pile[0][:2] >= best[:2]:
                continue
            for ranked in pile[:MAX_LOOKS]:
                if best is not None and ranked[:2] >= best[:2]:
                    break
                job = ranked[2]
                if job.model_for(offer) is not None and job.refusal(offer, now, budget) is None:
                    best = ranked
                    break
        return best[2] if best else None

    def _of_preferred(self, offer: VolunteerOffer, now: float, budget: SearchBudget) -> WaitingJob | None:
        jobs = (job for account in self._preferred(offer) for job in self._by_requester.get(account, ()))
        return min((job for job in jobs if self.fits(job, offer, now, budget)), key=lambda job: job.rank, default=None)

    @staticmethod
    def _preferred(offer: VolunteerOffer) -> tuple[str, ...]:
        return offer.account, *offer.priority

    def _piles(self, offer: VolunteerOffer) -> Iterator[list[_Ranked]]:
        groups = [self._by_model.get(name, {}) for name in self._groups_of(offer)]
        for group in (*groups, self._by_worker.get(offer.worker_id, {})):
            for conditions, pile in group.items():
                if conditions.refusal(offer) is None:
                    yield pile

    @staticmethod
    def _groups_of(offer: VolunteerOffer) -> Iterable[str]:
        return ANY, *offer.models

    def _places(self, job: WaitingJob) -> Iterator[tuple[dict[str, _Group], str]]:
        if job.asks_for:
            for worker in job.asks_for:
                yield self._by_worker, worker
            return
        for model in dict.fromkeys(job.models) or (ANY,):
            yield self._by_model, model


def _position(pile: list[_Ranked], rank: float, number: int) -> int:
    low, high = 0, len(pile)
    while low < high:
        middle = (low + high) // 2
        if pile[middle][:2] < (rank, number):
            low = middle + 1
        else:
            high = middle
    return low

"""The site's own pools as the Horde's workers: who they are, what they offer, and how fast they write."""

import math
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from callboard_contracts.volunteers import VolunteerRecord
from callboard_contracts.workers import WorkerInfo
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.domain.ports import QueueDepth
from callboard_edge.http.context import EdgeContext

_NAMESPACE = uuid.UUID("5a1c4be0-5d7e-5f0f-9c54-2f3c2f0f7f11")
"""Makes the same id of a pool's name on every edge, after every restart."""
UNKNOWN_TOKENS_PER_S = 10.0
UNKNOWN_TOKENS_PER_REPLY = 80.0
"""What is reckoned with until a pool has written its first reply."""


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool as a worker of the site; `models` are those that the caller is offered."""

    name: str
    models: Sequence[ChatModel]
    workers: Sequence[WorkerInfo]
    tokens_per_s: float
    """The speed of one reply."""
    tokens_per_reply: float
    tokens_last_minute: int
    threads: int | None = None
    """Those of the volunteers, where they are its workers or beside them."""
    waiting_slots: int | None = 0
    """How many slots of each of its workers are for jobs that volunteers write or that wait; None for all of them."""

    @property
    def id(self) -> str:
        """The id by which requesters choose it."""
        return worker_id(self.name)

    @property
    def own_slots(self) -> int:
        """How many replies the site's own engine writes at once."""
        if self.waiting_slots is None:
            return 0
        return sum(max(0, worker.slots - self.waiting_slots) for worker in self._working)

    @property
    def slots(self) -> int:
        """How many replies are written at once; by volunteers, as many as their threads are."""
        return self.own_slots + (self.threads or 0)

    @property
    def held_back(self) -> int:
        """How many jobs wait for hands, beside those in the queue: chat workers hold them meanwhile."""
        return 0 if self.threads is None else max(0, self._slots_used - self.slots)

    @property
    def has_free_slot(self) -> bool:
        """Whether a job would be begun at once."""
        if self.threads is not None:
            return self._slots_used < self.slots
        return any(worker.slots_used < worker.slots for worker in self._working)

    @property
    def draining(self) -> bool:
        """Whether all of its workers take no new jobs."""
        return bool(self.workers) and not self._working

    def wait_s(self, ahead: int, tokens: float) -> int:
        """About how long it takes until so many jobs and then so many tokens are written."""
        rounds = math.ceil(ahead / max(1, self.slots))
        return math.ceil((rounds * self.tokens_per_reply + tokens) / self.tokens_per_s)

    @property
    def _slots_used(self) -> int:
        return sum(worker.slots_used for worker in self.workers)

    @property
    def _working(self) -> list[WorkerInfo]:
        return [worker for worker in self.workers if worker.ready and not worker.draining]


def worker_id(pool: str) -> str:
    """The id of a pool as a worker."""
    return str(uuid.uuid5(_NAMESPACE, pool))


def pool_of(context: EdgeContext, name: str, models: Sequence[ChatModel] = ()) -> Pool:
    """A pool as it stands."""
    workers = context.workers.of("chat", name)
    figures = [model.throughput for worker in workers for model in worker.models if model.throughput is not None]
    return Pool(
        name=name,
        models=models,
        workers=workers,
        tokens_per_s=_mean((one.tokens_per_s for one in figures), UNKNOWN_TOKENS_PER_S),
        tokens_per_reply=_mean((one.tokens_per_reply for one in figures), UNKNOWN_TOKENS_PER_REPLY),
        tokens_last_minute=sum(one.tokens_last_minute for one in figures),
        threads=_threads(context, name),
        waiting_slots=None if is_pool_of_volunteers(context, name) else context.settings.shared_pools.get(name, 0),
    )


def model_speeds(pool: Pool) -> dict[str, float]:
    """How fast one reply of each model is written, in tokens a second, by served names; none until there was one."""
    found: dict[str, list[float]] = {}
    for worker in pool.workers:
        for one in worker.models:
            if one.throughput is not None:
                found.setdefault(one.name, []).append(one.throughput.tokens_per_s)
    return {name: round(_mean(figures, 0.0), 1) for name, figures in found.items()}


def pools_for(context: EdgeContext, caller_models: Sequence[ChatModel]) -> list[Pool]:
    """The pools that serve some models, in the order of the models."""
    by_name: dict[str, list[ChatModel]] = {}
    for model in caller_models:
        by_name.setdefault(model.pool, []).append(model)
    return [pool_of(context, name, models) for name, models in by_name.items()]


def takes_volunteers(context: EdgeContext, model: ChatModel) -> bool:
    """Whether volunteers write with a model, alone or beside an engine of the site."""
    return context.volunteer_jobs is not None and model.pool in context.volunteer_jobs.pools


def is_of_volunteers(context: EdgeContext, model: ChatModel) -> bool:
    """Whether volunteers alone write with a model."""
    return is_pool_of_volunteers(context, model.pool)


def is_pool_of_volunteers(context: EdgeContext, pool: str) -> bool:
    """Whether volunteers are the only workers of a pool."""
    jobs = context.volunteer_jobs
    return jobs is not None and pool in jobs.pools and pool not in context.settings.shared_pools


def worker_count(context: EdgeContext, pool: Pool, model: ChatModel) -> int:
    """How many workers write with a model now."""
    own = 0 if is_of_volunteers(context, model) else len(pool.workers)
    return own + (len(volunteers_for(context, model)) if takes_volunteers(context, model) else 0)


def volunteers_for(context: EdgeContext, model: ChatModel) -> list[VolunteerRecord]:
    """The volunteers that are there and write with a model."""
    return context.volunteers.offering(*names_for_volunteers(context, model))


def names_for_volunteers(context: EdgeContext, model: ChatModel) -> Sequence[str]:
    """The names by which volunteers offer a model."""
    name = model.served_name
    return context.settings.volunteer_models.get(name, (name,))


async def waiting(context: EdgeContext, pool: str) -> tuple[QueueDepth, QueueDepth]:
    """The queue of jobs that are polled, and that of jobs that are listened to, which run first."""
    jobs = context.admission.deps.jobs
    return await jobs.depth("chat", pool, "batch"), await jobs.depth("chat", pool, "live")


def _threads(context: EdgeContext, pool: str) -> int | None:
    """How many replies volunteers write at once for a pool, None for one that takes none."""
    if context.volunteer_jobs is None or pool not in context.volunteer_jobs.pools:
        return None
    if is_pool_of_volunteers(context, pool):
        some = [one for one in context.volunteers.online() if not (one.maintenance or one.paused)]
    else:
        models = [model for model in context.chat_models.models if model.pool == pool]
        some = context.volunteers.offering(*(name for one in models for name in names_for_volunteers(context, one)))
    return sum(one.threads for one in some)


def _mean(numbers: Iterable[float], unknown: float) -> float:
    found = list(numbers)
    return sum(found) / len(found) if found else unknown

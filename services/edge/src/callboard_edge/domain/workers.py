"""Which workers there are, as they announced themselves."""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from time import monotonic
from typing import Literal, Protocol

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.jobs import Service
from callboard_contracts.workers import (
    ANNOUNCE_INTERVAL_S,
    ANNOUNCE_LIFE_S,
    OfferedModel,
    PoolRecord,
    ProcessRecord,
    WorkerInfo,
)

NO_WORKER_RETRY_S = 5.0
WAKE_RETRY_S = 15.0
ANNOUNCE_GRACE_S = ANNOUNCE_INTERVAL_S + 1.0
"""How long after the start announcements may still be on their way, so that no pool counts as one without workers."""

PoolState = Literal["awake", "asleep", "unseen", "failed"]
"""A pool with a worker, one whose workers are gone, one that never had any, and one whose worker ended so often that it
is not started again."""


@dataclass(frozen=True, slots=True)
class _Known:
    info: WorkerInfo
    until: float


@dataclass(frozen=True, slots=True)
class _Present:
    """The workers of one pool that are there `until` the first of them is forgotten, and what they offer by name."""

    workers: list[WorkerInfo] = field(default_factory=list[WorkerInfo])
    until: float = math.inf
    models: dict[str, OfferedModel] = field(default_factory=dict[str, OfferedModel])
    tokens_per_byte: dict[str, float | None] = field(default_factory=dict[str, float | None])


_NOBODY = _Present()


@dataclass(frozen=True, slots=True)
class _KnownProcess:
    record: ProcessRecord
    until: float


class Workers:
    """The announcements of all workers; one that is not repeated in time is forgotten."""

    def __init__(self) -> None:
        self.loaded_at: float | None = None
        """When the announcements were first read, by the event loop's clock; until then every pool counts as awake."""
        self.complete_at = 0.0
        """From when on a worker that has not announced itself counts as one that is not there."""
        self._workers: dict[tuple[Service, str], dict[str, _Known]] = {}
        self._present: dict[tuple[Service, str], _Present] = {}
        """What was made of the announcements of each pool, since every request asks for it several times."""
        self._pools: dict[tuple[Service, str], PoolRecord] = {}
        self._processes: dict[str, _KnownProcess] = {}
        self._gone_at: dict[tuple[Service, str], float] = {}
        self._announced = asyncio.Event()

    def mark_loaded(self, grace_s: float = ANNOUNCE_GRACE_S) -> None:
        """Takes in that the announcements were read; others may be on their way for `grace_s`."""
        if self.loaded_at is None:
            self.loaded_at = monotonic()
            self.complete_at = self.loaded_at + grace_s

    def announce(self, info: WorkerInfo) -> None:
        """Takes an announcement."""
        key = (info.service, info.pool)
        until = self._gone_at[key] = monotonic() + ANNOUNCE_LIFE_S
        self._workers.setdefault(key, {})[info.id] = _Known(info, until)
        self._reckon(key)
        self._announced.set()

    def forget(self, worker_id: str) -> None:
        """Takes out a worker that said goodbye."""
        for key, pool in self._workers.items():
            if pool.pop(worker_id, None) is None:
                continue
            self._reckon(key)
            if not pool:
                self._gone_at[key] = monotonic()

    def record(self, service: Service, pool: str, record: PoolRecord) -> None:
        """Takes in that a pool has had a worker."""
        self._pools[service, pool] = record

    def supervise(self, record: ProcessRecord) -> None:
        """Takes in what `callboard up` says of a process that ended."""
        self._processes[record.name] = _KnownProcess(record, monotonic() + ANNOUNCE_LIFE_S)

    def processes(self) -> list[ProcessRecord]:
        """The processes that were started again or no longer are, by name."""
        now = monotonic()
        self._processes = {name: known for name, known in self._processes.items() if known.until >= now}
        return [known.record for _, known in sorted(self._processes.items())]

    def of(self, service: Service, pool: str) -> list[WorkerInfo]:
        """The workers of a pool that are there now."""
        return list(self._there(service, pool).workers)

    def _there(self, service: Service, pool: str) -> _Present:
        try:
            found = self._present[service, pool]
        except KeyError:
            return _NOBODY
        return found if found.until >= monotonic() else self._reckon((service, pool))

    def _reckon(self, key: tuple[Service, str]) -> _Present:
        """Forgets the workers of a pool that were silent for too long, and takes in what the others offer."""
        now = monotonic()
        known = self._workers[key] = {name: one for name, one in self._workers[key].items() if one.until >= now}
        models: dict[str, list[OfferedModel]] = {}
        for one in known.values():
            for model in one.info.models:
                models.setdefault(model.name, []).append(model)
        present = self._present[key] = _Present(
            [one.info for one in known.values()],
            min((one.until for one in known.values()), default=math.inf),
            {name: offers[0] for name, offers in models.items()},
            {name: _most_tokens_per_byte(offers) for name, offers in models.items()},
        )
        return present

    def count(self, service: Service, pool: str) -> int:
        """How many workers of a pool are there now."""
        return len(self._there(service, pool).workers)

    def state(self, service: Service, pool: str) -> PoolState:
        """Whether a pool has a worker, had one, never had any, or is not started again."""
        if self.loaded_at is None or self._there(service, pool).workers:
            return "awake"
        if any((one.service, one.pool, one.state) == (service, pool, "failed") for one in self.processes()):
            return "failed"
        return "asleep" if (service, pool) in self._pools else "unseen"

    def expects(self, service: Service, model: "Served") -> bool:
        """Whether a model's pool has a worker, has had one, or may be asleep."""
        state = self.state(service, model.pool)
        return state != "failed" and (model.may_sleep or state != "unseen")

    @property
    def announcing(self) -> bool:
        """Whether first announcements may still be on their way, which is so for some seconds at the start."""
        return monotonic() < self.complete_at

    async def wait_announced(self, service: Service, pool: str) -> None:
        """Waits while the first announcement of a pool may still be on its way."""
        if self.state(service, pool) != "unseen":
            return
        try:
            async with asyncio.timeout_at(self.complete_at):
                while self.state(service, pool) == "unseen":
                    self._announced.clear()
                    await self._announced.wait()
        except TimeoutError:
            return

    def gone_at(self, service: Service, pool: str) -> float:
        """When the last worker of a pool went, by the event loop's clock; at the start, as far as is known."""
        return self._gone_at.get((service, pool), self.loaded_at or 0.0)

    def started_at(self, service: Service, pool: str) -> float | None:
        """When a worker of a pool last started, in Unix time; None where that is unknown."""
        record = self._pools.get((service, pool))
        return None if record is None else record.last_started_at

    def model(self, service: Service, pool: str, name: str) -> OfferedModel | None:
        """What the workers of a pool offer under a model's name, or last offered; None when that is unknown."""
        there = self._there(service, pool)
        if there.models or (record := self._pools.get((service, pool))) is None:
            return there.models.get(name)
        return next((model for model in record.models if model.name == name), None)

    def preferred(self, service: Service, pool: str, model: str, cache_key: Callable[[], bytes]) -> str | None:
        """The id of the worker that jobs with the same key go to while it has room; None where there is no choice.

        Every edge comes to the same answer, and a worker that joins or leaves changes it for its own share of keys.
        """
        workers = self._there(service, pool).workers
        if len(workers) < 2:
            return None
        able = [
            info.id
            for info in workers
            if info.ready and not info.draining and any(one.name == model for one in info.models)
        ]
        if len(able) < 2:
            return None
        key = cache_key()
        return max(able, key=lambda worker: blake2b(worker.encode(), key=key, digest_size=8).digest())

    def tokens_per_byte(self, service: Service, pool: str, name: str) -> float | None:
        """How many tokens a byte usually is with a model; None unless every worker of the pool extends holds."""
        return self._there(service, pool).tokens_per_byte.get(name)


def _most_tokens_per_byte(offers: Sequence[OfferedModel]) -> float | None:
    known = [one.tokens_per_byte for one in offers if one.tokens_per_byte is not None]
    return max(known) if len(known) == len(offers) else None


class Served(Protocol):
    """A model, as far as it matters who serves it."""

    @property
    def pool(self) -> str:
        """The pool of workers that serves the model."""
        ...

    @property
    def may_sleep(self) -> bool:
        """Whether the pool's workers may be gone until a job waits for one."""
        ...

    @property
    def longest_wake_s(self) -> float:
        """The longest that a worker of the pool takes to come."""
        ...


class WorkerWait:
    """How long one request waits for the first worker of its model's pool."""

    def __init__(self, workers: Workers, service: Service, model: Served) -> None:
        self._workers = workers
        self._service: Service = service
        self._model = model
        self._asked_at = monotonic()

    @property
    def waking(self) -> bool:
        """Whether there is no worker at this moment."""
        return self._workers.state(self._service, self._model.pool) != "awake"

    def until(self) -> float:
        """Until when, by the event loop's clock, the request waits; infinity where a worker is there.

        Raises:
            CallboardError: `no_worker`, when no worker is expected any more.
        """
        state = self._workers.state(self._service, self._model.pool)
        if state == "awake":
            return math.inf
        until = -math.inf if state == "failed" else self._expected_until(state)
        if until <= monotonic():
            raise self._no_worker(state)
        return until

    def _expected_until(self, state: PoolState) -> float:
        model = self._model
        if model.may_sleep:
            # The job itself wakes the pool, so each request waits for as long as that may take.
            return self._asked_at + model.longest_wake_s
        if state == "unseen":
            return -math.inf
        return self._workers.gone_at(self._service, model.pool) + model.longest_wake_s

    def _no_worker(self, state: PoolState) -> CallboardError:
        if state == "failed":
            message = "The worker of this model ended too often and is not started again."
        elif self._model.may_sleep or state == "asleep":
            message = "No worker of this model is there, and none came in time; try again shortly."
        else:
            message = "No worker has announced itself for this model yet; try again shortly."
        retry_after_s = WAKE_RETRY_S if self._model.may_sleep else NO_WORKER_RETRY_S
        return CallboardError(ErrorCode.NO_WORKER, message, retry_after_s=retry_after_s)


def check_pool(workers: Workers, service: Service, model: Served) -> WorkerWait:
    """Refuses a request that no worker is expected for, else says how long it may wait for one.

    Raises:
        CallboardError: `no_worker`.
    """
    wait = WorkerWait(workers, service, model)
    wait.until()
    return wait

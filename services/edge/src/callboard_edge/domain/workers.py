"""Which workers there are, as they announced themselves."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.jobs import Service
from callboard_contracts.workers import ANNOUNCE_LIFE_S, OfferedModel, PoolRecord, ProcessRecord, WorkerInfo

NO_WORKER_RETRY_S = 5.0

PoolState = Literal["awake", "asleep", "unseen", "failed"]
"""A pool with a worker, one whose workers are gone, one that never had any, and one whose worker ended so often that it
is not started again."""


@dataclass(frozen=True, slots=True)
class _Known:
    info: WorkerInfo
    until: float


@dataclass(frozen=True, slots=True)
class _KnownProcess:
    record: ProcessRecord
    until: float


class Workers:
    """The announcements of all workers; one that is not repeated in time is forgotten."""

    def __init__(self) -> None:
        self.loaded = False
        """Whether the announcements were read once; until then every pool counts as awake."""
        self._workers: dict[tuple[Service, str], dict[str, _Known]] = {}
        self._pools: dict[tuple[Service, str], PoolRecord] = {}
        self._processes: dict[str, _KnownProcess] = {}

    def announce(self, info: WorkerInfo) -> None:
        """Takes an announcement."""
        pool = self._workers.setdefault((info.service, info.pool), {})
        pool[info.id] = _Known(info, asyncio.get_running_loop().time() + ANNOUNCE_LIFE_S)

    def forget(self, worker_id: str) -> None:
        """Takes out a worker that said goodbye."""
        for pool in self._workers.values():
            pool.pop(worker_id, None)

    def record(self, service: Service, pool: str, record: PoolRecord) -> None:
        """Takes in that a pool has had a worker."""
        self._pools[service, pool] = record

    def supervise(self, record: ProcessRecord) -> None:
        """Takes in what `callboard up` says of a process that ended."""
        self._processes[record.name] = _KnownProcess(record, asyncio.get_running_loop().time() + ANNOUNCE_LIFE_S)

    def processes(self) -> list[ProcessRecord]:
        """The processes that were started again or no longer are, by name."""
        now = asyncio.get_running_loop().time()
        self._processes = {name: known for name, known in self._processes.items() if known.until >= now}
        return [known.record for _, known in sorted(self._processes.items())]

    def of(self, service: Service, pool: str) -> list[WorkerInfo]:
        """The workers of a pool that are there now."""
        found = self._workers.get((service, pool))
        if not found:
            return []
        now = asyncio.get_running_loop().time()
        present = [known.info for known in found.values() if known.until >= now]
        if len(present) < len(found):
            self._workers[service, pool] = {info.id: found[info.id] for info in present}
        return present

    def count(self, service: Service, pool: str) -> int:
        """How many workers of a pool are there now."""
        return len(self.of(service, pool))

    def state(self, service: Service, pool: str) -> PoolState:
        """Whether a pool has a worker, had one, never had any, or is not started again."""
        if not self.loaded or self.of(service, pool):
            return "awake"
        if any((one.service, one.pool, one.state) == (service, pool, "failed") for one in self.processes()):
            return "failed"
        return "asleep" if (service, pool) in self._pools else "unseen"

    def model(self, service: Service, pool: str, name: str) -> OfferedModel | None:
        """What the workers of a pool offer under a model's name, or last offered; None when that is unknown."""
        offers: Sequence[OfferedModel] = [model for info in self.of(service, pool) for model in info.models]
        if not offers and (record := self._pools.get((service, pool))) is not None:
            offers = record.models
        return next((model for model in offers if model.name == name), None)

    def preferred(self, service: Service, pool: str, model: str, cache_key: Callable[[], bytes]) -> str | None:
        """The id of the worker that jobs with the same key go to while it has room; None where there is no choice.

        Every edge comes to the same answer, and a worker that joins or leaves changes it for its own share of keys.
        """
        able = [
            info.id
            for info in self.of(service, pool)
            if info.ready and not info.draining and any(one.name == model for one in info.models)
        ]
        if len(able) < 2:
            return None
        key = cache_key()
        return max(able, key=lambda worker: blake2b(worker.encode(), key=key, digest_size=8).digest())

    def tokens_per_byte(self, service: Service, pool: str, name: str) -> float | None:
        """How many tokens a byte usually is with a model; None unless every worker of the pool extends holds."""
        found = [
            model.tokens_per_byte for info in self.of(service, pool) for model in info.models if model.name == name
        ]
        known = [one for one in found if one is not None]
        return max(known) if known and len(known) == len(found) else None


def check_pool(workers: Workers, service: Service, pool: str, *, may_sleep: bool) -> None:
    """Refuses a request that no worker is expected for.

    Raises:
        CallboardError: `no_worker`.
    """
    state = workers.state(service, pool)
    if state == "failed":
        raise CallboardError(
            ErrorCode.NO_WORKER,
            "The worker of this model ended too often and is not started again.",
            retry_after_s=NO_WORKER_RETRY_S,
        )
    if not may_sleep and state == "unseen":
        raise CallboardError(
            ErrorCode.NO_WORKER,
            "No worker has announced itself for this model yet; try again shortly.",
            retry_after_s=NO_WORKER_RETRY_S,
        )

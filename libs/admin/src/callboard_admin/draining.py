"""Drains workers: they take no more jobs, finish those that run, and end."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Literal

from callboard_contracts import subjects
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.model import Message
from callboard_contracts.streams import BUCKET_WORKERS
from callboard_contracts.workers import WorkerInfo
from callboard_kit.bucket import Bucket
from callboard_kit.bus import Bus, BusUnavailable, NoResponders

ORDER_TIMEOUT_S = 5.0
POLL_S = 0.5
MIN_ID = 6
"""The fewest characters of its id that name a worker."""

State = Literal["draining", "ended", "no_answer"]


class DrainState(Message):
    """How far one worker is; `running` is how many jobs it still had when it last said so."""

    worker: WorkerInfo
    state: State
    running: int


async def find_workers(bus: Bus, targets: Sequence[str], *, everything: bool = False) -> list[WorkerInfo]:
    """The workers that are meant: by the start of their id, by `service/pool`, or all.

    Raises:
        CallboardError: a target names none, or the start of an id names several.
        BusError: the bus failed.
    """
    workers = sorted(await _workers(bus), key=lambda one: (one.service, one.pool, one.id))
    if everything:
        return workers
    chosen: dict[str, WorkerInfo] = {}
    for target in targets:
        is_pool = "/" in target
        found = [one for one in workers if _is_meant(one, target)]
        if not found or (len(found) > 1 and not is_pool):
            raise CallboardError(
                ErrorCode.NOT_FOUND,
                f"{target[:80]!r} names {len(found) or 'no'} worker{'s' if len(found) > 1 else ''}; allowed are a pool "
                f"as in chat/local, and the first {MIN_ID} or more characters of a worker's id",
            )
        chosen.update((one.id, one) for one in found)
    return list(chosen.values())


def _is_meant(worker: WorkerInfo, target: str) -> bool:
    if "/" in target:
        return target == f"{worker.service}/{worker.pool}"
    return len(target) >= MIN_ID and worker.id.startswith(target)


async def drain(bus: Bus, workers: Sequence[WorkerInfo]) -> list[DrainState]:
    """Orders the workers to drain, and returns how each took it; raises BusError."""
    return list(await asyncio.gather(*(_order(bus, worker) for worker in workers)))


async def _order(bus: Bus, worker: WorkerInfo) -> DrainState:
    try:
        await bus.request(subjects.drain(worker.id), b"", ORDER_TIMEOUT_S)
    except (NoResponders, BusUnavailable):
        return DrainState(worker=worker, state="no_answer", running=worker.slots_used)
    return DrainState(worker=worker, state="draining", running=worker.slots_used)


async def progress(bus: Bus, states: Sequence[DrainState]) -> AsyncGenerator[list[DrainState]]:
    """Yields, each time something has changed, how far the workers are, until all have ended; raises BusError."""
    known = list(states)
    while any(one.state == "draining" for one in known):
        await asyncio.sleep(POLL_S)
        present = {one.id: one for one in await _workers(bus)}
        after = [
            one
            if one.state != "draining"
            else DrainState(worker=one.worker, state="draining", running=present[one.worker.id].slots_used)
            if one.worker.id in present
            else DrainState(worker=one.worker, state="ended", running=0)
            for one in known
        ]
        if after != known:
            yield after
        known = after


async def _workers(bus: Bus) -> list[WorkerInfo]:
    entries = await Bucket(bus, BUCKET_WORKERS).list("worker.>")
    return [WorkerInfo.model_validate_json(entry.value) for entry in entries]

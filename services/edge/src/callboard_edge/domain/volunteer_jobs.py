"""Asks the chat workers that hold jobs for volunteers, each in turn."""

import asyncio
import random
import secrets
from collections.abc import Callable, Sequence
from typing import Protocol

from callboard_contracts.volunteers import (
    ID_MARK,
    MAX_POP_WAIT_S,
    PopReply,
    PopRequest,
    ProgressRequest,
    SubmitReply,
    SubmitRequest,
    VolunteerOffer,
)
from callboard_contracts.workers import WorkerInfo
from callboard_edge.domain.workers import Workers

LONGEST_WAIT_S = 60.0
TURN_S = 1.0
"""How long a volunteer waits at each of several chat workers before it is the turn of the next."""
LONG_TURN_S = 5.0
"""The same where there is one."""
ADOPTION_WAIT_S = 15.0
"""How long a text may wait until another chat worker has taken over the job of one that was lost."""
ADOPTION_PAUSE_S = 0.5
REMEMBERED_S = 120.0
"""How long a chat worker that is gone is known as one that had jobs."""
MAX_ADOPTIONS = 64
"""So many texts wait for that at once."""


class ChatWorkerGone(Exception):  # noqa: N818 - a state: another takes its jobs over
    """Nobody listens under the id of a chat worker."""


class VolunteerWorkers(Protocol):
    """One chat worker after another, by its id; None where it does not answer."""

    async def pop(self, worker: str, request: PopRequest) -> PopReply | None:
        """Jobs for a volunteer."""
        ...

    async def withdraw(self, worker: str, ticket: str) -> None:
        """Says that a volunteer left before the answer to its pop."""
        ...

    async def submit(self, worker: str, request: SubmitRequest) -> SubmitReply | None:
        """What became of a text; raises ChatWorkerGone."""
        ...

    async def progress(self, worker: str, request: ProgressRequest) -> SubmitReply | None:
        """What became of a piece of a text."""
        ...


class VolunteerJobs:
    """The jobs for volunteers, whichever chat worker of the `pools` holds them."""

    def __init__(
        self,
        ask: VolunteerWorkers,
        workers: Workers,
        pools: Sequence[str],
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._ask = ask
        self._workers = workers
        self.pools = tuple(pools)
        self._stopping = stopping
        self._adoptions = 0
        self._seen: dict[str, float] = {}
        """When chat workers were last there, by the beginnings of their jobs' ids."""

    async def pop(self, offer: VolunteerOffer, amount: int, wait_s: float) -> PopReply:
        """Jobs for a volunteer, for which it waits for so long."""
        clock = asyncio.get_running_loop().time
        until = clock() + min(wait_s, LONGEST_WAIT_S)
        # Whoever is asked first has the better chance, and all learn in this way what volunteers offer.
        ids = self._ids()
        random.shuffle(ids)
        dropped, skipped = 0, dict[str, int]()
        for worker in ids:
            reply = await self._pop(worker, offer, amount, 0.0)
            if reply is None:
                continue
            dropped += reply.dropped
            if reply.jobs:
                return reply.model_copy(update={"dropped": dropped})
            for reason, count in reply.skipped.items():
                skipped[reason] = skipped.get(reason, 0) + count
        turn = 0
        while (left_s := until - clock()) > 0 and not self._stopping():
            ids = self._ids()
            if not ids:
                await asyncio.sleep(min(left_s, TURN_S))
                continue
            turn_s = min(left_s, TURN_S if len(ids) > 1 else LONG_TURN_S, MAX_POP_WAIT_S)
            began = clock()
            reply = await self._pop(ids[turn % len(ids)], offer, amount, turn_s)
            turn += 1
            if reply is not None and reply.jobs:
                return reply.model_copy(update={"dropped": dropped + reply.dropped})
            if clock() - began < turn_s / 2:
                # It did not let the volunteer wait, or is gone.
                await asyncio.sleep(min(turn_s, max(0.0, until - clock())))
        return PopReply(skipped=skipped, dropped=dropped)

    async def submit(self, request: SubmitRequest) -> SubmitReply | None:
        """What became of a text; None where the chat worker that has its job does not answer.

        The text of a job whose chat worker is gone waits a while for another to take the job over.
        """
        reply, lost = await self._submit(request)
        if not lost or request.text is None or self._adoptions >= MAX_ADOPTIONS:
            return reply
        self._adoptions += 1
        try:
            clock = asyncio.get_running_loop().time
            until = clock() + ADOPTION_WAIT_S
            while reply is not None and reply.outcome == "unknown" and clock() < until and not self._stopping():
                await asyncio.sleep(ADOPTION_PAUSE_S)
                reply, _ = await self._submit(request)
            return reply
        finally:
            self._adoptions -= 1

    async def progress(self, request: ProgressRequest) -> SubmitReply | None:
        """What became of a piece of a text; None where the chat worker that has its job does not answer."""
        holder = self._holder(request.id)
        return SubmitReply(outcome="unknown") if holder is None else await self._ask.progress(holder, request)

    async def _submit(self, request: SubmitRequest) -> tuple[SubmitReply | None, bool]:
        """What became of a text, and whether its job may be with a chat worker that was lost."""
        holder, ids = self._holder(request.id), self._ids(draining=True)
        if holder is not None:
            try:
                return await self._ask.submit(holder, request), False
            except ChatWorkerGone:
                ids.remove(holder)
        for worker in ids:
            try:
                reply = await self._ask.submit(worker, request)
            except ChatWorkerGone:
                continue
            if reply is not None and reply.outcome != "unknown":
                return reply, False
        return SubmitReply(outcome="unknown"), request.id[:ID_MARK] in self._seen

    async def _pop(self, worker: str, offer: VolunteerOffer, amount: int, wait_s: float) -> PopReply | None:
        ticket = secrets.token_hex(16)
        request = PopRequest(ticket=ticket, offer=offer, amount=amount, wait_s=wait_s)
        reply = None
        try:
            reply = await self._ask.pop(worker, request)
            return reply
        finally:
            if reply is None:
                await asyncio.shield(self._ask.withdraw(worker, ticket))

    def _holder(self, job_id: str) -> str | None:
        """The chat worker that handed a job out, if it is there."""
        mark = job_id[:ID_MARK].lower()
        return next((worker for worker in self._ids(draining=True) if worker.startswith(mark)), None)

    def _ids(self, *, draining: bool = False) -> list[str]:
        found: list[WorkerInfo] = [one for pool in self.pools for one in self._workers.of("chat", pool)]
        now = asyncio.get_running_loop().time()
        self._seen = {mark: at for mark, at in self._seen.items() if now - at < REMEMBERED_S}
        self._seen |= {one.id[:ID_MARK]: now for one in found}
        return [one.id for one in found if draining or not one.draining]

"""One job that an own engine and volunteers share, while it waits and while a volunteer writes it."""

import asyncio
from collections.abc import Callable

from callboard_chat.backends.volunteers import VolunteerEngine, VolunteerReply
from callboard_chat.domain.ports import Chunk, Continuation
from callboard_chat.domain.shared_jobs import OwnSlots, Turn
from callboard_contracts.chat import ChatJob, ChatRequest
from callboard_worker.engine import EngineUnavailable


class SharedJob:
    """One job that waits for an own slot, for volunteers, or for both."""

    def __init__(
        self,
        slots: OwnSlots,
        volunteers: VolunteerEngine,
        job: ChatJob,
        shown: ChatRequest | None,
        continuation: Continuation | None,
        left_s: Callable[[], float],
        *,
        own_may: bool,
    ) -> None:
        self.own_may = own_may
        self.shown = shown
        self.model = job.request.model
        self.reply: VolunteerReply | None = None
        self.dropped = bool(continuation and continuation.tokens)
        """Whether somebody has broken off."""
        self.faults = 0
        """How many volunteers have failed on it."""
        self._slots = slots
        self._volunteers = volunteers
        self._job = job
        self._continuation = continuation
        self._left_s = left_s
        self._turn: Turn | None = None
        self._woken = asyncio.Event()
        self._told = False
        self._at_start = job.request.mode == "chat" and not (continuation and continuation.text)

    @property
    def has_slot(self) -> bool:
        """Whether the own engine is to write it."""
        return self._turn is not None and self._turn.has_slot

    @property
    def place(self) -> int:
        """Which in line for an own slot it is, from 1; 0 where it is not in line."""
        return self._slots.place(self._turn) if self._turn else 0

    def line_up(self, *, batch: bool) -> None:
        """Has it wait for an own slot too."""
        if self._turn is None:
            self._turn = Turn(self._may_begin, self._begin)
            self._slots.enter(self._turn, batch=batch)
        else:
            # A volunteer may have given it back while a slot was free.
            self._slots.serve()

    def post(self) -> None:
        """Has it wait for volunteers too."""
        if self.reply is None and not self.has_slot and self.shown is not None:
            job = self._job
            self.reply = self._volunteers.post(
                job.request_id,
                job.tenant,
                self.shown,
                self._continuation,
                self._volunteers.age_s(job),
                self._left_s(),
            )

    async def wait(self, timeout_s: float) -> None:
        """Waits until something has changed, or for the time given."""
        if self.has_slot:
            return
        if self.reply is not None:
            await self.reply.wait(timeout_s)
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
        except TimeoutError:
            return

    def chunk(self) -> Chunk | None:
        """What a volunteer has written since, or None.

        Raises:
            EngineUnavailable: the volunteer dropped a text that was partly told, and another engine may go on.
            EngineFailed: too many volunteers failed, and no other engine may try.
        """
        if self.reply is None:
            return None
        job = self.reply.job
        self.faults = max(self.faults, job.faults)
        self.dropped = self.dropped or job.faults > 0
        if job.faults and self.own_may:
            if self._told:
                raise EngineUnavailable("a volunteer gave the job back")
            if job.state == "failed":
                self._withdraw()
                self.shown = None
                return None
        chunk = self.reply.chunk()
        if self._at_start and chunk.text:
            chunk.text = chunk.text.lstrip()
            self._at_start = not chunk.text
        self._told = self._told or bool(chunk.text)
        # Until there is a text, nothing is expected of anybody.
        return chunk if self._told or chunk.finish is not None else None

    def end(self) -> None:
        """Takes it back, wherever it waits or runs."""
        self._withdraw()
        if self._turn is not None:
            self._slots.leave(self._turn)

    def _may_begin(self) -> bool:
        if self.reply is None:
            return True
        job = self.reply.job
        return job.handout is None and job.state != "done" and not self._told and job.served_by is None

    def _begin(self) -> None:
        if self.reply is not None:
            self.reply.job.touch()
        self._withdraw()
        self._woken.set()

    def _withdraw(self) -> None:
        if self.reply is not None:
            self._volunteers.pending.withdraw(self.reply.job)
            self.reply = None

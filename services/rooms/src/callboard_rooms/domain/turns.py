"""What the turns of a room cause outside it: jobs, announcements, and holds that are given back.

Every step can be repeated, because what it creates has the turn's ids.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from callboard_contracts.chat import ChatJob
from callboard_contracts.errors import CallboardError, ErrorInfo
from callboard_contracts.jobs import JOB_VERSION
from callboard_contracts.quota import Hold
from callboard_contracts.rooms import Room, Turn
from callboard_contracts.speech import NarratedReply, SpeechJob
from callboard_rooms.domain.dialogue import request_of
from callboard_rooms.domain.ports import Holds, RoomAudio, TurnJobs, TurnResults

log = logging.getLogger(__name__)

CANCEL_WAIT_S = 1.0
"""How long a worker has to show that it had a job that was cancelled."""
CANCEL_POLL_S = 0.1


def utterance_of(turn: Turn) -> str:
    """The name of a turn's utterance, which sorts as the turns do."""
    assert turn.speech is not None
    return f"{turn.number:08d}-{turn.speech.request_id}"


class TurnEffects:
    """Queues the jobs of turns, and takes back what turns that are given up have caused."""

    def __init__(
        self,
        jobs: TurnJobs,
        results: TurnResults,
        audio: RoomAudio,
        holds: Holds,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.jobs = jobs
        self.results = results
        self._audio = audio
        self._holds = holds
        self._sleep = sleep

    async def queue(self, room: Room, turn: Turn) -> tuple[int | None, int | None]:
        """Queues a turn's jobs and returns their places; a reply that cannot be spoken is written all the same.

        Raises:
            CallboardError: the queue of the one job that matters did not take it.
            StoreUnavailable: the bus did not answer; it may have been queued.
        """
        if turn.request is None:
            return None, await self._queue_speech(room, turn)
        chat = ChatJob(
            version=JOB_VERSION,
            request_id=turn.id,
            edge=turn.edge,
            tenant=turn.tenant,
            hold=turn.hold,
            held=turn.held,
            created_at=turn.started_at or turn.created_at,
            deadline_at=turn.deadline_at,
            request=request_of(room, turn),
        )
        job_seq = await self.jobs.queue_chat(chat, turn.pool)
        if turn.speech is None:
            return job_seq, None
        try:
            return job_seq, await self._queue_speech(room, turn)
        except CallboardError as error:
            log.warning("speech_not_queued", extra={"request_id": turn.id, "code": error.info.code.value})
            await self._release(turn.speech.hold)
            return job_seq, None

    async def give_up(self, room_id: str, turn: Turn, error: ErrorInfo | None = None) -> None:
        """Ends a turn outside its room: its jobs, its holds and its utterance; raises StoreUnavailable."""
        if turn.started_at is not None:
            await self.jobs.cancel(turn.id)
        if turn.started_at is not None and turn.speech is not None:
            await self.jobs.cancel(turn.speech.request_id)
        if turn.job_seq is not None:
            await self.jobs.remove_chat(turn.job_seq)
        if turn.speech_seq is not None:
            await self.jobs.remove_speech(turn.speech_seq)
        if not await self._was_begun(turn, turn.id):
            await self._release(turn.hold)
            await self.results.keep_error(turn, error)
        if turn.speech is not None and not await self._was_begun(turn, turn.speech.request_id):
            await self._release(turn.speech.hold)
            if turn.started_at is not None:
                await self._audio.leave_out(room_id, turn)

    async def refused(self, room_id: str, turn: Turn, error: ErrorInfo) -> None:
        """Ends a turn outside its room whose job its queue did not take; raises StoreUnavailable."""
        await self._release(turn.hold)
        await self.results.keep_error(turn, error)
        if turn.speech is not None:
            await self._release(turn.speech.hold)
            if turn.request is None:
                await self._audio.leave_out(room_id, turn)

    async def _queue_speech(self, room: Room, turn: Turn) -> int:
        """Announces a turn's utterance and queues its job; the listeners are told where the queue is full."""
        speech = turn.speech
        assert speech is not None
        await self._audio.announce(room, turn)
        job = SpeechJob(
            version=JOB_VERSION,
            request_id=speech.request_id,
            edge=turn.edge,
            tenant=speech.tenant,
            hold=speech.hold,
            created_at=turn.started_at or turn.created_at,
            deadline_at=turn.deadline_at,
            room=room.id,
            utterance=utterance_of(turn),
            request=speech.request,
            in_room=True,
            narrates=NarratedReply(edge=turn.edge, request_id=turn.id) if turn.request else None,
        )
        try:
            return await self.jobs.queue_speech(job, speech.pool)
        except CallboardError:
            await self._audio.leave_out(room.id, turn)
            raise

    async def _was_begun(self, turn: Turn, request_id: str) -> bool:
        """Whether a worker has the job, which then settles its hold and keeps its result itself."""
        if turn.started_at is None:
            return False
        for _ in range(round(CANCEL_WAIT_S / CANCEL_POLL_S)):
            if await self.jobs.was_begun(request_id):
                return True
            await self._sleep(CANCEL_POLL_S)
        return False

    async def _release(self, hold: Hold | None) -> None:
        if hold is not None:
            await self._holds.release(hold)

"""Rooms: requests, the ends of turns and the clock change a room's document, and what changed has its effects.

A process may die between any two steps. The document says what is to be done, so that the next event of the room or the
next pass of the reaper, in any process, does it.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakValueDictionary

from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.rooms import (
    MAX_MESSAGE_BYTES,
    CancelTurn,
    OpenRoom,
    PostTurn,
    Room,
    RoomReply,
    RoomRequest,
    SpeakInRoom,
    Turn,
    TurnEnded,
    room_id,
)
from callboard_rooms.domain import room as rooms
from callboard_rooms.domain.dialogue import Limits
from callboard_rooms.domain.ports import Conflict, RoomMetrics, RoomNews, RoomStore, StoredRoom, StoreUnavailable
from callboard_rooms.domain.recent_rooms import RecentRooms
from callboard_rooms.domain.room import Change, IdlePolicy
from callboard_rooms.domain.turns import TurnEffects

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 60
FIRST_PAUSE_S = 0.004
MAX_PAUSE_S = 0.25
MAX_POST_AGE_S = 30.0
"""A turn that was made longer ago is refused: its edge has given it up by now and released its holds."""
NOTE_PAUSE_S = 0.25
"""The places of a turn's jobs are noted after this time, beside the reply; many a turn has ended by then."""
GIVE_UP_ATTEMPTS = 60
GIVE_UP_PAUSE_S = 1.0
"""A turn that its room has forgotten is taken back for a minute, as no other process would."""
SURELY_DEDUPLICATED_S = 60.0
"""For so long a job that is stored again is known by its id; later it is looked for."""
DEADLINE = ErrorInfo(code=ErrorCode.DEADLINE_EXCEEDED, message="The reply was not finished before its deadline.")

Decide = Callable[[StoredRoom], Change]


@dataclass(frozen=True, slots=True)
class _Places:
    """Where a turn's jobs lie in their work queues."""

    job_seq: int | None
    speech_seq: int | None


class Background(Protocol):
    """The owner of work that must not end when its request does."""

    def start(self, work: Coroutine[Any, Any, None], name: str) -> object:
        """Runs a coroutine to its end, or until the process ends."""
        ...


class RoomService:
    """Changes rooms by compare-and-set, and sees to what follows from it.

    Every method raises StoreUnavailable when the bus does not answer in time; then it may have been done.
    """

    def __init__(
        self,
        store: RoomStore,
        effects: TurnEffects,
        news: RoomNews,
        metrics: RoomMetrics,
        background: Background,
        now: Callable[[], float],
        limits: Limits,
        policy: IdlePolicy,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._effects = effects
        self._news = news
        self._metrics = metrics
        self._background = background
        self._now = now
        self._limits = limits
        self._policy = policy
        self._sleep = sleep
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._recent = RecentRooms(now)
        self._unnoted: dict[str, _Places] = {}
        """The places of the jobs that this process has queued and not noted in their rooms yet."""

    async def open(self, request: OpenRoom) -> RoomReply:
        """Opens a room, or finds it open; a secret claims a room that nobody has claimed."""

        def decide(stored: StoredRoom) -> Change:
            found = stored.room or self._new(request, stored)
            return Change(rooms.opened(found, request, self._now()))

        before, change = await self._change(room_id(request.kind, request.key), decide)
        assert change.room is not None
        return RoomReply(id=change.room.id, created=before.room is None)

    async def post(self, request: PostTurn) -> RoomReply:
        """Adds a turn to a room, which is answered when those before it are."""
        if request.turn.request is None:
            raise CallboardError(ErrorCode.INVALID_REQUEST, "The turn asks no model.", param="turn")
        before, room = await self._add(request)
        self._background.start(self._start(before, Change(room)), "start-turn")
        # The turn's job goes out before the reply, since the model's first token waits for it.
        await asyncio.sleep(0)
        return RoomReply(id=room.id, created=before.room is None)

    async def speak(self, request: SpeakInRoom) -> RoomReply:
        """Has a text spoken in a room, after what is said there already."""
        if request.turn.request is not None or request.turn.speech is None:
            raise CallboardError(ErrorCode.INVALID_REQUEST, "The turn has nothing to speak.", param="turn")
        before, room = await self._add(request, lambda room: rooms.check_secret(room, request.secret))
        known = before.room.speaking if before.room is not None else ()
        for turn in room.speaking:
            if turn.id == request.turn.id and turn not in known:
                try:
                    await self._queue(room, turn, told=True)
                except StoreUnavailable:
                    # The turn is in the room, from where the reaper queues it.
                    log.warning("speech_postponed", extra={"request_id": turn.id})
        return RoomReply(id=room.id, created=before.room is None)

    async def reset(self, request: RoomRequest) -> RoomReply:
        """Empties a room: its dialogue and its waiting turns go, and the running one is cancelled."""
        return await self._empty(request, lambda room: rooms.reset(room, self._now()))

    async def end(self, request: RoomRequest) -> RoomReply:
        """Ends a room and forgets it."""
        return await self._empty(request, lambda room: Change(None, room.open_turns))

    async def cancel(self, request: CancelTurn) -> RoomReply:
        """Gives up a turn whose client has left, and starts the next."""

        def decide(stored: StoredRoom) -> Change:
            if stored.room is None:
                return Change(None)
            return rooms.given_up(stored.room, request.turn, self._limits, self._now())

        found = room_id(request.kind, request.key)
        before, change = await self._change(found, decide)
        await self._start(before, change)
        return RoomReply(id=found)

    async def turn_ended(self, event: TurnEnded, *, may_lag: bool = False) -> bool:
        """Takes what a worker kept of a turn, and starts the next.

        A turn without a result has failed. With `may_lag` a replica may not have the result or the turn yet: where it
        has not, nothing is done, and the answer is false.
        """
        result = await self._effects.results.read(event.turn)
        if result is None and may_lag:
            return False
        self._unnoted.pop(event.turn, None)

        def decide(stored: StoredRoom) -> Change:
            if stored.room is None:
                return Change(None)
            return rooms.ended(stored.room, event.turn, result, self._limits, self._now())

        before, change = await self._change(event.room, decide)
        if change.room is before.room:
            return not may_lag or (before.room is not None and any(one.id == event.turn for one in before.room.ended))
        failed = result is None or result.end.reason in {"error", "cancelled"}
        self._metrics.turn_ended("failed" if failed else "answered")
        await self._start(before, change)
        return True

    async def tidy(self, room_id: str) -> bool:
        """Does for a room what is due by the clock, and what a process that is gone left undone.

        The answer is whether the room is still there.
        """

        def decide(stored: StoredRoom) -> Change:
            if stored.room is None:
                return Change(None)
            return rooms.tidied(stored.room, self._limits, self._policy, self._now())

        before, change = await self._change(room_id, decide)
        if before.room is not None and change.room is None:
            log.info("room_ended", extra={"room": room_id, "reason": "idle"})
        await self._start(before, change, DEADLINE)
        room = change.room
        for turn in rooms.unqueued(room, self._now()) if room is not None else ():
            assert room is not None
            await self._resume(room, turn)
        return room is not None

    def _new(self, request: OpenRoom | PostTurn, stored: StoredRoom) -> Room:
        # Turns are numbered on from those of a room of this key that has ended, whose listeners may still be there.
        return rooms.new_room(request.kind, request.key, self._now(), stored.revision + 1 if stored.revision else 1)

    async def _add(
        self, request: PostTurn, check: Callable[[Room], None] = lambda _room: None
    ) -> tuple[StoredRoom, Room]:
        """Adds a turn, and returns the room before and after."""
        turn = request.turn
        if len(turn.text.encode()) > MAX_MESSAGE_BYTES:
            raise CallboardError(ErrorCode.BODY_TOO_LARGE, "The message is too long.", param="message")

        def decide(stored: StoredRoom) -> Change:
            if turn.created_at < self._now() - MAX_POST_AGE_S:
                raise CallboardError(
                    ErrorCode.BUS_UNAVAILABLE, "The message came too late; try again.", retry_after_s=1.0
                )
            if stored.room is None and not request.opens:
                raise _not_found()
            found = stored.room or self._new(request, stored)
            check(found)
            return rooms.added(found, turn, self._limits, self._now(), unique=request.unique, retries=request.retries)

        before, change = await self._change(room_id(request.kind, request.key), decide)
        assert change.room is not None
        return before, change.room

    async def _empty(self, request: RoomRequest, change_of: Callable[[Room], Change]) -> RoomReply:
        def decide(stored: StoredRoom) -> Change:
            if stored.room is None:
                raise _not_found()
            if not request.by_admin:
                rooms.check_secret(stored.room, request.secret)
            return change_of(stored.room)

        found = room_id(request.kind, request.key)
        before, change = await self._change(found, decide)
        await self._start(before, change)
        return RoomReply(id=found)

    async def _change(self, room_id: str, decide: Decide) -> tuple[StoredRoom, Change]:
        """Decides on a room until nobody else changed it in between; returns it as it was, and the change.

        Raises:
            CallboardError: what the decision refuses, or `conflict`.
        """
        async with self._locks.setdefault(room_id, asyncio.Lock()):
            done = await self._change_recalled(room_id, decide)
            if done is not None:
                return done
            for attempt in range(MAX_ATTEMPTS):
                try:
                    stored = await self._load(room_id)
                    change = decide(stored)
                    if change.room != stored.room:
                        await self._write(room_id, change, stored.revision)
                except Conflict:
                    self._metrics.conflict()
                    await self._sleep(random.uniform(0.0, min(MAX_PAUSE_S, FIRST_PAUSE_S * 2**attempt)))
                else:
                    return stored, change
        raise CallboardError(
            ErrorCode.CONFLICT, "Others were changing the room at the same moment; try again.", retry_after_s=1.0
        )

    async def _change_recalled(self, room_id: str, decide: Decide) -> tuple[StoredRoom, Change] | None:
        """Changes a room as this process wrote it last, which saves reading it; None where that does not do.

        The write finds out whether the room is still so. What is refused, and what changes nothing, is decided by a
        room that was read.
        """
        recalled = self._recent.recall(room_id)
        if recalled is None:
            return None
        try:
            change = decide(recalled)
        except CallboardError:
            return None
        if change.room is None or change.room == recalled.room:
            return None
        try:
            await self._write(room_id, change, recalled.revision)
        except Conflict:
            self._metrics.conflict()
            return None
        return recalled, change

    async def _load(self, room_id: str) -> StoredRoom:
        """Reads a room; raises Conflict where a replica does not have yet what this process has written."""
        stored = await self._store.load(room_id)
        if stored.revision < self._recent.revision(room_id):
            raise Conflict(room_id)
        return stored

    async def _write(self, room_id: str, change: Change, revision: int) -> None:
        """Writes a room that is at a revision, and says so; raises Conflict."""
        # Until it is known whether it was written, and by whom.
        self._recent.forget(room_id)
        if change.room is None:
            await self._store.delete(room_id, revision)
        else:
            self._recent.note(room_id, await self._store.save(change.room, revision, change.document))
        await self._news.changed(room_id)

    async def _start(self, before: StoredRoom, change: Change, error: ErrorInfo | None = None) -> None:
        """Sees to what a change caused: the jobs of the turn that runs now, and the end of those given up."""
        for turn in change.cancelled:
            self._metrics.turn_ended("failed" if error else "cancelled")
            placed = _placed(turn, self._unnoted.pop(turn.id, None))
            self._background.start(self._give_up(_id(before, change), placed, error), "give-up-turn")
        room = change.room
        if room is None or room.running is None:
            return
        previous = before.room.running if before.room is not None else None
        if previous is None or previous.id != room.running.id:
            self._metrics.turn_started((room.running.started_at or 0.0) - room.running.created_at)
            await self._queue(room, room.running)

    async def _queue(self, room: Room, turn: Turn, *, told: bool = False) -> None:
        """Queues a turn's jobs and notes where they lie; `told` raises what its queue refuses."""
        try:
            job_seq, speech_seq = await self._effects.queue(room, turn)
        except CallboardError as refused:
            await self._give_up_refused(room, turn, refused.info)
            if told:
                raise
            return

        places = _Places(job_seq, speech_seq)
        if turn.request is None:
            await self._note_queued(room, turn, places)
            self._metrics.turn_ended("spoken")
        else:
            self._unnoted[turn.id] = places
            self._background.start(self._note_later(room, turn), "note-turn")

    async def _note_later(self, room: Room, turn: Turn) -> None:
        """Notes where a turn's jobs lie, unless it has ended by then; a process that dies before it, another finds."""
        await self._sleep(NOTE_PAUSE_S)
        places = self._unnoted.pop(turn.id, None)
        if places is not None:
            try:
                await self._note_queued(room, turn, places)
            except (CallboardError, StoreUnavailable):
                # The reaper finds the turn.
                log.warning("turn_not_noted", extra={"request_id": turn.id})

    async def _note_queued(self, room: Room, turn: Turn, places: _Places) -> None:
        """Notes where a turn's jobs lie, and takes them back if it was given up while it was started."""

        def decide(stored: StoredRoom) -> Change:
            if stored.room is None:
                return Change(None)
            return Change(rooms.queued(stored.room, turn.id, places.job_seq, places.speech_seq, self._now()))

        _, change = await self._change(room.id, decide)
        if _given_up(change.room, turn):
            self._background.start(self._give_up(room.id, _placed(turn, places)), "give-up-turn")

    async def _give_up(self, room_id: str, turn: Turn, error: ErrorInfo | None = None) -> None:
        """Ends a turn outside its room, as soon as the bus lets it."""
        for attempt in range(1, GIVE_UP_ATTEMPTS + 1):
            try:
                await self._effects.give_up(room_id, turn, error)
            except StoreUnavailable:
                log.warning("turn_not_given_up", extra={"request_id": turn.id, "attempt": attempt})
                await self._sleep(GIVE_UP_PAUSE_S)
            else:
                return

    async def _give_up_refused(self, room: Room, turn: Turn, error: ErrorInfo) -> None:
        log.warning("turn_refused", extra={"request_id": turn.id, "code": error.code.value})

        def decide(stored: StoredRoom) -> Change:
            if stored.room is None:
                return Change(None)
            return Change(rooms.given_up(stored.room, turn.id, self._limits, self._now()).room)

        before, change = await self._change(room.id, decide)
        await self._effects.refused(room.id, turn, error)
        self._metrics.turn_ended("failed")
        await self._start(before, change)

    async def _resume(self, room: Room, turn: Turn) -> None:
        """Queues the jobs of a turn whose process may be gone, unless its job was queued and has ended."""
        log.info("turn_resumed", extra={"request_id": turn.id, "room": room.id})
        if turn.request is not None:
            if self._now() - (turn.started_at or 0.0) > SURELY_DEDUPLICATED_S:
                seq = await self._effects.jobs.find_chat(turn)
                if seq is not None:
                    await self._note_queued(room, turn, _Places(seq, None))
                    return
            # A job that has left its queue left its result before.
            if await self._effects.results.read(turn.id) is not None:
                await self.turn_ended(TurnEnded(room=room.id, turn=turn.id))
                return
        await self._queue(room, turn)


def _id(before: StoredRoom, change: Change) -> str:
    room = before.room or change.room
    assert room is not None
    return room.id


def _placed(turn: Turn, places: _Places | None) -> Turn:
    if places is None:
        return turn
    return turn.model_copy(update={"job_seq": places.job_seq, "speech_seq": places.speech_seq})


def _given_up(room: Room | None, turn: Turn) -> bool:
    return room is None or any(one.id == turn.id and one.cancelled for one in room.ended)


def _not_found() -> CallboardError:
    return CallboardError(ErrorCode.NOT_FOUND, "No room of that key is open.", param="key")

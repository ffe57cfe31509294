"""What becomes of a room: from one document to the next, without effects.

Every function can be applied again to its own result, and then changes nothing.
"""

import math
from dataclasses import dataclass, field

from callboard_contracts.chat import ChatResult
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.rooms import (
    MAX_WAITING_TURNS,
    TURN_LIFE_S,
    EndedTurn,
    OpenRoom,
    Room,
    RoomKind,
    RoomMessage,
    Turn,
    room_id,
    secret_digest,
    without_speaker,
)
from callboard_rooms.domain.dialogue import Limits, cut, halved, learned, limits_of, remembered, without_oldest

MAX_ENDED_TURNS = 500
QUEUE_FULL_RETRY_S = 5.0
DEADLINE_GRACE_S = 10.0
"""After a turn's deadline its worker has this long to say so, which also settles what is held."""
START_GRACE_S = 5.0
"""A turn whose jobs are not known to be queued for so long is started again: its process is gone."""


@dataclass(frozen=True, slots=True)
class Change:
    """A room after a change, and the turns that were given up with it; without a room it is deleted.

    `document` is the room's JSON, where it was needed for the decision.
    """

    room: Room | None
    cancelled: tuple[Turn, ...] = ()
    document: bytes | None = None


@dataclass(frozen=True, slots=True)
class IdlePolicy:
    """When rooms end by themselves; `memory_timeout_s` is for what a character remembers of a speaker."""

    idle_timeout_s: float = math.inf
    memory_timeout_s: float = math.inf
    keep_alive: frozenset[str] = field(default_factory=frozenset[str])

    def ends_at(self, room: Room) -> float:
        """When a room ends if nothing happens in it."""
        busy = room.open_turns or room.key in self.keep_alive
        timeout_s = self.memory_timeout_s if room.kind == "character" else self.idle_timeout_s
        return math.inf if busy else room.active_at + timeout_s


def new_room(kind: RoomKind, key: str, now: float, first_number: int = 1) -> Room:
    """An empty room."""
    return Room(
        id=room_id(kind, key), kind=kind, key=key, created_at=now, active_at=now, next_number=max(1, first_number)
    )


def opened(room: Room, request: OpenRoom, now: float) -> Room:
    """The room after somebody opened it, who may claim it or set it up.

    Raises:
        CallboardError: `room_secret_required` where another secret has claimed it.
    """
    update: dict[str, object] = {"active_at": now}
    if request.secret or request.settings is not None:
        check_secret(room, request.secret)
    if request.secret:
        update["secret_digest"] = secret_digest(request.secret)
    if request.settings is not None:
        update["settings"] = request.settings
    return room.model_copy(update=update)


def check_secret(room: Room, secret: str | None) -> None:
    """Raises CallboardError (`room_secret_required`) where a room is claimed with another secret."""
    if not room.admits(secret):
        raise CallboardError(
            ErrorCode.ROOM_SECRET_REQUIRED, "The room is claimed, and its secret is missing or wrong.", param="secret"
        )


def added(room: Room, turn: Turn, limits: Limits, now: float, *, unique: bool, retries: bool = False) -> Change:
    """The room with one more turn at the end of its queue, which is started where none runs.

    A turn that the room knows by its id is not added again. With `retries` a message id is free again once its turn has
    failed.

    Raises:
        CallboardError: `duplicate_message`, `queue_full` or `body_too_large`.
    """
    if any(known.id == turn.id for known in (*room.open_turns, *room.ended)):
        return Change(room)
    same = room.turn_of(turn.message_id) if unique else None
    if same is not None and not (retries and isinstance(same, EndedTurn) and same.failed):
        raise CallboardError(
            ErrorCode.DUPLICATE_MESSAGE, "The room has a message of this id already.", param="message_id"
        )
    if len(room.waiting) + len(room.speaking) >= MAX_WAITING_TURNS:
        raise _queue_full()
    numbered = turn.model_copy(update={"number": room.next_number, "started_at": None})
    update: dict[str, object] = {"next_number": room.next_number + 1, "active_at": now}
    if turn.request is None:
        update["speaking"] = (*room.speaking, numbered.model_copy(update={"started_at": now}))
    else:
        update["waiting"] = (*room.waiting, numbered)
    found = fitting(started(room.model_copy(update=update), limits, now), limits.max_document_bytes)
    if found is not None:
        return found
    if room.waiting:
        raise _queue_full()
    raise CallboardError(ErrorCode.BODY_TOO_LARGE, "The message is larger than a room can hold.", param="message")


def started(room: Room, limits: Limits, now: float) -> Room:
    """The room with its next turn running, where none does."""
    if room.running is not None or not room.waiting:
        return room
    turn = room.waiting[0].model_copy(update={"started_at": now})
    room = room.model_copy(update={"running": turn, "waiting": room.waiting[1:]})
    return remembered(room, turn, limits)


def queued(room: Room, turn_id: str, job_seq: int | None, speech_seq: int | None, now: float) -> Room:
    """The room after a turn's jobs were queued: a turn that is only spoken is over then."""
    update = {"job_seq": job_seq, "speech_seq": speech_seq}
    if room.running is not None and room.running.id == turn_id:
        return room.model_copy(update={"running": room.running.model_copy(update=update)})
    spoken = [turn for turn in room.speaking if turn.id == turn_id]
    if not spoken:
        return room
    left = tuple(turn for turn in room.speaking if turn.id != turn_id)
    return room.model_copy(update={"speaking": left, "ended": _with_ended(room, spoken, now)})


def ended(room: Room, turn_id: str, result: ChatResult | None, limits: Limits, now: float) -> Change:
    """The room after its running turn ended with what its worker kept, and with the next turn running.

    The reply is remembered unless it failed, is empty or was stopped by somebody.
    """
    turn = room.running
    if turn is None or turn.id != turn_id:
        return Change(room)
    failed = result is None or result.end.reason in {"error", "cancelled"}
    update: dict[str, object] = {
        "running": None,
        "active_at": now,
        "ended": _with_ended(room, [turn], now, failed=failed),
    }
    if turn.remembers and result is not None:
        room = learned(room, turn, result.end.usage.prompt_tokens)
        error = result.end.error
        if error is not None and error.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED:
            room = halved(room, turn)
        reply = without_speaker(result.text, turn.character).strip()
        if not failed and reply:
            most = limits_of(turn, limits).max_messages
            update["messages"] = cut((*room.messages, *_messages(turn, reply, now)), most)
    room = started(room.model_copy(update=update), limits, now)
    return fitting(room, limits.max_document_bytes) or Change(room.model_copy(update={"messages": ()}))


def given_up(room: Room, turn_id: str, limits: Limits, now: float) -> Change:
    """The room after one of its turns was given up, and with the next running."""
    turns = tuple(turn for turn in room.open_turns if turn.id == turn_id)
    if not turns:
        return Change(room)
    room = room.model_copy(
        update={
            "running": None if room.running in turns else room.running,
            "waiting": tuple(turn for turn in room.waiting if turn not in turns),
            "speaking": tuple(turn for turn in room.speaking if turn not in turns),
            "ended": _with_ended(room, turns, now, failed=True, cancelled=True),
        }
    )
    return Change(started(room, limits, now), turns)


def reset(room: Room, now: float) -> Change:
    """The room without its dialogue and its turns; what is spoken already is heard to its end."""
    turns = tuple(turn for turn in room.open_turns if turn not in room.speaking)
    update = {
        "generation": room.generation + 1,
        "active_at": now,
        "messages": (),
        "memories": {name: memory.model_copy(update={"first_turn": ""}) for name, memory in room.memories.items()},
        "running": None,
        "waiting": (),
        "ended": _with_ended(room, turns, now, failed=True, cancelled=True),
    }
    return Change(room.model_copy(update=update), turns)


def tidied(room: Room, limits: Limits, policy: IdlePolicy, now: float) -> Change:
    """The room after what is due by the clock: turns past their deadline, old ended turns, its own end."""
    if policy.ends_at(room) <= now:
        return Change(None)
    cancelled: tuple[Turn, ...] = ()
    for turn in room.open_turns:
        grace_s = 0.0 if turn.started_at is None else DEADLINE_GRACE_S
        if turn.deadline_at + grace_s <= now:
            change = given_up(room, turn.id, limits, now)
            assert change.room is not None
            room, cancelled = change.room, (*cancelled, *change.cancelled)
    fresh = tuple(turn for turn in room.ended if turn.at > now - TURN_LIFE_S)
    if len(fresh) < len(room.ended):
        room = room.model_copy(update={"ended": fresh})
    return Change(started(room, limits, now), cancelled)


def unqueued(room: Room, now: float) -> tuple[Turn, ...]:
    """The turns that were started a while ago and whose jobs are not known to be queued."""
    turns = (*((room.running,) if room.running else ()), *room.speaking)
    return tuple(turn for turn in turns if turn.job_seq is None and (turn.started_at or 0) + START_GRACE_S <= now)


def due_at(room: Room, policy: IdlePolicy) -> float:
    """When something is to be done for a room by the clock."""
    times = [policy.ends_at(room)]
    for turn in room.open_turns:
        if turn.started_at is None:
            times.append(turn.deadline_at)
        else:
            times.append(turn.deadline_at + DEADLINE_GRACE_S)
            if turn.job_seq is None:
                times.append(turn.started_at + START_GRACE_S)
    if room.running is None and room.waiting:
        times.append(0.0)
    if room.ended:
        times.append(room.ended[0].at + TURN_LIFE_S)
    return min(times)


def fitting(room: Room, max_bytes: int) -> Change | None:
    """The room, where it is too large without its oldest messages and ended turns; None where that is not enough."""
    while len(document := room.compact()) > max_bytes:
        if not room.messages and not room.ended:
            return None
        update = {
            "messages": without_oldest(room.messages, len(room.messages) // 4 + 1),
            "ended": room.ended[len(room.ended) // 4 + 1 :],
        }
        room = room.model_copy(update=update)
    return Change(room, document=document)


def _messages(turn: Turn, reply: str, now: float) -> tuple[RoomMessage, RoomMessage]:
    return (
        RoomMessage(role="user", speaker=turn.speaker, text=turn.text, turn=turn.id, at=turn.created_at),
        RoomMessage(role="assistant", speaker=turn.character, text=reply, turn=turn.id, at=now),
    )


def _with_ended(
    room: Room, turns: tuple[Turn, ...] | list[Turn], now: float, *, failed: bool = False, cancelled: bool = False
) -> tuple[EndedTurn, ...]:
    new = (
        EndedTurn(
            id=turn.id,
            message_id=turn.message_id,
            number=turn.number,
            speaker=turn.speaker,
            character=turn.character,
            at=now,
            failed=failed,
            cancelled=cancelled,
            text="" if turn.remembers else turn.text,
        )
        for turn in turns
    )
    fresh = (one for one in room.ended if one.at > now - TURN_LIFE_S)
    return (*fresh, *new)[-MAX_ENDED_TURNS:]


def _queue_full() -> CallboardError:
    return CallboardError(
        ErrorCode.QUEUE_FULL,
        "Too many messages of this room are already waiting; try again shortly.",
        retry_after_s=QUEUE_FULL_RETRY_S,
    )

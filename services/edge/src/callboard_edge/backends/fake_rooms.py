"""The rooms service in memory, for an edge without a bus."""

import time

from callboard_contracts.chat import ChatResult
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.rooms import (
    CancelTurn,
    EndedTurn,
    OpenRoom,
    PostTurn,
    Room,
    RoomKind,
    RoomMessage,
    RoomReply,
    RoomRequest,
    SpeakInRoom,
    Turn,
    room_id,
    secret_digest,
    without_speaker,
)


class FakeRooms:
    """Reads and changes rooms as `RoomReader` and `RoomsClient` promise; a test runs the turns with `end_turn`.

    With `failure` every method fails. `posted` has the turns in the order in which they were added, and `heard` what
    was said of the replies to those that were cancelled.
    """

    def __init__(self) -> None:
        self.failure: CallboardError | None = None
        self.rooms: dict[str, Room] = {}
        self.results: dict[str, ChatResult] = {}
        self.posted: list[Turn] = []
        self.cancelled: list[str] = []
        self.heard: list[str | None] = []

    async def room(self, kind: RoomKind, key: str) -> Room | None:
        """The room that clients call so."""
        self._fail()
        return self.rooms.get(room_id(kind, key))

    async def reply(self, turn_id: str) -> ChatResult | None:
        """How a turn ended."""
        self._fail()
        return self.results.get(turn_id)

    async def open(self, request: OpenRoom) -> RoomReply:
        """Opens a room, or finds it open."""
        self._fail()
        room, created = self._opened(request.kind, request.key)
        if (request.secret or request.settings) and not room.admits(request.secret):
            raise _secret_required()
        digest = secret_digest(request.secret) if request.secret else room.secret_digest
        settings = request.settings or room.settings
        self.rooms[room.id] = room.model_copy(update={"secret_digest": digest, "settings": settings})
        return RoomReply(id=room.id, created=created)

    async def post(self, request: PostTurn) -> RoomReply:
        """Adds a turn."""
        self._fail()
        known = self.rooms.get(room_id(request.kind, request.key))
        if known is None and not request.opens:
            raise CallboardError(ErrorCode.NOT_FOUND, "No room of that key is open.", param="key")
        room, created = self._opened(request.kind, request.key)
        same = room.turn_of(request.turn.message_id) if request.unique else None
        if same is not None and not (request.retries and isinstance(same, EndedTurn) and same.failed):
            raise CallboardError(
                ErrorCode.DUPLICATE_MESSAGE, "The room has a message of this id already.", param="message_id"
            )
        turn = request.turn.model_copy(update={"number": room.next_number})
        self.posted.append(turn)
        if turn.request is None:
            queue = {"ended": (*room.ended, _ended(turn))}
        else:
            queue = {"running": turn} if room.running is None else {"waiting": (*room.waiting, turn)}
        self.rooms[room.id] = room.model_copy(update={"next_number": turn.number + 1, **queue})
        return RoomReply(id=room.id, created=created)

    async def speak(self, request: SpeakInRoom) -> RoomReply:
        """Speaks a text in a room."""
        self._fail()
        room = self.rooms.get(room_id(request.kind, request.key))
        if room is not None and not room.admits(request.secret):
            raise _secret_required()
        return await self.post(request)

    async def reset(self, request: RoomRequest) -> RoomReply:
        """Empties a room."""
        room = self._checked(request)
        update = {"generation": room.generation + 1, "messages": (), "running": None, "waiting": ()}
        self.rooms[room.id] = room.model_copy(update=update)
        return RoomReply(id=room.id)

    async def end(self, request: RoomRequest) -> RoomReply:
        """Ends a room."""
        return RoomReply(id=self.rooms.pop(self._checked(request).id).id)

    async def cancel(self, request: CancelTurn) -> RoomReply:
        """Gives up a turn."""
        self._fail()
        room = self.rooms.get(room_id(request.kind, request.key))
        self.cancelled.append(request.turn)
        self.heard.append(request.heard)
        if room is not None and room.running is not None and room.running.id == request.turn:
            following, waiting = (room.waiting[0], room.waiting[1:]) if room.waiting else (None, ())
            ended = (*room.ended, _ended(room.running, failed=True))
            self.rooms[room.id] = room.model_copy(update={"running": following, "waiting": waiting, "ended": ended})
        return RoomReply(id=room_id(request.kind, request.key))

    def end_turn(self, room: Room, result: ChatResult | None = None) -> None:
        """Ends a room's running turn with what its worker kept, and starts the next."""
        turn = room.running
        assert turn is not None
        failed = result is not None and result.end.error is not None
        ended = _ended(turn, failed=failed)
        messages = room.messages
        if result is not None:
            self.results[turn.id] = result
            if turn.remembers and not failed:
                reply = without_speaker(result.text, turn.character)
                messages += (
                    RoomMessage(role="user", speaker=turn.speaker, text=turn.text, turn=turn.id, at=turn.created_at),
                    RoomMessage(role="assistant", speaker=turn.character, text=reply, turn=turn.id, at=ended.at),
                )
        following, waiting = (room.waiting[0], room.waiting[1:]) if room.waiting else (None, ())
        update = {"messages": messages, "running": following, "waiting": waiting, "ended": (*room.ended, ended)}
        self.rooms[room.id] = room.model_copy(update=update)

    def _opened(self, kind: RoomKind, key: str) -> tuple[Room, bool]:
        found = self.rooms.get(room_id(kind, key))
        now = time.time()
        room = found or Room(id=room_id(kind, key), kind=kind, key=key, created_at=now, active_at=now)
        self.rooms[room.id] = room
        return room, found is None

    def _checked(self, request: RoomRequest) -> Room:
        self._fail()
        room = self.rooms.get(room_id(request.kind, request.key))
        if room is None:
            raise CallboardError(ErrorCode.NOT_FOUND, "No room of that key is open.", param="key")
        if not (request.by_admin or room.admits(request.secret)):
            raise _secret_required()
        return room

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure


def _ended(turn: Turn, *, failed: bool = False) -> EndedTurn:
    return EndedTurn(
        id=turn.id,
        message_id=turn.message_id,
        number=turn.number,
        speaker=turn.speaker,
        text="" if turn.remembers else turn.text,
        character=turn.character,
        at=time.time(),
        failed=failed,
    )


def _secret_required() -> CallboardError:
    return CallboardError(ErrorCode.ROOM_SECRET_REQUIRED, "The room is claimed, and its secret is missing or wrong.")

"""Rooms, read from their bucket and changed through the rooms service."""

from pydantic import ValidationError

from callboard_contracts import subjects
from callboard_contracts.chat import ChatResult
from callboard_contracts.rooms import (
    CancelTurn,
    OpenRoom,
    PostTurn,
    Room,
    RoomKind,
    RoomReply,
    RoomRequest,
    SpeakInRoom,
    room_id,
)
from callboard_contracts.streams import BUCKET_ROOMS
from callboard_edge.backends.result_store import BusResultStore
from callboard_kit.bucket import Bucket
from callboard_kit.bus import Bus, BusError
from callboard_kit.jobs import bus_unavailable
from callboard_kit.rooms_rpc import TIMEOUT_S, ask_rooms


class BusRoomReader:
    """Reads rooms and the replies of their turns; see `RoomReader`."""

    def __init__(self, bus: Bus) -> None:
        self._bucket = Bucket(bus, BUCKET_ROOMS)
        self._results = BusResultStore(bus)

    async def room(self, kind: RoomKind, key: str) -> Room | None:
        """The room that clients call so."""
        try:
            entry = await self._bucket.get(room_id(kind, key))
            return Room.model_validate_json(entry.value) if entry else None
        except ValidationError:
            # A record of another version names nothing that is known here.
            return None
        except BusError as error:
            raise bus_unavailable() from error

    async def reply(self, turn_id: str) -> ChatResult | None:
        """How a turn ended."""
        return await self._results.result(turn_id)


class BusRoomsClient:
    """Asks whichever rooms process answers; see `RoomsClient`."""

    def __init__(self, bus: Bus, timeout_s: float = TIMEOUT_S) -> None:
        self._bus = bus
        self._timeout_s = timeout_s

    async def open(self, request: OpenRoom) -> RoomReply:
        """Opens a room."""
        return await ask_rooms(self._bus, subjects.ROOMS_OPEN, request, self._timeout_s)

    async def post(self, request: PostTurn) -> RoomReply:
        """Adds a turn."""
        return await ask_rooms(self._bus, subjects.ROOMS_POST, request, self._timeout_s)

    async def speak(self, request: SpeakInRoom) -> RoomReply:
        """Speaks a text."""
        return await ask_rooms(self._bus, subjects.ROOMS_SPEAK, request, self._timeout_s)

    async def reset(self, request: RoomRequest) -> RoomReply:
        """Empties a room."""
        return await ask_rooms(self._bus, subjects.ROOMS_RESET, request, self._timeout_s)

    async def end(self, request: RoomRequest) -> RoomReply:
        """Ends a room."""
        return await ask_rooms(self._bus, subjects.ROOMS_END, request, self._timeout_s)

    async def cancel(self, request: CancelTurn) -> RoomReply:
        """Gives up a turn."""
        return await ask_rooms(self._bus, subjects.ROOMS_CANCEL, request, self._timeout_s)

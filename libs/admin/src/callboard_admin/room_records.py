"""Rooms, as operators list, show, end and export them."""

import json
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pydantic import ValidationError

from callboard_admin.periods import show_time
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.rooms import Room, RoomReply, RoomRequest
from callboard_contracts.streams import BUCKET_ROOMS
from callboard_contracts.subjects import ROOMS_END
from callboard_kit.bucket import Bucket, Entry
from callboard_kit.bus import Bus
from callboard_kit.rooms_rpc import ask_rooms

MAX_ROOMS = 1_000_000
READING_S_PER_CHARACTER = 0.06
MIN_CUE_S, MAX_CUE_S = 1.0, 60.0
RoomFormat = Literal["json", "vtt"]
CONTENT_TYPES: dict[RoomFormat, str] = {"json": "application/json", "vtt": "text/vtt; charset=utf-8"}
_ROOM_ID = re.compile(r"[0-9a-f]{32}")


class RoomBucket(Protocol):
    """The bucket that stores the rooms."""

    async def get(self, key: str) -> Entry | None:
        """Reads one entry, or None."""
        ...

    async def list(self, pattern: str, limit: int) -> list[Entry]:
        """Reads the newest value of every entry that matches."""
        ...


@dataclass(frozen=True, slots=True)
class Cue:
    """What was said from one time to another, in seconds from the first message on."""

    start_s: float
    end_s: float
    speaker: str
    text: str


class RoomRecords:
    """Reads rooms and ends them.

    Every method raises BusError when the bus fails, and CallboardError for what cannot be done.
    """

    def __init__(self, bucket: RoomBucket, ask: Callable[[RoomRequest], Awaitable[RoomReply]]) -> None:
        self._bucket = bucket
        self._ask = ask

    @classmethod
    def on(cls, bus: Bus) -> "RoomRecords":
        """The rooms of an installation; the rooms service ends them."""

        async def ask(request: RoomRequest) -> RoomReply:
            return await ask_rooms(bus, ROOMS_END, request)

        return cls(Bucket(bus, BUCKET_ROOMS), ask)

    async def all(self) -> list[Room]:
        """Returns every room, the one that was last active first."""
        found = (_room(entry) for entry in await self._bucket.list("*", MAX_ROOMS))
        return sorted((room for room in found if room is not None), key=lambda room: -room.active_at)

    async def find(self, text: str) -> Room:
        """Finds a room by its id or its key; raises CallboardError where none or several are called so."""
        if _ROOM_ID.fullmatch(text):
            entry = await self._bucket.get(text)
            if entry is not None and (room := _room(entry)) is not None:
                return room
        rooms = [room for room in await self.all() if room.key == text]
        if len(rooms) > 1:
            ids = ", ".join(f"{room.id} ({room.kind})" for room in rooms)
            raise CallboardError(
                ErrorCode.INVALID_REQUEST, f"Several rooms have that key; name one by its id: {ids}.", param="room"
            )
        if not rooms:
            raise CallboardError(ErrorCode.NOT_FOUND, "No room of that id or key is open.", param="room")
        return rooms[0]

    async def end(self, room: Room) -> None:
        """Ends a room, claimed or not."""
        await self._ask(RoomRequest(kind=room.kind, key=room.key, by_admin=True))


def summary(room: Room) -> dict[str, Any]:
    """A room without its dialogue and without its secret, as operators are shown it."""
    return {
        "id": room.id,
        "kind": room.kind,
        "key": room.key,
        "claimed": room.secret_digest is not None,
        "created_at": show_time(room.created_at),
        "active_at": show_time(room.active_at),
        "messages": len(room.messages),
        "running": room.running is not None,
        "waiting": len(room.waiting),
    }


def dialogue(room: Room) -> list[dict[str, str]]:
    """What a room remembers, the oldest message first."""
    return [
        {"at": show_time(one.at), "role": one.role, "speaker": one.speaker, "text": one.text} for one in room.messages
    ]


def export(room: Room, form: RoomFormat) -> str:
    """A room's dialogue as a file."""
    if form == "json":
        return json.dumps({**summary(room), "messages": dialogue(room)}, indent=2, ensure_ascii=False) + "\n"
    return webvtt(cues(room))


def cues(room: Room) -> list[Cue]:
    """A room's dialogue with times; what was said is shown until the next message, or for as long as it takes to read.

    Messages are remembered with their replies, so the times are put in order.
    """
    if not room.messages:
        return []
    said = sorted(room.messages, key=lambda one: one.at)
    starts = [one.at - said[0].at for one in said]
    found: list[Cue] = []
    for n, one in enumerate(said):
        reading_s = min(MAX_CUE_S, max(MIN_CUE_S, len(one.text) * READING_S_PER_CHARACTER))
        following_s = starts[n + 1] if n + 1 < len(said) else starts[n] + reading_s
        # A cue lasts a millisecond at least, since one of no length is shown by no player.
        end_s = max(starts[n] + 0.001, min(starts[n] + reading_s, following_s))
        found.append(Cue(starts[n], end_s, one.speaker, one.text))
    return found


def webvtt(found: list[Cue]) -> str:
    """Cues as a WebVTT file, each with its speaker as the voice."""
    return "\n".join(("WEBVTT", "", *_blocks(found)))


def _blocks(found: list[Cue]) -> Iterator[str]:
    for cue in found:
        # An empty line would end the cue.
        lines = [line for line in _escaped(cue.text).splitlines() if line.strip()]
        voice = f"<v {' '.join(_escaped(cue.speaker).split())}>" if cue.speaker.strip() else ""
        yield f"{_clock(cue.start_s)} --> {_clock(cue.end_s)}"
        yield voice + "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float) -> str:
    minutes, rest_ms = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest_ms // 1000:02d}.{rest_ms % 1000:03d}"


def _room(entry: Entry) -> Room | None:
    try:
        return Room.model_validate_json(entry.value)
    except ValidationError:
        return None

"""What listeners of a room are told, in the stream ROOM_AUDIO."""

from callboard_contracts import subjects
from callboard_contracts.headers import SEGMENT
from callboard_contracts.rooms import Room, Turn
from callboard_contracts.speech import SegmentInfo, SpeechEnd, UtteranceStart
from callboard_kit.bus import Bus, BusError
from callboard_rooms.domain.ports import StoreUnavailable
from callboard_rooms.domain.turns import utterance_of


class BusRoomAudio:
    """Announces utterances; see `RoomAudio`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def announce(self, room: Room, turn: Turn) -> None:
        """Says that a turn's utterance comes."""
        start = UtteranceStart(
            number=turn.number,
            speaker=turn.character or turn.speaker,
            expires_at=turn.deadline_at,
            secret_digest=room.secret_digest,
        )
        await self._store(room.id, turn, "start", start.encoded(), {})

    async def leave_out(self, room_id: str, turn: Turn) -> None:
        """Ends a turn's utterance before its first sound."""
        end = SegmentInfo(attempt=1, piece=0, offset_bytes=0, end=SpeechEnd(reason="cancelled"))
        await self._store(room_id, turn, 0, b"", {SEGMENT: end.encoded().decode()})

    async def _store(self, room_id: str, turn: Turn, n: int | str, data: bytes, headers: dict[str, str]) -> None:
        utterance = utterance_of(turn)
        subject = subjects.room_audio(room_id, utterance, n)
        try:
            await self._bus.publish_stored(subject, data, f"{utterance}.{n}", headers=headers)
        except BusError as error:
            raise StoreUnavailable("no acknowledgement in time") from error

"""What is said in rooms, on the bus and in its stream.

An edge subscribes to each room that somebody listens to there, not to all of them: sound is 48 kB a second, and with
many edges most rooms have no listeners at most of them. A subscription costs the server next to nothing.
"""

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager

from nats.aio.msg import Msg
from pydantic import ValidationError

from callboard_contracts import subjects
from callboard_contracts.speech import AudioSegment, UtteranceStart
from callboard_contracts.streams import ROOM_AUDIO
from callboard_edge.backends.segments import read_segment
from callboard_edge.domain.room_playout import RoomEvent, WantedSegments
from callboard_kit.bus import Bus, BusError
from callboard_kit.jobs import bus_unavailable
from callboard_kit.stream_reads import StoredMessage, first_seq, read_batches, read_last_of_each

log = logging.getLogger(__name__)

SEGMENTS_A_READ = 4
"""At most 8 s of sound."""
HISTORY_BATCH = 64
STARTS_BATCH = 1024
RECORDED_BATCH = 16
START = "start"


class BusRoomAudio:
    """Reads rooms' sound; see `RoomAudioSource`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._on_lost: set[Callable[[], None]] = set()
        bus.on_reconnect(self._reconnected)

    @asynccontextmanager
    async def listen(
        self, room: str, take: Callable[[RoomEvent], None], on_lost: Callable[[], None]
    ) -> AsyncGenerator[None]:
        """Hands over what is said."""

        async def received(message: Msg) -> None:
            event = _event(message.subject, message.headers, message.data, self._bus.clock.now())
            if event is not None:
                take(event)

        try:
            subscription = await self._bus.subscribe(subjects.room_audio(room, "*", "*"), received)
        except BusError as error:
            raise bus_unavailable() from error
        self._on_lost.add(on_lost)
        try:
            yield
        finally:
            self._on_lost.discard(on_lost)
            await self._bus.unsubscribe(subscription)

    async def history(self, room: str, since: float) -> AsyncGenerator[list[RoomEvent]]:
        """What was said since a time."""
        async with aclosing(self._stored(subjects.room_audio(room, "*", "*"), since, HISTORY_BATCH)) as batches:
            async for messages in batches:
                yield _events(messages)

    async def starts(self, room: str, since: float) -> list[RoomEvent]:
        """The announcements since a time."""
        found: list[RoomEvent] = []
        async with aclosing(self._stored(subjects.room_audio(room, "*", START), since, STARTS_BATCH)) as batches:
            async for messages in batches:
                found += _events(messages)
        return found

    async def segments(self, room: str, wanted: WantedSegments) -> list[AudioSegment]:
        """A few seconds of an utterance."""
        numbers = range(wanted.from_n, wanted.from_n + SEGMENTS_A_READ)
        try:
            messages = await read_last_of_each(
                self._bus, ROOM_AUDIO, [subjects.room_audio(room, wanted.utterance, n) for n in numbers]
            )
        except BusError as error:
            raise bus_unavailable() from error
        found = [read_segment(message.subject, message.headers, message.data) for message in messages]
        return [segment for segment in found if segment is not None]

    async def recorded(self, room: str, utterance: str) -> AsyncGenerator[list[AudioSegment]]:
        """All segments of an utterance."""
        async with aclosing(self._stored(subjects.room_audio(room, utterance, "*"), 0.0, RECORDED_BATCH)) as batches:
            async for messages in batches:
                yield [event.content for event in _events(messages) if isinstance(event.content, AudioSegment)]

    async def _stored(self, subject: str, since: float, batch_size: int) -> AsyncGenerator[list[StoredMessage]]:
        try:
            first = await first_seq(self._bus, ROOM_AUDIO, subject, since)
            if first is None:
                return
            async with aclosing(read_batches(self._bus, ROOM_AUDIO, subject, first, batch_size)) as batches:
                async for messages in batches:
                    yield messages
        except BusError as error:
            raise bus_unavailable() from error

    def _reconnected(self) -> None:
        for on_lost in self._on_lost:
            on_lost()


def _events(messages: Sequence[StoredMessage]) -> list[RoomEvent]:
    found = [_event(message.subject, message.headers, message.data, message.stored_at) for message in messages]
    return [event for event in found if event is not None]


def _event(subject: str, headers: dict[str, str] | None, data: bytes, at: float) -> RoomEvent | None:
    _prefix, _room, utterance, n = subject.split(".")
    if n != START:
        segment = read_segment(subject, headers, data)
        return None if segment is None else RoomEvent(utterance, at, segment)
    try:
        return RoomEvent(utterance, at, UtteranceStart.model_validate_json(data))
    except ValidationError:
        log.warning("utterance_start_malformed")
        return None

"""The sound of rooms in memory, for an edge without a bus."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from callboard_contracts.errors import CallboardError
from callboard_contracts.speech import AudioSegment, UtteranceStart
from callboard_edge.domain.room_playout import RoomEvent, WantedSegments

SEGMENTS_A_READ = 4
HISTORY_BATCH = 64

Reader = tuple[Callable[[RoomEvent], None], Callable[[], None]]


class FakeRoomAudio:
    """Keeps and hands over what `publish` is given; see `RoomAudioSource`.

    The next `lose_next` messages are kept but not handed over. With `failure` everything that reads fails.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.failure: CallboardError | None = None
        self.lose_next = 0
        self.reads: list[WantedSegments] = []
        self.readers: dict[str, list[Reader]] = {}
        self._stored: dict[str, list[RoomEvent]] = {}
        self._now = now

    def publish(self, room: str, utterance: str, content: UtteranceStart | AudioSegment) -> None:
        """Publishes that an utterance comes, or a segment of it."""
        event = RoomEvent(utterance, self._now(), content)
        self._stored.setdefault(room, []).append(event)
        if self.lose_next:
            self.lose_next -= 1
            return
        for take, _on_lost in tuple(self.readers.get(room, ())):
            take(event)

    def reconnect(self) -> None:
        """Tells everybody that messages may have passed unseen."""
        for readers in self.readers.values():
            for _take, on_lost in readers:
                on_lost()

    @asynccontextmanager
    async def listen(
        self, room: str, take: Callable[[RoomEvent], None], on_lost: Callable[[], None]
    ) -> AsyncGenerator[None]:
        """Hands over what is said."""
        self._fail()
        readers = self.readers.setdefault(room, [])
        readers.append((take, on_lost))
        try:
            yield
        finally:
            readers.remove((take, on_lost))
            if not readers:
                del self.readers[room]

    async def history(self, room: str, since: float) -> AsyncGenerator[list[RoomEvent]]:
        """What was said since a time."""
        self._fail()
        found = [event for event in self._stored.get(room, ()) if event.at >= since]
        for begin in range(0, len(found), HISTORY_BATCH):
            yield found[begin : begin + HISTORY_BATCH]

    async def starts(self, room: str, since: float) -> list[RoomEvent]:
        """The announcements since a time."""
        self._fail()
        stored = self._stored.get(room, ())
        return [event for event in stored if event.at >= since and isinstance(event.content, UtteranceStart)]

    async def segments(self, room: str, wanted: WantedSegments) -> list[AudioSegment]:
        """A few seconds of an utterance."""
        self.reads.append(wanted)
        self._fail()
        newest = {
            event.content.n: event.content
            for event in self._stored.get(room, ())
            if event.utterance == wanted.utterance and isinstance(event.content, AudioSegment)
        }
        numbers = range(wanted.from_n, wanted.from_n + SEGMENTS_A_READ)
        return [newest[n] for n in numbers if n in newest]

    async def recorded(self, room: str, utterance: str) -> AsyncGenerator[list[AudioSegment]]:
        """All segments of an utterance."""
        self._fail()
        for event in self._stored.get(room, ()):
            if event.utterance == utterance and isinstance(event.content, AudioSegment):
                yield [event.content]

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure

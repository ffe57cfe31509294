"""All room streams of an edge: one clock, one thread, and nothing at all while nobody listens."""

import asyncio
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from callboard_contracts.config import RoomStreamSection
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.ports import Background, RoomAudioSource
from callboard_edge.domain.room_feed import RoomFeed
from callboard_edge.media.listener import Listener
from callboard_edge.media.mp3 import FRAME_MS, FrameEncoder
from callboard_edge.media.room_mixer import Channel, RoomMixer, SpeakerWatch
from callboard_edge.metrics import EdgeMetrics

FRAME_S = FRAME_MS / 1000
MAX_CATCH_UP_FRAMES = 84
"""Two seconds. What a stop of the process has cost beyond that is left out; less is made good at once, so that a stream
never falls behind the clock."""

MAX_NEW_CHANNELS = 2
"""How many channels begin in one tick. Each has to encode its burst first, for which all others wait."""


class Place:
    """A listener's place in a room."""

    def __init__(self, streams: "RoomStreams", mixer: RoomMixer, channel: Channel) -> None:
        self._streams = streams
        self._mixer = mixer
        self._channel = channel

    def join(self, listener: Listener) -> None:
        """Begins to send, first what was heard just now."""
        if self._streams.closing:
            listener.stop()
            return
        if self._channel.recent:
            listener.send(tuple(self._channel.recent), self._mixer.title, asyncio.get_running_loop().time())
        self._channel.listeners.add(listener)

    def leave(self, listener: Listener) -> None:
        """Sends no more."""
        self._channel.listeners.discard(listener)


class RoomStreams:
    """Mixes, encodes and sends every room that somebody listens to, 24 ms at a time.

    `idle_loop` is what is heard while nobody speaks, as PCM; left out, silence. `now` is in Unix seconds.
    """

    def __init__(
        self,
        source: RoomAudioSource,
        background: Background,
        settings: RoomStreamSection,
        metrics: EdgeMetrics,
        now: Callable[[], float],
        idle_loop: bytes | None = None,
    ) -> None:
        self.closing = False
        self.source = source
        self._background = background
        self._settings = settings
        self._metrics = metrics
        self._now = now
        self._idle_loop = idle_loop
        self._rooms: dict[str, RoomMixer] = {}
        self._occupied = asyncio.Event()
        self._listeners = 0
        self._encoders = 0

    @contextmanager
    def place(self, room: str, bitrate_kbps: int) -> Generator[Place]:
        """Opens a place for a listener, which it has to the end of the context.

        Raises:
            CallboardError: `overloaded`, because as many listen as may.
        """
        mixer = self._rooms.get(room)
        is_new = mixer is None or bitrate_kbps not in mixer.channels
        full = self._encoders + is_new > self._settings.max_encoders
        if self.closing or full or self._listeners >= self._settings.max_listeners:
            raise _full()
        with self._open(room) as mixer:
            channel = mixer.channel(bitrate_kbps)
            channel.places += 1
            self._listeners += 1
            self._encoders += is_new
            self._metrics.room_listeners.set(self._listeners)
            try:
                yield Place(self, mixer, channel)
            finally:
                channel.places -= 1
                self._listeners -= 1
                if not channel.places:
                    del mixer.channels[bitrate_kbps]
                    self._encoders -= 1
                self._metrics.room_listeners.set(self._listeners)

    @contextmanager
    def watching(self, room: str) -> Generator[SpeakerWatch]:
        """Tells who speaks in a room, to the end of the context; raises as `place`."""
        if self.closing or (room not in self._rooms and len(self._rooms) >= self._settings.max_encoders):
            raise _full()
        with self._open(room) as mixer:
            watch = mixer.watch()
            try:
                yield watch
            finally:
                mixer.watches.discard(watch)

    async def run(self) -> None:
        """Sends for as long as the process runs."""
        pool = ThreadPoolExecutor(1, thread_name_prefix="room-encoder")
        try:
            while True:
                await self._occupied.wait()
                await self._send(pool)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Ends every stream after its last whole frame."""
        self.closing = True
        for mixer in self._rooms.values():
            for channel in mixer.channels.values():
                for listener in tuple(channel.listeners):
                    listener.stop()
            for watch in mixer.watches:
                watch.tell(watch.speaking)

    @contextmanager
    def _open(self, room: str) -> Generator[RoomMixer]:
        mixer = self._rooms.get(room)
        if mixer is None:
            feed = RoomFeed(self.source, room, self._settings.pause_s, self._now)
            task = self._background.start(feed.run(), f"room-feed-{room}")
            burst_frames = max(1, round(self._settings.burst_s / FRAME_S))
            mixer = self._rooms[room] = RoomMixer(feed, task, burst_frames, self._idle_loop)
            self._metrics.rooms_mixed.set(len(self._rooms))
            self._occupied.set()
        try:
            yield mixer
        finally:
            if not mixer.occupied and self._rooms.get(room) is mixer:
                del self._rooms[room]
                mixer.close()
                self._metrics.rooms_mixed.set(len(self._rooms))
                if not self._rooms:
                    self._occupied.clear()

    async def _send(self, pool: ThreadPoolExecutor) -> None:
        """Sends until nobody listens, each frame when the clock says so."""
        loop = asyncio.get_running_loop()
        began, sent = loop.time(), 0
        while self._rooms:
            due_at = began + sent * FRAME_S
            await asyncio.sleep(max(0.0, due_at - loop.time()))
            now = loop.time()
            due = int((now - due_at) / FRAME_S) + 1
            if due > MAX_CATCH_UP_FRAMES:
                self._metrics.room_frames_skipped.inc(due - 1)
                began, sent, due_at, due = now, 0, now, 1
            wall = self._now()
            for mixer in self._rooms.values():
                mixer.mix(due, wall)
            await self._encode_and_deliver(pool)
            sent += due
            self._metrics.room_lateness.observe(loop.time() - due_at)

    async def _encode_and_deliver(self, pool: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        channels = [(mixer, channel) for mixer in self._rooms.values() for channel in mixer.channels.values()]
        new = [channel for _, channel in channels if not channel.recent][:MAX_NEW_CHANNELS]
        work = [(mixer, channel) for mixer, channel in channels if channel.recent or channel in new]
        if work:
            pcm = [(channel.encoder, channel.unencoded) for _, channel in work]
            # A thread is worth its while only for those that are not just silent.
            silent = all(encoder.repeats(part) for encoder, part in pcm)
            encoded, spent_s = _encode(pcm) if silent else await loop.run_in_executor(pool, _encode, pcm)
            self._metrics.room_encoding.inc(spent_s)
            now, dropped = loop.time(), 0
            for (mixer, channel), frames in zip(work, encoded, strict=True):
                channel.unencoded = b""
                dropped += channel.deliver(frames, mixer.title, now)
            self._metrics.room_frames_dropped.inc(dropped)
        self._metrics.room_underruns.inc(sum(mixer.take_underruns() for mixer in self._rooms.values()))


def _full() -> CallboardError:
    return CallboardError(ErrorCode.OVERLOADED, "Too many listen here at the moment.", retry_after_s=10.0)


def _encode(work: Sequence[tuple[FrameEncoder, bytes]]) -> tuple[list[list[bytes]], float]:
    began = time.thread_time()
    return [encoder.feed(pcm) for encoder, pcm in work], time.thread_time() - began

"""The sound of one room: mixed once, encoded once for each bitrate that somebody listens to."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from callboard_contracts.speech import BYTES_PER_MS
from callboard_edge.domain.room_feed import RoomFeed
from callboard_edge.domain.room_playout import Speaking
from callboard_edge.media.idle_loop import IdleLoop
from callboard_edge.media.listener import Listener
from callboard_edge.media.mp3 import FRAME_MS, FrameEncoder

FRAME_BYTES = FRAME_MS * BYTES_PER_MS


class SpeakerWatch:
    """Tells one reader who speaks; what changes while it does not look is merged."""

    def __init__(self, speaking: Speaking | None) -> None:
        self.speaking = speaking
        self._changed = asyncio.Event()

    def tell(self, speaking: Speaking | None) -> None:
        """Notes who speaks now."""
        self.speaking = speaking
        self._changed.set()

    async def change(self, timeout_s: float) -> bool:
        """Waits for the next change and says whether there was one in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        self._changed.clear()
        return True


@dataclass(slots=True, eq=False)
class Channel:
    """One bitrate of a room, and who listens to it.

    `recent` are the last frames, with which a new listener begins. `unencoded` is what the encoder gets next.
    """

    encoder: FrameEncoder
    recent: deque[bytes]
    unencoded: bytes
    listeners: set[Listener] = field(default_factory=set[Listener])
    places: int = 0
    """How many listen, or are about to."""

    def deliver(self, frames: Sequence[bytes], title: str, now: float) -> int:
        """Sends frames to all who listen, and returns how many were left out."""
        self.recent.extend(frames)
        return sum([listener.send(frames, title, now) for listener in tuple(self.listeners)])


class RoomMixer:
    """One room that somebody listens to; `burst_frames` is how much sound a new listener gets at once."""

    def __init__(self, feed: RoomFeed, task: "asyncio.Task[None]", burst_frames: int, idle_loop: bytes | None) -> None:
        self.title = ""
        """The name of whoever spoke last."""
        self.channels: dict[int, Channel] = {}
        self.watches: set[SpeakerWatch] = set()
        self._underruns = 0
        self._feed = feed
        self._task = task
        self._playout = feed.playout
        self._burst_frames = burst_frames
        self._recent: deque[bytes] = deque([bytes(FRAME_BYTES)] * burst_frames, burst_frames)
        self._loop = IdleLoop(idle_loop) if idle_loop else None
        self._speaking: Speaking | None = None

    @property
    def occupied(self) -> bool:
        """Whether somebody listens or watches."""
        return bool(self.channels or self.watches)

    def channel(self, bitrate_kbps: int) -> Channel:
        """The channel of a bitrate, which begins with what was heard last."""
        found = self.channels.get(bitrate_kbps)
        if found is None:
            recent = deque[bytes](maxlen=self._burst_frames)
            found = self.channels[bitrate_kbps] = Channel(FrameEncoder(bitrate_kbps), recent, b"".join(self._recent))
        return found

    def watch(self) -> SpeakerWatch:
        """Begins to tell who speaks."""
        watch = SpeakerWatch(self._speaking)
        self.watches.add(watch)
        return watch

    def mix(self, frames: int, now: float) -> None:
        """Mixes the next so many frames; `now` is in Unix seconds."""
        playout = self._feed.playout
        if playout is not self._playout:
            playout.play_until(now)
            self._playout = playout
        was_idle, underruns = playout.idle, playout.underruns
        pcm = playout.read(frames * FRAME_BYTES, now)
        self._underruns += playout.underruns - underruns
        self._feed.check(now)
        if self._loop is not None:
            pcm = self._loop.mix(pcm, audible=was_idle and playout.idle)
        if playout.speaking != self._speaking:
            self._speaking = playout.speaking
            self.title = self._speaking.speaker if self._speaking else self.title
            for watch in self.watches:
                watch.tell(self._speaking)
        self._recent.extend(pcm[begin : begin + FRAME_BYTES] for begin in range(0, len(pcm), FRAME_BYTES))
        for channel in self.channels.values():
            channel.unencoded += pcm
            if not channel.recent:
                # It waits for its beginning, which is no longer than the burst.
                channel.unencoded = channel.unencoded[-self._burst_frames * FRAME_BYTES :]

    def take_underruns(self) -> int:
        """How often somebody ran out of sound since this was last asked."""
        underruns, self._underruns = self._underruns, 0
        return underruns

    def close(self) -> None:
        """Stops to follow the room."""
        self._task.cancel()

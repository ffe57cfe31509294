"""Brings what is said in one room to its playout, for as long as somebody listens."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing

from callboard_contracts.errors import CallboardError
from callboard_edge.domain.ports import RoomAudioSource
from callboard_edge.domain.room_playout import BYTES_PER_S, RoomEvent, RoomPlayout

log = logging.getLogger(__name__)

MAX_BUFFERED_BYTES = 30 * BYTES_PER_S
"""How much sound of a room is held in memory; the rest waits on the bus until its time comes."""
HISTORY_S = 600.0
"""How far back it is looked for utterances that are under way; as long as the bus keeps sound at least."""
HISTORY_BYTES = HISTORY_S * BYTES_PER_S
MAX_WAITING_EVENTS = 64
"""How many messages that come while the history is read are kept; more are read from the bus."""
OUTAGE_PAUSE_S = 1.0
WAKE_INTERVAL_S = 30.0


class RoomFeed:
    """Fills the playout of one room: from the live subscription, and from the bus where something is missing.

    The playout begins where the room is now: what others have heard already is passed over.
    """

    def __init__(self, source: RoomAudioSource, room: str, pause_s: float, now: Callable[[], float]) -> None:
        self.playout = RoomPlayout(pause_s, MAX_BUFFERED_BYTES)
        """What is heard; another one takes its place when the history is known."""
        self._source = source
        self._room = room
        self._pause_s = pause_s
        self._now = now
        self._loaded = False
        self._waiting: list[RoomEvent] = []
        self._lost = False
        self._wake = asyncio.Event()

    def check(self, now: float) -> None:
        """Has the bus read again where the playout needs it; called at every tick of the mixer."""
        if self._loaded and (self.playout.starts_lost or self.playout.wanted(now) is not None):
            self._wake.set()

    async def run(self) -> None:
        """Fills the playout until it is cancelled."""
        while True:
            try:
                async with self._source.listen(self._room, self._take, self._on_lost):
                    await self._fill()
            except CallboardError as error:
                self._log(error)
                await asyncio.sleep(OUTAGE_PAUSE_S)

    async def _fill(self) -> None:
        while True:
            try:
                await (self._refill() if self._loaded else self._load())
            except CallboardError as error:
                self._log(error)
                await asyncio.sleep(OUTAGE_PAUSE_S)

    async def _load(self) -> None:
        playout = RoomPlayout(self._pause_s, int(HISTORY_BYTES))
        async with aclosing(self._source.history(self._room, self._now() - HISTORY_S)) as history:
            async for events in history:
                for event in events:
                    playout.play_until(event.at)
                    playout.take(event)
        playout.play_until(self._now())
        playout.take_starts(())
        playout.limit(MAX_BUFFERED_BYTES)
        self.playout, self._loaded = playout, True
        for event in self._waiting:
            playout.take(event)
        self._waiting.clear()
        if self._lost:
            playout.mark_lost()

    async def _refill(self) -> None:
        now, playout = self._now(), self.playout
        if playout.starts_lost:
            playout.take_starts(await self._source.starts(self._room, now - HISTORY_S))
        wanted = playout.wanted(now)
        if wanted is not None:
            segments = await self._source.segments(self._room, wanted)
            playout.take_read(wanted, segments, self._now())
            return
        self._wake.clear()
        try:
            async with asyncio.timeout(WAKE_INTERVAL_S):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _take(self, event: RoomEvent) -> None:
        if self._loaded:
            self.playout.take(event)
        elif len(self._waiting) < MAX_WAITING_EVENTS:
            self._waiting.append(event)
        else:
            self._lost = True

    def _on_lost(self) -> None:
        if self._loaded:
            self.playout.mark_lost()
            self._wake.set()
        else:
            self._lost = True

    def _log(self, error: CallboardError) -> None:
        log.warning("room_audio_unread", extra={"room": self._room, "code": error.info.code.value})

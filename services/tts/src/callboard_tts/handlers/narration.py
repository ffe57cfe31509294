"""Reads a chat reply while it is written: its frames as they are sent, and what was missed from the bus."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from nats.aio.msg import Msg
from pydantic import ValidationError

from callboard_contracts import subjects
from callboard_contracts.chat import ChatFrame, ChatResult
from callboard_contracts.speech import NarratedReply
from callboard_contracts.streams import OUT
from callboard_kit.bus import Bus, BusUnavailable
from callboard_kit.lifecycle import is_set_within
from callboard_kit.stream_reads import read_subject
from callboard_tts.domain.narration import NarratedText
from callboard_tts.domain.pieces import PieceBatch
from callboard_tts.domain.utterance import Utterance
from callboard_worker.takeover import kept_result

log = logging.getLogger(__name__)

MAX_WAITING_FRAMES = 1024
MAX_FRAMES = 65_536
FIRST_CHECK_S = 2.0
LAST_CHECK_S = 8.0
"""How long nothing must arrive before the bus is asked whether a frame was missed: at first, and at most."""
REFILL_PAUSE_S = 0.25
"""The pause between two attempts to fill a gap."""


class _Reader:
    """One reply that is being read."""

    def __init__(self, bus: Bus, reply: NarratedReply) -> None:
        self._bus = bus
        self._reply = reply
        self._text = NarratedText()
        self._waiting: list[bytes] = []
        self._arrived = asyncio.Event()
        self._lost = True
        """Whether frames may be in the stream that did not arrive here; at first, those sent before."""

    @property
    def text(self) -> NarratedText:
        """What is known of the reply."""
        return self._text

    def take(self, message: Msg) -> None:
        """Takes a frame off the bus; one too many is read back later."""
        if len(self._waiting) < MAX_WAITING_FRAMES:
            self._waiting.append(message.data)
            self._arrived.set()
        else:
            self.mark_lost()

    def mark_lost(self) -> None:
        """Notes that a frame may have been missed."""
        self._lost = True
        self._arrived.set()

    async def next(self) -> str:
        """More of the reply's text as soon as there is some; nothing at its end."""
        check_s, silent = FIRST_CHECK_S, False
        while True:
            self._arrived.clear()
            text = self._text.feed(self._frames())
            if not text and self._text.end is None and (silent or self._lost or self._text.missing):
                text = await self._refill()
            if text or self._text.end is not None:
                return text
            waiting_s = REFILL_PAUSE_S if self._lost or self._text.missing else check_s
            silent = not await is_set_within(self._arrived, waiting_s)
            check_s = min(LAST_CHECK_S, check_s * 2) if silent else FIRST_CHECK_S

    def _frames(self) -> list[ChatFrame]:
        waiting, self._waiting = self._waiting, []
        return [frame for frame in map(_frame, waiting) if frame is not None]

    async def _refill(self) -> str:
        """Reads back what may have been missed; the kept result where the frames do not come to an end."""
        request_id = self._reply.request_id
        try:
            self._lost = False
            stored = await read_subject(self._bus, OUT, subjects.out(self._reply.edge, request_id), limit=MAX_FRAMES)
            frames = [frame for frame in (_frame(message.data) for message in stored) if frame is not None]
            text = self._text.feed(frames)
            if not text and self._text.end is None:
                result = await kept_result(self._bus, request_id, ChatResult)
                text = self._text.feed(self._frames())
                if result is not None and self._text.end is None:
                    text += self._text.complete(result)
        except BusUnavailable:
            log.info("reply_unread", extra={"request_id": request_id})
            self._lost = True
            return ""
        return text


class Narrator:
    """Has the replies that this worker speaks read, each over a subscription of its own."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._readers: set[_Reader] = set()
        bus.on_reconnect(self._reconnected)

    async def batches(self, reply: NarratedReply, utterance: Utterance) -> AsyncGenerator[PieceBatch]:
        """Yields the pieces of a reply as its text arrives, up to its end.

        Of a reply that failed, whole sentences are spoken.

        Raises:
            BusUnavailable: the connection has ended.
        """
        stream = utterance.pieces()
        async with self._reading(reply) as reader:
            while reader.text.end is None:
                pieces = await asyncio.to_thread(stream.feed, await reader.next())
                if pieces:
                    yield PieceBatch(tuple(pieces), is_last=False)
            rest = await asyncio.to_thread(stream.finish, whole_sentences=reader.text.failed)
        yield PieceBatch(tuple(rest), is_last=True)

    @asynccontextmanager
    async def _reading(self, reply: NarratedReply) -> AsyncGenerator[_Reader]:
        reader = _Reader(self._bus, reply)
        # First the frames that are sent from now on, then those of before, so that none falls between.
        subscription = await self._bus.subscribe_now(subjects.out(reply.edge, reply.request_id), reader.take)
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)
            await self._bus.unsubscribe(subscription)

    def _reconnected(self) -> None:
        for reader in self._readers:
            reader.mark_lost()


def _frame(data: bytes) -> ChatFrame | None:
    try:
        return ChatFrame.model_validate_json(data)
    except ValidationError:
        log.warning("frame_malformed")
        return None

"""The holds of one utterance while it is spoken: what they allow, and when more is asked for."""

import asyncio

from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.quota import Hold, Work
from callboard_contracts.speech import BYTES_PER_MS
from callboard_tts.domain.hold_limits import Allowance, most_ms, usual_ms
from callboard_tts.domain.pieces import PieceBatch
from callboard_tts.domain.segments import Segment
from callboard_tts.domain.utterance import Utterance
from callboard_tts.handlers.segment_writer import SegmentWriter
from callboard_worker import hold_extensions
from callboard_worker.hold_extensions import JobHolds

UNKNOWN_REST_MS = 3_600_000
"""What may follow in a text that still arrives: more than any slice."""


class QuotaExhausted(Exception):  # noqa: N818 - what happened, not a fault
    """No more sound may be sent; `info` is what the client is told."""

    def __init__(self, info: ErrorInfo) -> None:
        super().__init__(info.message)
        self.info = info


class AudioQuota:
    """Has the sound of one attempt held, slice by slice."""

    def __init__(self, holds: JobHolds, slice_ms: int) -> None:
        self._holds = holds
        self._allowance = Allowance(holds.all, slice_ms)
        self._asking: asyncio.Task[ErrorInfo | None] | None = None

    @property
    def extensions(self) -> tuple[Hold, ...]:
        """All holds beside the job's own, in the order in which they were taken."""
        return self._holds.extensions

    def drain_pending(self) -> tuple[Hold, ...]:
        """Takes the holds that no segment names yet; the caller publishes them with the next segment."""
        return self._holds.drain_pending()

    def covers(self, total_ms: int) -> bool:
        """Whether so much sound may be sent in all."""
        return self._allowance.lacks_ms(total_ms) == 0

    def look_ahead(self, total_ms: int, next_ms: int, rest_ms: int) -> None:
        """Starts a request for more, without waiting, if what follows `total_ms` may need it; see `Allowance`."""
        self._take_answer()
        if self._asking is None and (audio_ms := self._allowance.ahead_ms(total_ms, next_ms, rest_ms)):
            # Owned by this object: `cover` or `close` awaits it.
            self._asking = asyncio.ensure_future(self._ask(audio_ms))

    async def cover(self, total_ms: int, rest_ms: int) -> None:
        """Returns once so much sound may be sent in all.

        Raises:
            QuotaExhausted: it may not.
        """
        while True:
            self._take_answer()
            if self._asking is not None and not self.covers(total_ms):
                # The request that is under way may ask for more than is needed now, so a refusal is not the end.
                await asyncio.wait({self._asking}, timeout=hold_extensions.QUOTA_WAIT_S)
                continue
            audio_ms = self._allowance.needed_ms(total_ms, rest_ms)
            if audio_ms == 0:
                return
            exact = audio_ms == self._allowance.lacks_ms(total_ms)
            refusal = await self._ask(audio_ms)
            if refusal is not None and (exact or refusal.code is not ErrorCode.QUOTA_EXCEEDED):
                raise QuotaExhausted(refusal)

    async def stop(self) -> None:
        """Ends a request that is under way; from now on `extensions` stays as it is."""
        if self._asking is not None:
            asking, self._asking = self._asking, None
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def close(self) -> None:
        """Ends a request that is under way, and releases the holds that no segment names."""
        await self.stop()
        self._holds.give_back_pending()

    def _take_answer(self) -> None:
        """Forgets a request that is done; its result has been noted."""
        if self._asking is not None and self._asking.done():
            asked, self._asking = self._asking, None
            asked.result()

    async def _ask(self, audio_ms: int) -> ErrorInfo | None:
        """Requests a hold; returns the refusal, or None."""
        answer = await self._holds.ask(Work(audio_ms=audio_ms))
        if isinstance(answer, Hold):
            self._allowance.add(answer)
            return None
        if answer is None:
            self._allowance.add_unheld(audio_ms)
        elif answer.code is ErrorCode.QUOTA_EXCEEDED:
            self._allowance.refuse()
        return answer


class QuotaGatedWriter:
    """Passes segments on to the writer once they are held, and a piece only once all of it is.

    A piece whose length is not known yet is begun when its longest is held; else it waits until it is made. Of a text
    that still arrives, a whole slice is held for what is not known yet. `first` is the piece to begin with.
    """

    def __init__(
        self, writer: SegmentWriter, holds: AudioQuota, utterance: Utterance, speed: float, first: int
    ) -> None:
        self._writer = writer
        self._holds = holds
        self._utterance = utterance
        self._speed = speed
        self._next = first
        """The piece that is sent, or comes next."""
        self._usual_ms: list[int] = []
        self._most_ms: list[int] = []
        self._is_whole = False
        self._waiting: list[Segment] = []
        self._waiting_bytes = 0
        self._begun = False

    def expect(self, batch: PieceBatch) -> None:
        """Takes note of pieces that are to be sent."""
        self._usual_ms += [usual_ms(piece.text, self._speed) for piece in batch.pieces]
        self._most_ms += [most_ms(piece.text, self._speed) + self._utterance.pause_ms(piece) for piece in batch.pieces]
        self._is_whole = batch.is_last
        if not self._begun and not self._waiting:
            self._look_ahead()

    async def send(self, segment: Segment) -> None:
        """Takes the next segment.

        Raises:
            QuotaExhausted: it may not be sent, and nothing of its piece was.
            BusUnavailable: as the writer does.
        """
        self._waiting.append(segment)
        self._waiting_bytes += len(segment.pcm)
        if segment.piece_done:
            self._next = segment.piece + 1
            self._look_ahead()
        elif not self._begun and not self._may_begin(segment.piece):
            return
        self._begun = not segment.piece_done
        await self._holds.cover(self._total_ms, self._rest_ms(segment.piece + 1))
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        for one in waiting:
            await self._writer.send(one, self._holds.drain_pending())

    @property
    def _total_ms(self) -> int:
        return -(-(self._writer.sent_bytes + self._waiting_bytes) // BYTES_PER_MS)

    def _may_begin(self, piece: int) -> bool:
        """Whether the longest that the piece can be is held, or it is longer than that already."""
        sent_ms = self._writer.sent_bytes // BYTES_PER_MS + 1
        longest_ms = self._most_ms[piece]
        return self._holds.covers(sent_ms + longest_ms) or self._waiting_bytes > longest_ms * BYTES_PER_MS

    def _look_ahead(self) -> None:
        if self._next < len(self._most_ms):
            self._holds.look_ahead(self._total_ms, self._usual_ms[self._next], self._rest_ms(self._next))

    def _rest_ms(self, piece: int) -> int:
        return sum(self._most_ms[piece:]) if self._is_whole else UNKNOWN_REST_MS

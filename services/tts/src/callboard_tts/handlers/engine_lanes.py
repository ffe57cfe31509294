"""Hands the engine's lanes to the utterances in work, piece by piece."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_tts import metrics
from callboard_tts.domain.scheduling import MIN_RETRY_S, PieceScheduler, Playback

log = logging.getLogger(__name__)

ADMISSION_PAUSE_S = 0.25
"""How often an utterance looks whether it can be kept fed."""
OVERTAKING_S = 3.0
"""For so long shorter utterances may be admitted before one that waits."""


class EngineLanes:
    """The lanes of this worker's engine, and the utterances that share them."""

    def __init__(self, lanes: int, ahead_s: float, admission_timeout_s: float) -> None:
        self._scheduler = PieceScheduler(lanes, ahead_s)
        self._admission_timeout_s = admission_timeout_s
        self._waiting: dict[Playback, float] = {}
        self._asking: dict[Playback, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def shortage_s(self, playback: Playback) -> float:
        """By how many seconds the lanes would lag behind with one more utterance; see `PieceScheduler`."""
        return self._scheduler.shortage_s(playback, _now())

    @asynccontextmanager
    async def admitted(self, playback: Playback, *, for_ever: bool, is_new: bool) -> AsyncGenerator[None]:
        """Takes an utterance into work inside the context.

        A new one that could not be kept fed beside the others waits: `for_ever`, or until the admission timeout. One
        that has a first sound goes on at once.

        Raises:
            CallboardError: `queue_full`.
        """
        self._waiting[playback] = _now()
        try:
            while is_new and (shortage_s := self._shortage_s(playback)):
                if not for_ever and _now() - self._waiting[playback] >= self._admission_timeout_s:
                    metrics.REFUSED.inc()
                    log.info("utterance_refused", extra={"shortage_s": round(shortage_s, 1)})
                    raise CallboardError(
                        ErrorCode.QUEUE_FULL,
                        "So many are listening that this speech would be interrupted; try again shortly.",
                        retry_after_s=shortage_s,
                    )
                await asyncio.sleep(ADMISSION_PAUSE_S)
            self._scheduler.enter(playback)
        finally:
            del self._waiting[playback]
        try:
            yield
        finally:
            self._scheduler.leave(playback)
            self._grant()

    def _shortage_s(self, playback: Playback) -> float:
        """As `shortage_s`; nobody passes one of the same class who has waited for long.

        A tenant within its share passes those of tenants who are spoken for already.
        """
        now = _now()
        passes = self._scheduler.within_share(playback, now)
        for other, since in self._waiting.items():
            if other is playback:
                break
            is_passed = passes and other.tenant != playback.tenant and self._scheduler.speaks_for(other.tenant)
            if now - since > OVERTAKING_S and other.is_batch <= playback.is_batch and not is_passed:
                return MIN_RETRY_S
        return self.shortage_s(playback)

    @asynccontextmanager
    async def lane(self, playback: Playback, piece_s: float) -> AsyncGenerator[None]:
        """Has the engine to itself inside the context, for a piece that is expected to be so long."""
        asked_at = _now()
        granted = self._asking[playback] = asyncio.get_running_loop().create_future()
        self._scheduler.ask(playback, piece_s, asked_at)
        try:
            self._grant()
            await granted
            metrics.LANE_WAIT.observe(_now() - asked_at)
            yield
        finally:
            self._asking.pop(playback, None)
            self._scheduler.withdraw(playback)
            self._scheduler.release(playback)
            self._grant()

    def start_delay_s(self, playback: Playback, made_s: float, next_s: float) -> float:
        """How long the first sound of an utterance waits so that it is not interrupted; see `PieceScheduler`."""
        return self._scheduler.start_delay_s(playback, made_s, next_s)

    def measured(self, working_s: float, sound_s: float) -> None:
        """Takes note of how long the engine took for a piece's sound."""
        self._scheduler.factor.add(working_s, sound_s)

    def _grant(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while (playback := self._scheduler.grant(_now())) is not None:
            granted = self._asking.get(playback)
            if granted is not None and not granted.done():
                granted.set_result(None)
        check_s = self._scheduler.next_check_s(_now())
        if check_s is not None:
            self._timer = asyncio.get_running_loop().call_later(check_s, self._grant)


def _now() -> float:
    return asyncio.get_running_loop().time()

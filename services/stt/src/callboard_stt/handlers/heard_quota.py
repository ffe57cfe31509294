"""The holds of a transcription: what they allow, and when more is asked for."""

from callboard_contracts.errors import CallboardError
from callboard_contracts.quota import Hold, Work
from callboard_stt.domain.heard import allowed_ms
from callboard_worker.hold_extensions import JobHolds


class HeardQuota:
    """Has a whole sound held once its length is known, before an engine hears any of it."""

    def __init__(self, holds: JobHolds) -> None:
        self._holds = holds
        self._unheld = False

    @property
    def extensions(self) -> tuple[Hold, ...]:
        """All holds beside the job's own, in the order in which they were taken."""
        return self._holds.extensions

    async def cover(self, duration_ms: int) -> None:
        """Has so much sound held.

        Raises:
            CallboardError: quota refuses, or does not answer.
        """
        allowed = allowed_ms(self._holds.all)
        if allowed is None or duration_ms <= allowed:
            return
        answer = await self._holds.ask(Work(audio_ms=duration_ms - allowed))
        if answer is None:
            self._unheld = True
        elif not isinstance(answer, Hold):
            raise CallboardError.of(answer)

    def charged(self, heard_ms: int) -> Work:
        """What of the sound is charged: no more than was held, or allowed without a hold."""
        allowed = None if self._unheld else allowed_ms(self._holds.all)
        return Work(audio_ms=heard_ms if allowed is None else min(heard_ms, allowed))

"""When an engine that failed is asked again."""

from dataclasses import dataclass

from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_worker.engine import backoff_s

MAX_BREAKS = 3
"""How often a reply that broke off in its middle is taken up again by the same worker."""


@dataclass(slots=True)
class Retries:
    """Counts the failures of one reply and decides what follows each.

    Before the first token an engine that is unavailable is asked again, ever less often, until the deadline. In the
    middle of a reply it is asked again a few times, and only where it can go on from what was said.
    """

    can_continue: bool
    count: int = 0
    breaks: int = 0

    def delay_s(self, error: ErrorInfo, *, said: bool, left_s: float) -> float | None:
        """How long to wait before the next try, or None when the error is the answer."""
        if error.code is not ErrorCode.ENGINE_UNAVAILABLE:
            return None
        if said:
            self.breaks += 1
            if not self.can_continue or self.breaks > MAX_BREAKS:
                return None
        delay = max(backoff_s(self.count), error.retry_after_s or 0.0)
        self.count += 1
        return delay if delay < left_s else None


def final_error(error: ErrorInfo, *, said: bool) -> ErrorInfo:
    """What the client is told once nothing more is tried."""
    if said and error.code is ErrorCode.ENGINE_UNAVAILABLE:
        return ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="The engine broke off in the middle of the reply.")
    return error

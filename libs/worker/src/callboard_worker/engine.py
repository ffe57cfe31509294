"""What every engine promises the worker in front of it, and the one tree of errors that engines raise."""

import random
from typing import Protocol

from callboard_contracts.errors import ErrorCode, ErrorInfo

FIRST_DELAY_S = 0.05
LONGEST_DELAY_S = 3.0


def backoff_s(tries: int) -> float:
    """How long to wait before an engine that was away is asked again, after so many tries: ever longer, with jitter."""
    return min(FIRST_DELAY_S * 2 ** min(tries, 16), LONGEST_DELAY_S) * random.uniform(0.8, 1.2)


class EngineError(Exception):
    """The root of what goes wrong with an engine.

    `info` is what a client may be told; the exception's own text is for the log. Neither quotes the engine.
    """

    def __init__(self, reason: str, info: ErrorInfo) -> None:
        super().__init__(reason)
        self.info = info


class EngineUnavailable(EngineError):  # noqa: N818 - a state: another try may help
    """The engine cannot be reached or takes no work at this moment."""

    def __init__(self, reason: str = "no answer", retry_after_s: float | None = None) -> None:
        info = ErrorInfo(
            code=ErrorCode.ENGINE_UNAVAILABLE,
            message="The engine behind the model could not be reached.",
            retry_after_s=retry_after_s,
        )
        super().__init__(reason, info)


class EngineFailed(EngineError):  # noqa: N818 - what happened to one request
    """The engine failed on this request; its other work is not affected."""

    def __init__(self, reason: str = "the engine reported an error") -> None:
        info = ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="The engine behind the model reported an error.")
        super().__init__(reason, info)


class EngineRefused(EngineError):  # noqa: N818 - a decision, not a fault
    """The engine does not take the request as it is; the client is told why."""

    def __init__(self, info: ErrorInfo) -> None:
        super().__init__(info.message, info)


class Engine(Protocol):
    """What a worker stands in front of."""

    @property
    def in_process(self) -> bool:
        """Whether the engine runs in the worker's own process, which its faults end."""
        ...

    async def load(self) -> None:
        """Gets the engine ready to work, warm included; called once, before the first job.

        Raises:
            EngineUnavailable: it cannot work at all; the text says why, for the operator.
        """
        ...

    async def ready(self) -> str | None:
        """None when the engine can take work at this moment, else the reason why it cannot."""
        ...

    def broken(self) -> str | None:
        """Why the engine can do no more work until its process starts anew, or None."""
        ...

    async def close(self) -> None:
        """Ends the engine or the connections to it."""
        ...

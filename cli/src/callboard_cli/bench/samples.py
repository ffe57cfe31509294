"""What is noted of each request, and how its failure is told apart from others."""

from dataclasses import dataclass
from typing import Literal

Work = Literal["chat", "speech", "conversations", "rooms"]
WORKS: tuple[Work, ...] = ("chat", "speech", "conversations", "rooms")
MAX_CODE_CHARACTERS = 60
MAX_EXAMPLE_CHARACTERS = 200


def printable(text: object, most: int = MAX_EXAMPLE_CHARACTERS) -> str:
    """What a server said, on one line that does nothing to a terminal, and not too long."""
    kept = "".join(sign if sign.isprintable() else " " for sign in str(text)[: most * 4])
    line = " ".join(kept.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


@dataclass(frozen=True, slots=True)
class Failure:
    """How a request failed: its HTTP status, where there was one, and a code, the server's own or one of these.

    `refused`, `unreachable`, `disconnected`, `timeout`, `no_stream`, `not_json`, `incomplete`, `empty`, `too_long`,
    `no_audio`.
    """

    code: str
    status: int | None = None
    example: str = ""

    @property
    def kind(self) -> str:
        """The name under which failures are counted."""
        return self.code if self.status is None else f"{self.status} {self.code}"


class FailedRequest(Exception):  # noqa: N818 - what became of a request of another program
    """A request failed; `retry_after_s` is what the server asked for before the next one."""

    def __init__(self, failure: Failure, retry_after_s: float | None = None) -> None:
        super().__init__(failure.kind)
        self.failure = failure
        self.retry_after_s = retry_after_s


@dataclass(slots=True)
class Sample:
    """One request; times are seconds of the machine's monotonic clock.

    `due_s` is when the request should have been sent, and every duration counts from there: a generator that sends
    late, because the server is slow or because it is busy itself, must not make the server look faster.
    """

    work: Work
    target: int
    due_s: float
    sent_s: float = 0.0
    first_s: float | None = None
    end_s: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    counted_by: Literal["usage", "chunks"] = "chunks"
    audio_s: float = 0.0
    underruns: int = 0
    underrun_s: float = 0.0
    turn: int = 1
    pair: int = 0
    failure: Failure | None = None

    @property
    def to_first_s(self) -> float | None:
        """From when it was due to the first token or sound."""
        return None if self.first_s is None else self.first_s - self.due_s

    @property
    def duration_s(self) -> float:
        """From when it was due to its end."""
        return self.end_s - self.due_s

    @property
    def per_token_s(self) -> float | None:
        """The time of each token after the first."""
        if self.first_s is None or self.output_tokens < 2:
            return None
        return (self.end_s - self.first_s) / (self.output_tokens - 1)

"""What the spirit box has others do: send, count, and turn sound into files."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from callboard_contracts.errors import ErrorInfo

Stage = Literal["text", "token", "sound"]
"""What has come since the end of a question: its text, the first token of the answer, the first sound of it."""
Outcome = Literal["answered", "failed", "replaced"]
"""How a contact came out; replaced by the next one, or left, before its answer began."""


class Ear(Protocol):
    """A visitor's end of the connection. Nothing here waits."""

    def first_response(self, sound: bytes) -> None:
        """Sends the beginning of the answer to the latest contact."""
        ...

    def response(self, sound: bytes) -> None:
        """Sends more of it."""
        ...

    def failed(self, error: ErrorInfo) -> None:
        """Says why a contact, or what the visitor sent instead of one, is not answered, or not further."""
        ...

    def forget(self) -> None:
        """Takes back what was sent of an earlier contact and has not left yet."""
        ...

    def close(self) -> None:
        """Ends the connection."""
        ...


class Figures(Protocol):
    """What is counted."""

    def reached(self, stage: Stage, seconds: float) -> None:
        """Notes how long after the end of a question a stage was reached."""
        ...

    def ended(self, outcome: Outcome) -> None:
        """Counts a contact."""
        ...


@dataclass(frozen=True, slots=True)
class Sounds:
    """How sound becomes a file, and the two sounds that nobody says, as PCM."""

    encode: Callable[[bytes], Awaitable[bytes]]
    refusal: bytes
    silence: bytes

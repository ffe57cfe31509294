"""The numbered frames of a request whose answer is a list, in order over all attempts."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from callboard_contracts.interest import ResumeReply
from callboard_contracts.ordering import AttemptOrder

F = TypeVar("F")
C = TypeVar("C")
E = TypeVar("E")


class FrameBuffer(ABC, Generic[F, C, E]):
    """The frames of one request in order; a newer attempt replaces what an older one wrote under the same numbers."""

    def __init__(self, order: AttemptOrder[F]) -> None:
        self.end: E | None = None
        self._order = order
        self._contents: list[Sequence[C]] = []

    @abstractmethod
    def read(self, frame: F) -> tuple[Sequence[C], E | None]:
        """What a frame brings, and the end where it has that."""

    @property
    def ended(self) -> bool:
        """Whether the end is here."""
        return self.end is not None

    @property
    def missing(self) -> bool:
        """Whether a later frame is here while an earlier one is not."""
        return self._order.missing and not self.ended

    @property
    def attempt(self) -> int:
        """The newest attempt seen."""
        return self._order.attempt

    @property
    def content(self) -> list[C]:
        """All that came so far."""
        return [one for content in self._contents for one in content]

    def announce(self, attempt: int) -> None:
        """Notes that an attempt has begun, so that what older ones still send is left aside."""
        self._order.announce(attempt)

    def resume(self) -> ResumeReply:
        """How far the answer has come, for a worker that takes the job over."""
        return ResumeReply(open=not self.ended, attempt=self.attempt, next_seq=self._order.next_number)

    def feed(self, frames: Iterable[F]) -> list[F]:
        """Takes frames in any order and returns those that come next, in order."""
        ready: list[F] = []
        for frame in frames:
            if self.ended:
                break
            ordered = self._order.take(frame)
            if ordered.rewound_to is not None:
                del self._contents[ordered.rewound_to :]
            for accepted in ordered.pieces:
                content, end = self.read(accepted)
                self._contents.append(content)
                ready.append(accepted)
                self.end = end or self.end
        return ready

    def finish(self, end: E, content: Sequence[C]) -> tuple[int, int]:
        """Ends the request with all that it has, and returns the number and the attempt of a last frame."""
        self.end = end
        self._contents = [content]
        self._order.clear()
        return self._order.next_number, max(1, self.attempt)

"""A bus that answers questions as a test tells it to."""

from collections.abc import Callable
from typing import cast

from callboard_kit.bus import Bus


class ScriptedBus:
    """Answers one question after another as it is told; an exception is raised."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.answers = list(answers)
        self.connected = True
        self.asked: list[str] = []
        self.sent: list[bytes] = []
        self.waits_s: list[float] = []
        self.on_late: Callable[[bytes], None] | None = None

    async def request(
        self,
        subject: str,
        payload: bytes,
        timeout_s: float,
        on_late: Callable[[bytes], None] | None = None,
        late_s: float = 0.0,
        wait_s: float = 0.0,
    ) -> bytes:
        """Takes note of the question and gives the next answer."""
        assert payload
        assert min(timeout_s, late_s) > 0
        self.asked.append(subject)
        self.sent.append(payload)
        self.waits_s.append(wait_s)
        self.on_late = on_late
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def request_later(
        self, subject: str, payload: bytes, on_end: Callable[[bytes | None], None], wait_s: float
    ) -> None:
        """Takes note of the question and gives the next answer; none for an exception, which is raised."""
        assert payload
        assert wait_s > 0
        self.asked.append(subject)
        self.sent.append(payload)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        on_end(answer or None)

    def as_bus(self) -> Bus:
        """The same for those who want the real one."""
        return cast("Bus", self)

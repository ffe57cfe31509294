"""A job that waits for the text of a volunteer, and the hands that it is in."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from callboard_chat.domain.volunteer_matching import WaitingJob
from callboard_contracts.volunteers import ServedBy, VolunteerOffer

CHARACTERS_PER_TOKEN = 4

Reward = Callable[["PostedJob", "Handout", str], int]
"""What a volunteer earns with a text, in thousandths of a kudos."""


def estimated_tokens(text: str) -> int:
    """About how many tokens a text has; volunteers do not say."""
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)


@dataclass(eq=False, slots=True)
class Handout:
    """A job in the hands of a volunteer; times are of the event loop's clock, in seconds.

    `prefix` is what was said of the reply before it, `told` what the volunteer has told since. `until` is when the
    volunteer's own time for it is over, which the job's deadline may come before.
    """

    id: str
    job: "PostedJob"
    by: ServedBy
    handed_at: float
    until: float
    time_s: float
    prefix: str
    validated: bool = False
    told: str = ""


@dataclass(eq=False)
class PostedJob:
    """A job that is pending, for the one that waits for its text.

    `payload` makes what a volunteer gets, of the volunteer's offer and what was said so far. `max_tokens` is the
    longest reply, and `time_s` how long a volunteer has for it, of which the job's `deadline` may leave less.
    `worked_s` is how long volunteers have written what was told of it.
    """

    waiting: WaitingJob
    key: str
    payload: Callable[[VolunteerOffer, str], dict[str, Any]]
    max_tokens: int
    time_s: float
    said: str = ""
    deadline: float = math.inf
    worked_s: float = 0.0
    handout: Handout | None = None
    served_by: ServedBy | None = None
    faults: int = 0
    state: Literal["open", "done", "failed", "left"] = "open"
    _pending: str = ""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def time_left_s(self, now: float) -> float:
        """How long a volunteer that gets it now has for it."""
        return min(self.time_s, self.deadline - now)

    def worked_until(self, now: float) -> float:
        """How long volunteers have written it, with the one that writes now and has told something."""
        current = self.handout
        return self.worked_s + (max(0.0, now - current.handed_at) if current is not None and current.told else 0.0)

    async def wait(self, timeout_s: float) -> None:
        """Waits until there is something new, or for the time given."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return

    def rest_of(self, text: str) -> str | None:
        """What of a whole text follows what was said of it, where a client may have got it without blanks before it."""
        for whole in (text, text.lstrip()):
            if whole.startswith(self.said):
                return whole[len(self.said) :]
        return None

    def read(self) -> str:
        """The text that has come since the last call."""
        text, self._pending = self._pending, ""
        self._changed.clear()
        return text

    def add(self, text: str, by: ServedBy) -> None:
        """Takes in a piece of the reply."""
        self.said += text
        self._pending += text
        self.served_by = by
        self._changed.set()

    def end(self, state: Literal["done", "failed"]) -> None:
        """Says that no more text comes."""
        self.state = state
        self.touch()

    def touch(self) -> None:
        """Wakes whoever waits for something new."""
        self._changed.set()

"""How much a measurement may ask for: caps on everything, and small ones for machines that are not this one."""

import asyncio
import ipaddress
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
MAX_REFUSALS = 5
"""After so many refusals in a row, each after a pause, the server is left alone."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most that one measurement may be set to."""

    at_once: int
    rate_per_s: float
    requests: int
    seconds: float
    tokens: int
    max_tokens: int


HARD = Bounds(at_once=1000, rate_per_s=5000.0, requests=100_000, seconds=3600.0, tokens=100_000_000, max_tokens=8192)
POLITE = Bounds(at_once=4, rate_per_s=2.0, requests=100, seconds=120.0, tokens=50_000, max_tokens=512)
"""For a host that is not this machine and was not named by `--allow-load`."""


def is_loopback(url: str) -> bool:
    """Whether an address means this machine by its very name."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Allowance:
    """What may still be asked of one target: requests, tokens and time."""

    def __init__(self, requests: int, tokens: int, seconds: float) -> None:
        self._requests = requests
        self._tokens = tokens
        self._until_s = time.monotonic() + seconds
        self.ended_by: str | None = None
        """Which cap ended it, if one did before all requests were sent."""

    @property
    def is_open(self) -> bool:
        """Whether neither time nor tokens are used up."""
        if self.ended_by is None and time.monotonic() >= self._until_s:
            self.ended_by = "seconds"
        return self.ended_by is None

    def take(self, tokens: int) -> bool:
        """Takes a request that may use so many tokens; False when that would be too much."""
        if not self.is_open or self._requests < 1:
            return False
        if tokens > self._tokens:
            self.ended_by = "tokens"
            return False
        self._requests -= 1
        self._tokens -= tokens
        return True

    def settle(self, taken: int, used: int) -> None:
        """Gives back what a request did not use of its tokens, or takes what it used beyond them."""
        self._tokens += taken - used

    @property
    def left_s(self) -> float:
        """The time that is left."""
        return max(0.0, self._until_s - time.monotonic())


class Backoff:
    """Keeps quiet towards a target that refuses: as long as it asks for, else twice as long each time."""

    def __init__(self) -> None:
        self._open_at_s = 0.0
        self._refusals = 0
        self.pauses = 0
        self.paused_s = 0.0
        self.gave_up: str | None = None

    def refused(self, status: int, retry_after_s: float | None) -> None:
        """Notes a refusal with 429, or any that says when to come again."""
        if status != 429 and retry_after_s is None:
            return
        now = time.monotonic()
        # What was under way when the pause began tells nothing new.
        self._refusals += now >= self._open_at_s
        pause_s = retry_after_s
        if pause_s is None:
            pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (self._refusals - 1))
        if pause_s > LONGEST_PAUSE_S:
            self.gave_up = f"it asks for {pause_s:.0f} s of quiet"
        elif self._refusals >= MAX_REFUSALS:
            self.gave_up = f"it refused {self._refusals} times in a row"
        longer_s = now + pause_s - max(now, self._open_at_s)
        if longer_s > 0 and not self.gave_up:
            self.pauses += 1
            self.paused_s += longer_s
            self._open_at_s = now + pause_s

    def accepted(self) -> None:
        """Notes an answer."""
        self._refusals = 0

    async def wait(self) -> bool:
        """Waits until the target may be asked again; says whether there was anything to wait for."""
        waited = False
        while (wait_s := self._open_at_s - time.monotonic()) > 0 and not self.gave_up:
            waited = True
            await asyncio.sleep(wait_s)
        return waited

"""What the ledger's unit tests share: a clock that is set by hand, callers that are stepped by hand."""

from collections.abc import Coroutine, Generator
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from callboard_contracts.quota import Rates
from callboard_quota.domain.attempt import Ask
from callboard_quota.domain.limits import Limit
from callboard_quota.domain.windows import Metric

T = TypeVar("T")
NOON = datetime(2026, 11, 20, 12, 30, tzinfo=UTC).timestamp()


class HandClock:
    """A clock that stands until it is moved."""

    def __init__(self, at: float = NOON) -> None:
        self.at = at

    def now(self) -> float:
        """The time that was set."""
        return self.at


class Turn:
    """Awaiting it hands control back to whoever steps the coroutine."""

    def __await__(self) -> Generator[None, None, None]:
        yield


async def give_way() -> None:
    await Turn()


async def no_pause(_seconds: float) -> None:
    """A pause that only lets others go first."""
    await Turn()


class Act(Generic[T]):
    """A coroutine that runs one step at a time, and can be dropped between two, as a killed process would."""

    def __init__(self, name: str, coroutine: Coroutine[Any, Any, T]) -> None:
        self.name = name
        self.done = False
        self.result: T | None = None
        self.error: Exception | None = None
        self._coroutine = coroutine

    def __repr__(self) -> str:
        return f"<{self.name}{' done' if self.done else ''}>"

    def step(self) -> None:
        """Runs up to the next turn."""
        try:
            self._coroutine.send(None)
        except StopIteration as stop:
            self.done = True
            self.result = stop.value
        except Exception as error:
            self.done = True
            self.error = error

    def run(self) -> T:
        """Runs to the end and returns or raises what the coroutine does."""
        while not self.done:
            self.step()
        if self.error:
            raise self.error
        return self.result  # pyright: ignore[reportReturnType] - done without an error means that it returned

    def kill(self) -> None:
        """Ends the coroutine without letting it clean up anything in the store."""
        self.done = True
        self._coroutine.close()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine that waits for nothing but turns."""
    return Act("run", coroutine).run()


def ask(
    request_id: str,
    *limits: Limit,
    units: int = 1000,
    tenant: str = "k_a",
    at: float = NOON,
    life_s: float = 300.0,
) -> Ask:
    """A wish for a hold on everything that the limits look at."""
    amounts: dict[tuple[str, Metric], int] = {(tenant, "units"): units}
    for limit in limits:
        amounts[limit.tenant, limit.metric] = units if limit.metric == "units" else 1
    return Ask(
        request_id=request_id,
        tenant=tenant,
        kind="chat",
        model="owl",
        amounts=tuple((who, metric, amount) for (who, metric), amount in amounts.items()),
        limits=limits,
        rates=Rates(),
        expires_at=at + life_s,
    )

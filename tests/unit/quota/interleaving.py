"""What the ledger's unit tests share: a manual clock, coroutines run step by step, and random interleavings of them."""

from abc import ABC, abstractmethod
from collections.abc import Coroutine, Generator
from datetime import UTC, datetime
from typing import Any, Generic, Protocol, TypeVar

from hypothesis import strategies as st

from callboard_contracts.quota import Hold, Rates, UsageEvent, Work
from callboard_quota.domain.amounts import Cost
from callboard_quota.domain.decision import HoldRequest
from callboard_quota.domain.limit_kinds import UNITS, Metric
from callboard_quota.domain.limits import Limit, hourly_kinds
from callboard_quota.domain.ports import LedgerStore, StoreUnavailable
from callboard_quota.domain.reaper import Reaper

T = TypeVar("T")
NOON = datetime(2026, 11, 20, 12, 30, tzinfo=UTC).timestamp()


class ManualClock:
    """A clock that a test sets."""

    def __init__(self, at: float = NOON) -> None:
        self.at = at

    def now(self) -> float:
        """The time that was set."""
        return self.at


WORK = Work(prompt_tokens=5)


def unheld(name: str, tenant: str = "i_0123456789abcdef", *, at: float = NOON, work: Work = WORK) -> UsageEvent:
    """A usage event of work that was admitted without a hold."""
    return UsageEvent(
        request_id=name, tenant=tenant, kind="chat", model="owl", pool="main", work=work, outcome="stop", at=at
    )


class YieldOnce:
    """Awaiting it hands control back to the stepper."""

    def __await__(self) -> Generator[None, None, None]:
        yield


async def yield_once() -> None:
    await YieldOnce()


async def no_reward(_event: UsageEvent) -> None:
    """Pays nobody."""


async def leases_in(store: LedgerStore) -> list[Hold]:
    """The holds of all open leases."""
    return [hold async for hold in store.leases()]


async def no_pause(_seconds: float) -> None:
    """A pause that only yields control."""
    await YieldOnce()


class Stepper(Generic[T]):
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
        """Runs up to the next await that yields."""
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


class Reaping(Protocol):
    """A process whose reaper may be in the middle of a pass."""

    reaper: Reaper
    reaping: Stepper[object] | None


class Interleaving(ABC):
    """Coroutines of several processes, interleaved as the data draws, and suspended or killed anywhere."""

    def __init__(self, data: st.DataObject, clock: ManualClock) -> None:
        self.data = data
        self.clock = clock
        self.steppers: list[Stepper[object]] = []

    @abstractmethod
    def check_result(self, stepper: Stepper[object]) -> None:
        """Checks the result of a stepper that ended."""

    def start(self, stepper: Stepper[object]) -> None:
        """Adds a coroutine, which may run to its end before any other does a step."""
        self.steppers.append(stepper)
        if self.data.draw(st.booleans()):
            self.advance(stepper, 1_000)

    def advance(self, stepper: Stepper[object], steps: int) -> None:
        """Runs some steps of a coroutine; the only error allowed is StoreUnavailable."""
        for _ in range(steps):
            if stepper.done:
                break
            stepper.step()
        if stepper.done:
            assert stepper.error is None or isinstance(stepper.error, StoreUnavailable), stepper.error
            self.check_result(stepper)

    def reap(self, process: Reaping) -> None:
        """Starts a pass of the reaper unless one is under way."""
        if process.reaping is None or process.reaping.done:
            process.reaping = Stepper("reap", process.reaper.pass_once())
            self.steppers.append(process.reaping)

    def step_or_kill(self, kind: str, most_steps: int = 8) -> None:
        """Runs some steps of one unfinished coroutine, or kills it."""
        running = [stepper for stepper in self.steppers if not stepper.done]
        if running:
            stepper = self.data.draw(st.sampled_from(running))
            if kind == "kill":
                stepper.kill()
            else:
                self.advance(stepper, self.data.draw(st.integers(1, most_steps)))

    def run_all(self) -> None:
        """Runs all coroutines to their end."""
        for stepper in self.steppers:
            self.advance(stepper, 10_000)

    def kill_all(self) -> None:
        """Kills all unfinished coroutines."""
        for stepper in self.steppers:
            stepper.kill()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine that awaits nothing but `yield_once`."""
    return Stepper("run", coroutine).run()


def hold_request(
    request_id: str,
    *limits: Limit,
    units: int = 1000,
    tenant: str = "k_a",
    at: float = NOON,
    life_s: float = 300.0,
) -> HoldRequest:
    """A request for a hold in every counter of the limits."""
    amounts: dict[tuple[str, Metric], int] = {(tenant, UNITS): units}
    for limit in limits:
        amounts[limit.tenant, limit.kind.metric] = limit.kind.metric.held(Cost(units))
    return HoldRequest(
        request_id=request_id,
        tenant=tenant,
        kind="chat",
        model="owl",
        amounts=amounts,
        limits=limits,
        hourly=hourly_kinds(limits),
        rates=Rates(),
        expires_at=at + life_s,
    )

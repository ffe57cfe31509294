"""The bus's time is reckoned by the monotonic clock, whatever the machine's clock says."""

import asyncio

import pytest

from callboard_kit import bus_clock
from callboard_kit.bus import BusUnavailable
from callboard_kit.bus_clock import BusClock

pytestmark = pytest.mark.unit


class Clocks:
    """The clocks of a machine and of a bus, which a test sets."""

    def __init__(self) -> None:
        self.bus_s, self.wall_s, self.pace_s = 5000.0, 9000.0, 10.0
        self.asked = 0
        self.trip_s = 0.0
        self.failure: Exception | None = None
        self.clock = BusClock(self.read, lambda: self.wall_s, lambda: self.pace_s)

    async def read(self) -> float:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        self.pass_s(self.trip_s / 2)
        told = self.bus_s
        self.pass_s(self.trip_s / 2)
        return told

    def pass_s(self, seconds: float) -> None:
        self.bus_s += seconds
        self.wall_s += seconds
        self.pace_s += seconds


async def test_machine_clock_stands_in_until_the_bus_has_told_its_time() -> None:
    clocks = Clocks()
    assert (clocks.clock.now(), clocks.clock.known) == (9000.0, False)
    clocks.trip_s = 0.4
    await clocks.clock.measure()
    assert clocks.clock.known
    clocks.pass_s(60)
    assert clocks.clock.now() == pytest.approx(clocks.bus_s)


async def test_step_of_the_machine_clock_changes_nothing() -> None:
    clocks = Clocks()
    await clocks.clock.measure()
    clocks.wall_s += 3600
    assert clocks.clock.now() == pytest.approx(5000.0)


async def test_answer_that_fails_leaves_the_last_measurement() -> None:
    clocks = Clocks()
    await clocks.clock.measure()
    clocks.failure = BusUnavailable("gone")
    with pytest.raises(BusUnavailable):
        await clocks.clock.measure()
    clocks.pass_s(5)
    assert clocks.clock.now() == pytest.approx(5005.0)


async def test_answer_that_took_long_counts_only_where_it_contradicts() -> None:
    clocks = Clocks()
    clocks.trip_s = 0.8
    await clocks.clock.measure()
    assert clocks.clock.now() == pytest.approx(clocks.bus_s)
    clocks.trip_s = 0.0
    clocks.bus_s += 0.1
    await clocks.clock.measure()
    assert clocks.clock.now() == pytest.approx(clocks.bus_s)
    clocks.trip_s, clocks.bus_s = 0.8, clocks.bus_s + 0.1
    await clocks.clock.measure()
    assert clocks.clock.now() == pytest.approx(clocks.bus_s - 0.1)
    clocks.bus_s += 0.5
    await clocks.clock.measure()
    assert clocks.clock.now() == pytest.approx(clocks.bus_s)


async def test_time_is_measured_again_after_a_step_and_until_the_bus_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus_clock, "CHECK_INTERVAL_S", 0.001)
    clocks = Clocks()
    clocks.failure = BusUnavailable("gone")
    following = asyncio.ensure_future(clocks.clock.follow())

    async def until_asked(times: int) -> None:
        async with asyncio.timeout(20):
            while clocks.asked < times:
                await asyncio.sleep(0.001)

    await until_asked(3)
    assert not clocks.clock.known
    clocks.failure = None
    async with asyncio.timeout(20):
        await clocks.clock.measured.wait()
    await asyncio.sleep(0.02)
    asked = clocks.asked
    # The machine slept: its monotonic clock stood still.
    clocks.bus_s += 300
    clocks.wall_s += 300
    await until_asked(asked + 1)
    assert clocks.clock.now() == pytest.approx(5300.0)
    clocks.pass_s(bus_clock.MEASURE_INTERVAL_S)
    await until_asked(asked + 2)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)

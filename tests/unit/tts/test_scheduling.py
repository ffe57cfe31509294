"""Whose piece is next, on a simulated clock with simulated engines."""

import heapq
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from callboard_tts.domain.scheduling import BATCH_PATIENCE_S, PieceScheduler, Playback

pytestmark = pytest.mark.unit

AHEAD_S = 20.0
LONG = (4.0, 4.5, 5.5, 4.8, 6.0, 6.5, 7.0, *(9.0, 7.5, 8.5) * 6)
"""The pieces of a long text, in seconds: they grow slowly, as the splitter makes them."""


@dataclass(eq=False)
class Caller:
    """One utterance of a simulation, and what became of it."""

    arrives_s: float
    pieces_s: Sequence[float]
    tenant: str = "t"
    is_batch: bool = False
    first_sound_s: float | None = None
    ended_s: float | None = None
    underruns: int = 0
    longest_wait_s: float = 0.0
    refused: bool = False
    playback: Playback = field(default_factory=lambda: Playback(""))
    spoken: int = 0
    asked_s: float = 0.0


class Simulation:
    """Speaks utterances piece by piece on a scheduler's lanes."""

    def __init__(
        self, callers: Sequence[Caller], *, lanes: int = 1, factor: float = 0.4, admits_all: bool = True
    ) -> None:
        self.scheduler = PieceScheduler(lanes, AHEAD_S)
        self.scheduler.factor.add(factor, 1.0)
        self._factor = factor
        self._admits_all = admits_all
        self._order = itertools.count()
        self._events: list[tuple[float, int, str, Caller | None]] = []
        self._callers: dict[Playback, Caller] = {}
        self.most_ahead_s = 0.0
        for caller in callers:
            self._at(caller.arrives_s, "arrives", caller)

    def run(self) -> None:
        """Runs until nothing is left to do."""
        while self._events:
            now, _, what, caller = heapq.heappop(self._events)
            if what == "arrives" and caller is not None:
                self._arrive(caller, now)
            elif what == "made" and caller is not None:
                self._made(caller, now)
            self._grant(now)

    def _at(self, time_s: float, what: str, caller: Caller | None = None) -> None:
        heapq.heappush(self._events, (time_s, next(self._order), what, caller))

    def _arrive(self, caller: Caller, now: float) -> None:
        playback = Playback(caller.tenant, caller.is_batch, rest_s=sum(caller.pieces_s), is_whole=True)
        if not self._admits_all and not caller.is_batch and self.scheduler.shortage_s(playback, now):
            caller.refused = True
            return
        caller.playback = playback
        self._callers[playback] = caller
        self.scheduler.enter(playback)
        self._ask(caller, now)

    def _ask(self, caller: Caller, now: float) -> None:
        caller.asked_s = now
        self.scheduler.ask(caller.playback, caller.pieces_s[caller.spoken], now)

    def _made(self, caller: Caller, now: float) -> None:
        sound_s = caller.pieces_s[caller.spoken]
        playback, starts_at = caller.playback, now
        if not playback.begun:
            following_s = [*caller.pieces_s, 0.0][caller.spoken + 1]
            if following_s:
                starts_at += self.scheduler.start_delay_s(playback, sound_s, following_s)
            caller.first_sound_s = starts_at
        elif now > playback.dry_at + 1e-9:
            caller.underruns += 1
        playback.made(sound_s, starts_at)
        playback.rest_s -= sound_s
        self.scheduler.factor.add(sound_s * self._factor, sound_s)
        self.scheduler.release(playback)
        caller.spoken += 1
        if caller.spoken < len(caller.pieces_s):
            self._ask(caller, now)
        else:
            caller.ended_s = now
            self.scheduler.leave(playback)

    def _grant(self, now: float) -> None:
        while (playback := self.scheduler.grant(now)) is not None:
            caller = self._callers[playback]
            caller.longest_wait_s = max(caller.longest_wait_s, now - caller.asked_s)
            self._at(now + caller.pieces_s[caller.spoken] * self._factor, "made", caller)
        check_s = self.scheduler.next_check_s(now)
        if check_s is not None:
            self._at(now + check_s + 1e-6, "check")


@pytest.mark.parametrize("arrives_s", [0.1, 1.0, 3.3, 8.0, 13.0, 20.0, 31.7])
def test_short_line_beside_a_long_text_waits_for_one_piece_at_most(arrives_s: float) -> None:
    long, short = Caller(0.0, LONG), Caller(arrives_s, (2.0,))
    Simulation([long, short]).run()
    assert short.first_sound_s is not None
    assert short.first_sound_s - arrives_s <= (max(LONG) + 2.0) * 0.4
    assert (long.underruns, short.underruns) == (0, 0)


@pytest.mark.parametrize("factor", [0.2, 0.3, 0.4, 0.45])
def test_four_listeners_on_two_lanes_do_not_run_dry(factor: float) -> None:
    callers = [Caller(n * 0.2, LONG, f"t{n}") for n in range(4)]
    Simulation(callers, lanes=2, factor=factor).run()
    assert [caller.underruns for caller in callers] == [0] * 4
    assert all(caller.ended_s is not None for caller in callers)


def test_whole_clip_is_made_at_once_where_nobody_else_needs_the_engine() -> None:
    alone = Caller(0.0, LONG)
    Simulation([alone], lanes=2, factor=0.1).run()
    assert alone.ended_s == pytest.approx(sum(LONG) * 0.1)


def test_nobody_is_far_ahead_while_another_is_nearly_dry() -> None:
    scheduler = PieceScheduler(2, AHEAD_S)
    ahead, dry = Playback("a"), Playback("b")
    for playback in (ahead, dry):
        scheduler.enter(playback)
    ahead.made(AHEAD_S + 5, 0.0)
    dry.made(1.0, 0.0)
    scheduler.ask(dry, 5.0, 0.0)
    scheduler.ask(ahead, 5.0, 0.0)
    assert scheduler.grant(0.0) is dry
    assert scheduler.grant(0.0) is None
    assert scheduler.next_check_s(0.0) == pytest.approx(5.0)
    assert scheduler.grant(5.0) is ahead
    scheduler.release(ahead)
    scheduler.ask(ahead, 5.0, 5.0)
    ahead.made(30.0, 5.0)
    dry.made(AHEAD_S, 5.0)
    assert scheduler.grant(5.0) is ahead


def test_live_pieces_come_before_those_that_nobody_listens_to() -> None:
    scheduler = PieceScheduler(1, AHEAD_S)
    batch, live = Playback("a", is_batch=True), Playback("b")
    for playback in (batch, live):
        scheduler.enter(playback)
    scheduler.ask(batch, 5.0, 0.0)
    scheduler.ask(live, 5.0, BATCH_PATIENCE_S - 1)
    assert scheduler.grant(BATCH_PATIENCE_S - 1) is live


def test_tenant_with_many_lines_delays_another_by_one_piece_each() -> None:
    many = [Caller(0.0, (4.0,), "many") for _ in range(20)]
    one = Caller(0.1, (4.0,), "one")
    Simulation([*many, one]).run()
    assert one.first_sound_s is not None
    assert one.first_sound_s <= 0.1 + 3 * 4.0 * 0.4


@pytest.mark.parametrize("seed", range(10))
def test_no_piece_waits_for_ever(seed: int) -> None:
    generator = random.Random(seed)
    callers = [
        Caller(
            generator.uniform(0, 60),
            [generator.uniform(0.5, 16.0) for _ in range(generator.randint(1, 8))],
            f"t{generator.randint(0, 5)}",
            is_batch=generator.random() < 0.3,
        )
        for _ in range(16)
    ]
    lanes, factor = generator.randint(1, 3), generator.uniform(0.1, 2.0)
    simulation = Simulation(callers, lanes=lanes, factor=factor)
    simulation.run()
    # Each other utterance can have one piece in every turn of this one, and a tenant's own may come before.
    bound_s = BATCH_PATIENCE_S + AHEAD_S + len(callers) * 2 * 16.0 * factor
    for caller in callers:
        assert caller.ended_s is not None
        assert caller.longest_wait_s <= bound_s


def test_half_an_hour_of_mixed_callers_is_fed() -> None:
    generator = random.Random(11)
    callers: list[Caller] = []
    at = 0.0
    while at < 1800:
        at += generator.expovariate(1 / 6.0)
        pieces: Sequence[float] = (
            LONG[: generator.randint(4, 12)] if generator.random() < 0.2 else (generator.uniform(1, 5),)
        )
        callers.append(Caller(at, pieces, f"t{generator.randint(0, 9)}", is_batch=generator.random() < 0.2))
    Simulation(callers, lanes=1, factor=0.4, admits_all=False).run()
    live = [caller for caller in callers if not caller.is_batch and not caller.refused]
    assert len(live) > 200
    assert all(caller.ended_s is not None for caller in callers if not caller.refused)
    first_waits_s = sorted((caller.first_sound_s or 0.0) - caller.arrives_s for caller in live)
    assert first_waits_s[-1] < 2 * (max(LONG) + 5.0) * 0.4 + 5.0
    assert sum(caller.underruns for caller in live) <= len(live) // 8
    batch_waits_s = [(caller.first_sound_s or 0.0) - caller.arrives_s for caller in callers if caller.is_batch]
    assert max(batch_waits_s) < BATCH_PATIENCE_S + 20


def test_utterance_that_could_not_be_fed_is_short_before_its_first_sound() -> None:
    callers = [Caller(0.0, LONG, f"t{n}") for n in range(5)]
    Simulation(callers, lanes=1, factor=0.4, admits_all=False).run()
    assert [caller.refused for caller in callers] == [False, False, True, True, True]
    assert all(caller.underruns == 0 for caller in callers[:2])


def test_tenant_that_fills_the_lanes_keeps_no_other_from_its_share() -> None:
    scheduler = PieceScheduler(1, AHEAD_S)
    scheduler.factor.add(0.4, 1.0)
    for _ in range(8):
        scheduler.enter(Playback("many", rest_s=60.0, is_whole=True))
    assert scheduler.shortage_s(Playback("many", rest_s=2.0, is_whole=True), 0.0)
    for rest_s in (2.0, 9.0):
        playback = Playback("other", rest_s=rest_s, is_whole=True)
        assert not scheduler.shortage_s(playback, 0.0)
        scheduler.enter(playback)
    assert scheduler.shortage_s(Playback("other", rest_s=9.0, is_whole=True), 0.0)


def test_one_alone_is_never_short() -> None:
    scheduler = PieceScheduler(1, AHEAD_S)
    scheduler.factor.add(3.0, 1.0)
    assert scheduler.shortage_s(Playback("t"), 0.0) == 0.0
    scheduler.enter(Playback("t"))
    assert scheduler.shortage_s(Playback("t"), 0.0) >= 1.0


def test_short_lines_are_admitted_as_long_as_they_come_soon() -> None:
    scheduler = PieceScheduler(1, AHEAD_S)
    scheduler.factor.add(0.4, 1.0)
    admitted = 0
    while not scheduler.shortage_s(line := Playback("t", rest_s=2.0, is_whole=True), 0.0):
        scheduler.enter(line)
        admitted += 1
    assert admitted == 12

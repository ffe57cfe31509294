"""Replies of any length that share a limit: held slice by slice, charged as written, exact at the limit."""

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from callboard_chat.domain.hold_limits import TextAllowance
from callboard_contracts.config import QuotaSection
from callboard_contracts.quota import Hold, ReserveRequest, UsageEvent, Work
from callboard_quota.backends.memory import MemoryAccounts, MemoryCounterStore, MemoryJournal, MemoryLedger
from callboard_quota.domain.concurrency import ConcurrencyWait
from callboard_quota.domain.event_rules import EventRules
from callboard_quota.domain.ledger import Ledger
from callboard_quota.domain.reservations import ReservationService
from callboard_quota.domain.settlement import Settler
from callboard_quota.domain.tenants import Secret
from tests.unit.quota.interleaving import (
    NOON,
    ManualClock,
    no_pause,
    no_reward,
    run,
    yield_once,
)

pytestmark = [pytest.mark.unit, pytest.mark.timeout(400)]

SECRET = Secret(b"s" * 32)
MOST_TOKENS = 600


@dataclass
class Reply:
    """One reply as its worker knows it."""

    name: str
    hold: Hold
    allowance: TextAllowance
    prompt_tokens: int
    length: int
    written: int = 0
    extensions: list[Hold] = field(default_factory=list[Hold])
    cut: bool = False


class Site:
    """One quota process over a store in memory, and the replies that run."""

    def __init__(self, day_tokens: int, prompt_cost: int, completion_cost: int) -> None:
        section = QuotaSection.model_validate(
            {
                "tiers": {"anonymous": {"tokens_per_day": day_tokens}, "standard": {}},
                "weights": {"prompt_token_cost": prompt_cost, "completion_token_cost": completion_cost},
            }
        )
        self.limit_units = day_tokens * 1000
        clock, journal = ManualClock(NOON), MemoryJournal()
        self.store = MemoryLedger(clock, yield_once)
        ledger = Ledger(self.store, clock, SECRET.signed)
        waits = ConcurrencyWait(ledger, no_pause)
        self.quota = ReservationService(section, SECRET, MemoryAccounts(), ledger, clock, journal, waits)
        rules = EventRules(SECRET, MemoryAccounts())
        self.settler = Settler(section, rules, ledger, MemoryCounterStore(self.store), clock, journal, no_reward)
        self.running: list[Reply] = []
        self.charged_units = 0

    @property
    def used_units(self) -> int:
        """What stands in the books, open holds among it."""
        return sum(value for counter, value in self.store.values.items() if counter.metric == "units")

    def reserve(self, name: str, work: Work, extends: Hold | None = None) -> Hold | None:
        address = None if extends else "192.0.2.1"
        wanted = ReserveRequest(
            request_id=name, kind="chat", model="owl", work=work, address=address, life_s=60, extends=extends
        )
        reply = run(self.quota.reserve(wanted))
        assert self.used_units <= self.limit_units
        return reply.hold

    def begin(self, name: str, reckoned: int, counted: int, slice_tokens: int, length: int) -> None:
        hold = self.reserve(name, Work(prompt_tokens=reckoned, completion_tokens=slice_tokens))
        if hold is not None:
            reply = Reply(name, hold, TextAllowance([hold], reckoned), counted, length)
            reply.allowance.count_prompt(counted)
            self.running.append(reply)

    def write(self, reply: Reply, tokens: int) -> None:
        """Writes so many tokens of a reply, or as many as a limit leaves."""
        for _ in range(tokens):
            if reply.cut or reply.written >= reply.length:
                return
            if reply.written + 1 > reply.allowance.tokens and not self._extend(reply):
                reply.cut = True
                return
            reply.written += 1

    def _extend(self, reply: Reply) -> bool:
        allowance, tokens = reply.allowance, reply.written + 1
        while units := allowance.wanted_units(tokens, MOST_TOKENS):
            work = allowance.work(units)
            hold = self.reserve(reply.name, work, extends=reply.hold)
            if hold is not None:
                reply.extensions.append(hold)
                allowance.add(hold)
            elif units > allowance.lacking_units(tokens):
                allowance.refuse(units)
            else:
                rates = reply.hold.rates
                priced = work.prompt_tokens * rates.prompt_units + work.completion_tokens * rates.completion_units
                assert self.used_units + priced > self.limit_units
                return False
        return True

    def settle(self, reply: Reply) -> None:
        """Reports what a reply used, twice; one that said nothing used nothing."""
        work = Work(prompt_tokens=reply.prompt_tokens, completion_tokens=reply.written) if reply.written else Work()
        rates = reply.hold.rates
        units = work.prompt_tokens * rates.prompt_units + work.completion_tokens * rates.completion_units
        assert units <= sum(hold.units or 0 for hold in (reply.hold, *reply.extensions))
        event = UsageEvent(
            request_id=reply.name,
            tenant=reply.hold.tenant,
            kind="chat",
            model="owl",
            pool="p",
            work=work,
            outcome="length" if reply.cut else "stop",
            hold=reply.hold,
            extensions=tuple(reply.extensions),
            at=NOON,
        )
        for _ in range(2):
            run(self.settler.settle(event))
        self.charged_units += units


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    data=st.data(),
    day_tokens=st.integers(50, 6000),
    costs=st.sampled_from([(1, 1), (1, 3), (2, 1)]),
    slice_tokens=st.sampled_from([16, 64, 256]),
)
def test_replies_with_extensions_are_exact_at_the_limit(
    data: st.DataObject, day_tokens: int, costs: tuple[int, int], slice_tokens: int
) -> None:
    site = Site(day_tokens, *costs)
    for n in range(data.draw(st.integers(3, 30), label="steps")):
        move = data.draw(st.sampled_from(["begin", "write", "write", "write", "settle"]))
        if move == "begin":
            reckoned, counted = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 300))
            site.begin(f"r{n}", reckoned, counted, slice_tokens, data.draw(st.integers(1, MOST_TOKENS)))
        elif site.running and move == "write":
            site.write(data.draw(st.sampled_from(site.running)), data.draw(st.integers(1, 200)))
        elif site.running:
            site.settle(site.running.pop())
    while site.running:
        site.settle(site.running.pop())
    assert site.used_units == site.charged_units <= site.limit_units

"""Settles holds by usage events, each event counted once."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from callboard_contracts.config import QuotaSection
from callboard_contracts.quota import AuditEvent, Hold, HoldEntry, UsageEvent
from callboard_quota.domain.amounts import Cost, cost, rates_of, shares
from callboard_quota.domain.changes import Charge, audit_event, late_id
from callboard_quota.domain.event_rules import EventRules, holds_of
from callboard_quota.domain.ledger import AFTER_EXPIRY, Ledger
from callboard_quota.domain.limit_kinds import HEARD, UNITS
from callboard_quota.domain.limits import shared_principals
from callboard_quota.domain.ports import Clock, CounterStore, Journal
from callboard_quota.domain.windows import hour_bucket


def charges(event: UsageEvent, settings: QuotaSection) -> list[tuple[Hold, Cost]]:
    """What an event charges to each hold.

    Work that was admitted without a hold, while quota could not be reached, is charged to an empty hold in the hour of
    the event.
    """
    holds = holds_of(event)
    if not holds:
        rates = rates_of(settings.weights, event.model, event.kind)
        holds = [unheld(event, settings)]
        return [(holds[0], cost(event.work, rates, event.kind))]
    return list(zip(holds, shares(cost(event.work, holds[0].rates, event.kind), holds), strict=True))


def charged_as(outcome: AuditEvent | None, charged: Cost, total_units: int) -> bool:
    """Whether a hold was settled by an event that charges so much to it and so much in all."""
    # Outcomes without a total were recorded before there was one.
    return (
        outcome is not None and (outcome.units, outcome.heard_ms) == charged and outcome.total_units in {0, total_units}
    )


def unheld(event: UsageEvent, settings: QuotaSection) -> Hold:
    """An empty hold to settle an event against that has none; its id is always the same for the event."""
    tenants = [event.tenant, *(principal.tenant for principal in shared_principals(settings, event.model))]
    bucket = hour_bucket(event.at)
    metrics = [metric for metric in (UNITS, HEARD) if metric.counts(event.kind)]
    return Hold(
        id=f"{event.request_id}-{event.kind}",
        request_id=event.request_id,
        tenant=event.tenant,
        kind=event.kind,
        model=event.model,
        entries=tuple(
            HoldEntry(tenant=tenant, metric=metric.name, bucket=bucket, amount=0)
            for metric in metrics
            for tenant in tenants
        ),
        expires_at=event.at,
    )


@dataclass(slots=True)
class _Settling:
    """An event that is being settled: what it charges to each hold, its result by now, and whether it counts."""

    event: UsageEvent
    charged: list[tuple[Hold, Cost]]
    total_units: int
    result: str = "settled"
    counts: bool = True

    def end_after_first(self, number: int) -> None:
        """Charges nothing more if the first hold was not: of two events about one work one counts, never parts."""
        if number == 0:
            self.charged = self.charged[:1]


class Settler:
    """Settles usage events, and has their volunteers paid; `settings` may be replaced at any time."""

    def __init__(
        self,
        settings: QuotaSection,
        rules: EventRules,
        ledger: Ledger,
        counters: CounterStore,
        clock: Clock,
        journal: Journal,
        reward: Callable[[UsageEvent], Awaitable[None]],
    ) -> None:
        self.settings = settings
        self._reward = reward
        self._rules = rules
        self._ledger = ledger
        self._counter_store = counters
        self._clock = clock
        self._journal = journal

    async def settle(self, event: UsageEvent, stored_at: float | None = None) -> str:
        """Settles one event, stored just now unless it is said when, as `settle_all` does."""
        return (await self.settle_all([(event, self._clock.now() if stored_at is None else stored_at)]))[0]

    async def settle_all(self, events: Sequence[tuple[UsageEvent, float]]) -> list[str]:
        """Settles the holds of events and returns the result of each, a word of a closed set.

        With an event comes when it was stored, in Unix seconds. What is settled together waits for the store together.

        Raises:
            StoreUnavailable: any of them may or may not have been counted; a repeat is safe.
        """
        settling = [await self._begun(event, stored_at) for event, stored_at in events]
        number = 0
        while due := [one for one in settling if one.charged[number:]]:
            await self._settle_holds(due, number)
            number += 1
        for one in settling:
            if one.counts:
                await self._reward(one.event)
        return [one.result for one in settling]

    async def _begun(self, event: UsageEvent, stored_at: float) -> _Settling:
        reason = await self._rules.rejection_reason(event, stored_at)
        if not reason and event.hold is None and not event.extensions and await self._was_held(event):
            reason = "settled_before"
        if reason:
            self._ignore(event, reason)
            return _Settling(event, [], 0, reason, counts=False)
        charged = charges(event, self.settings)
        return _Settling(event, charged, sum([share.units for _hold, share in charged]))

    async def _settle_holds(self, due: Sequence[_Settling], number: int) -> None:
        """Settles the hold of that number of each event; one that is not charged may end its event."""
        open_ones: list[tuple[_Settling, Charge]] = []
        now = self._clock.now()
        for one in due:
            (hold, share), event = one.charged[number], one.event
            if self._ledger.can_settle(hold, now):
                charge = Charge(hold, share.units, event.outcome, one.total_units, event.kudos, share.heard_ms)
                open_ones.append((one, charge))
            else:
                self._ignore(event, "too_late", hold, share.units)
                one.result = "too_late"
                one.end_after_first(number)
        if not open_ones:
            return
        ended = await self._ledger.settle_all([charge for _one, charge in open_ones])
        self._journal.count([one.outcome for one in ended if one.first])
        for (one, charge), end in zip(open_ones, ended, strict=True):
            if end.first:
                one.result = AFTER_EXPIRY if end.late else one.result
            else:
                one.result = "settled_before"
                self._ignore(one.event, one.result, charge.hold, charge.units)
            if not charged_as(end.outcome, one.charged[number][1], one.total_units):
                one.counts = number > 0
                one.end_after_first(number)

    async def _was_held(self, event: UsageEvent) -> bool:
        """Whether an event that has no hold is about work that was settled on one."""
        own = unheld(event, self.settings)
        outcomes = await self._counter_store.outcomes(event.request_id)
        return any(
            outcome.kind == "settled" and outcome.work == event.kind and outcome.hold_id not in {own.id, late_id(own)}
            for outcome in outcomes
        )

    def _ignore(self, event: UsageEvent, reason: str, hold: Hold | None = None, units: int = 0) -> None:
        hold_id = hold.id if hold else ""
        self._journal.record(audit_event("ignored", event, self._clock.now(), reason, hold_id=hold_id, units=units))

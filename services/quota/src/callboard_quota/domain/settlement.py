"""Settles holds by usage events, each event counted once."""

from collections.abc import Awaitable, Callable

from callboard_contracts.config import QuotaSection
from callboard_contracts.quota import AuditEvent, Hold, HoldEntry, UsageEvent
from callboard_quota.domain.amounts import Cost, cost, rates_of, shares
from callboard_quota.domain.changes import audit_event, late_id
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
        outcome is not None
        and Cost(outcome.units, outcome.heard_ms) == charged
        and outcome.total_units in {0, total_units}
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


class Settler:
    """Settles usage events one by one, and has their volunteers paid; `settings` may be replaced at any time."""

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
        """Settles the holds of one event and returns the result, a word of a closed set.

        `stored_at` is when the event was stored, in Unix seconds; just now unless it is given.

        Raises:
            StoreUnavailable: it may or may not have been counted; a repeat is safe.
        """
        reason = await self._rules.rejection_reason(event, self._clock.now() if stored_at is None else stored_at)
        if not reason and not holds_of(event) and await self._was_held(event):
            reason = "settled_before"
        if reason:
            self._ignore(event, reason)
            return reason
        result, counts = "settled", True
        charged = charges(event, self.settings)
        total = sum(share.units for _hold, share in charged)
        for n, (hold, share) in enumerate(charged):
            if not self._ledger.can_settle(hold):
                self._ignore(event, "too_late", hold, share.units)
                result = "too_late"
            else:
                ended = await self._ledger.settle(hold, share.units, event.outcome, total, event.kudos, share.heard_ms)
                if ended.first:
                    self._journal.count(ended.outcome)
                    result = AFTER_EXPIRY if ended.late else result
                else:
                    result = "settled_before"
                    self._ignore(event, result, hold, share.units)
                if charged_as(ended.outcome, share, total):
                    continue
                counts = n > 0
            if n == 0:
                # The first hold decides for all: of two events about the same work one counts, never a part of each.
                break
        if counts:
            await self._reward(event)
        return result

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

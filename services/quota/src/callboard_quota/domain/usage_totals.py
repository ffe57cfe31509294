"""The sums that the counters must have, recomputed from the usage events alone."""

from collections.abc import AsyncIterator, Callable, Collection, Iterable
from dataclasses import dataclass, field

from callboard_contracts.config import QuotaSection
from callboard_contracts.quota import UsageEvent
from callboard_quota.domain.changes import late_id
from callboard_quota.domain.event_rules import EventRules
from callboard_quota.domain.limit_kinds import charge_of, is_measured, measured
from callboard_quota.domain.ports import Counter, CounterStore, Logged, UsageLog
from callboard_quota.domain.settlement import charged_as, charges

MAX_LISTED = 100
Identity = tuple[str, str]
"""A request and the kind of its work: what counts once."""


@dataclass(slots=True)
class UsageTotals:
    """Sums over usage events; of several events of one request and kind only one counts."""

    sums: dict[Counter, int] = field(default_factory=dict[Counter, int])
    events: int = 0
    ignored_count: int = 0
    ignored: list[tuple[int, str, str]] = field(default_factory=list[tuple[int, str, str]])

    def add(self, charged: Iterable[tuple[Counter, int]]) -> None:
        """Adds charges to the sums."""
        for counter, amount in charged:
            self.sums[counter] = self.sums.get(counter, 0) + amount

    def ignore(self, logged: Logged, reason: str) -> None:
        """Lists an event that is ignored."""
        self.ignored_count += 1
        if len(self.ignored) < MAX_LISTED:
            self.ignored.append((logged.seq, logged.event.request_id if logged.event else "", reason))


class UsageAggregator:
    """Reads the log by the rules of settlement."""

    def __init__(
        self, log: UsageLog, counters: CounterStore, rules: EventRules, settings: Callable[[], QuotaSection]
    ) -> None:
        self._log = log
        self._counter_store = counters
        self._rules = rules
        self._settings = settings

    async def follow(self, start_seq: int, tenant: str | None = None) -> AsyncIterator[Logged]:
        """All events from a number on, up to the end of the log as it is then."""
        while batch := await self._log.read(start_seq, tenant):
            for logged in batch:
                yield logged
            start_seq = batch[-1].seq + 1

    async def since(self, at: float) -> AsyncIterator[Logged]:
        """All events that were stored at a time or later."""
        start_seq = await self._log.seq_at(at)
        if start_seq is not None:
            async for logged in self.follow(start_seq):
                yield logged

    async def rejection_reason(self, logged: Logged) -> str:
        """The rule by which an event is ignored, or an empty text; whether it is a repeat is not checked."""
        if logged.event is None:
            return "unreadable"
        return await self._rules.rejection_reason(logged.event, logged.stored_at)

    def charged(self, event: UsageEvent) -> list[tuple[Counter, int]]:
        """What an event adds to which counters."""
        return [
            (Counter(entry.tenant, entry.metric, entry.bucket), measured(charge_of(entry.metric), cost))
            for hold, cost in charges(event, self._settings())
            for entry in hold.entries
            if is_measured(entry.metric)
        ]

    async def sums(
        self,
        start_seq: int,
        buckets: Collection[str],
        *,
        only: Collection[Counter] | None = None,
        until_seq: int | None = None,
        exact: bool = True,
    ) -> UsageTotals:
        """Sums what the events from one number to another charge to some buckets, or only to some counters.

        Without `exact` repeated events are counted too, which needs no memory of what was read. Where two events of one
        request name different amounts, the one that was settled counts.
        """
        totals = UsageTotals()
        seen: dict[int, int] = {}
        disputed: dict[str, set[Identity]] = {}

        def relevant(event: UsageEvent) -> list[tuple[Counter, int]]:
            return [
                (counter, amount)
                for counter, amount in self.charged(event)
                if counter.bucket in buckets and (only is None or counter in only)
            ]

        async for logged in self.follow(start_seq):
            if until_seq is not None and logged.seq > until_seq:
                break
            event = logged.event
            reason = await self.rejection_reason(logged)
            if reason or event is None:
                totals.ignore(logged, reason)
                continue
            charged = relevant(event)
            if not charged:
                continue
            if exact:
                amounts = hash(tuple(charged))
                first = seen.setdefault(hash(_identity(event)), amounts)
                if len(seen) == totals.events:
                    totals.ignore(logged, "repeated")
                    if first != amounts:
                        disputed.setdefault(event.tenant, set()).add(_identity(event))
                    continue
            totals.events += 1
            totals.add(charged)
        for tenant, identities in disputed.items():
            for events in (await self._events_of(start_seq, until_seq, tenant, identities)).values():
                totals.add([(counter, -amount) for counter, amount in relevant(events[0])])
                totals.add(relevant(await self._settled(events)))
        return totals

    async def _events_of(
        self, start_seq: int, until_seq: int | None, tenant: str, identities: Collection[Identity]
    ) -> dict[Identity, list[UsageEvent]]:
        """Every event of some disputed requests, in order."""
        found: dict[Identity, list[UsageEvent]] = {}
        async for logged in self.follow(start_seq, tenant):
            if until_seq is not None and logged.seq > until_seq:
                break
            event = logged.event
            if event and _identity(event) in identities and not await self.rejection_reason(logged):
                found.setdefault(_identity(event), []).append(event)
        return found

    async def _settled(self, events: list[UsageEvent]) -> UsageEvent:
        """The one of several events that was settled, or the first where none was."""
        outcomes = await self._counter_store.outcomes(events[0].request_id)
        settled = {outcome.hold_id: outcome for outcome in outcomes if outcome.kind == "settled"}
        for event in events:
            holds = charges(event, self._settings())
            total = sum(cost.units for _hold, cost in holds)
            # The first hold decides which event counts; the other holds may still wait for it to be delivered again.
            first, cost = holds[0]
            if charged_as(settled.get(first.id, settled.get(late_id(first))), cost, total):
                return event
        return events[0]


def _identity(event: UsageEvent) -> Identity:
    return event.request_id, event.kind

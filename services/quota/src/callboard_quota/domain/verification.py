"""Compares the counters with the usage events at an operator's request."""

from collections.abc import Awaitable, Callable, Iterable

from callboard_contracts.quota import Drift, Hold, IgnoredEvent, VerifyReply, VerifyRequest
from callboard_quota.domain.limit_kinds import charge_of
from callboard_quota.domain.ports import Clock, Counter, CounterStore, LedgerStore, UsageLog
from callboard_quota.domain.usage_totals import MAX_LISTED, UsageAggregator, UsageTotals
from callboard_quota.domain.windows import HOUR_S, hour_bucket

ROUNDS = 5
PAUSE_S = 0.5
"""Counters change while they are compared, so a difference counts only if it is the same in several rounds."""
MAX_HOURS = 70 * 24


class Verifier:
    """Recomputes every hour since a given time."""

    def __init__(
        self,
        store: LedgerStore,
        counters: CounterStore,
        log: UsageLog,
        aggregator: UsageAggregator,
        clock: Clock,
        pause: Callable[[float], Awaitable[None]],
    ) -> None:
        self._store = store
        self._counter_store = counters
        self._log = log
        self._aggregator = aggregator
        self._clock = clock
        self._pause = pause

    async def verify(self, request: VerifyRequest) -> VerifyReply:
        """Compares all counters of all hours since a time; raises StoreUnavailable."""
        start_seq, buckets = await self._span(request.since)
        suspects, reply = await self._compare(start_seq, buckets)
        for _ in range(ROUNDS - 1):
            if not suspects:
                break
            await self._pause(PAUSE_S)
            found, reply = await self._compare(start_seq, buckets)
            suspects = {key: drift for key, drift in found.items() if suspects.get(key) == drift}
        drift = sorted(suspects.values(), key=lambda one: (one.bucket, one.tenant))
        return reply.model_copy(
            update={
                "drift": tuple(drift[:MAX_LISTED]),
                "drift_count": len(drift),
                "drift_units": sum(abs(one.counted - one.events - one.open) for one in drift),
            }
        )

    async def compare(self, since: float) -> dict[Counter, Drift]:
        """The counters since a time that differ now, if only because they change; raises StoreUnavailable."""
        return (await self._compare(*await self._span(since)))[0]

    async def _span(self, since: float) -> tuple[int | None, list[str]]:
        """The number of the first event, and the buckets of all hours, since a time."""
        now = self._clock.now()
        since = max(since, now - MAX_HOURS * HOUR_S) // HOUR_S * HOUR_S
        hours = int((now + HOUR_S - since) // HOUR_S) + 1
        return await self._log.seq_at(since), [hour_bucket(since + n * HOUR_S) for n in range(hours)]

    async def _compare(self, start_seq: int | None, buckets: list[str]) -> tuple[dict[Counter, Drift], VerifyReply]:
        opened: dict[Counter, int] = {}
        holds: dict[Counter, list[Hold]] = {}
        open_holds = 0
        async for hold in self._store.leases():
            open_holds += 1
            for counter, amount in _entries(hold):
                opened[counter] = opened.get(counter, 0) + amount
                holds.setdefault(counter, []).append(hold)
        totals = UsageTotals()
        if start_seq is not None:
            totals = await self._aggregator.sums(start_seq, frozenset(buckets))
        counted: dict[Counter, int] = {}
        for bucket in buckets:
            counted.update(await self._counter_store.counters(bucket))
        drift: dict[Counter, Drift] = {}
        for counter in {*counted, *totals.sums}:
            if charge_of(counter.metric) == "all":
                continue
            sums = counted.get(counter, 0), totals.sums.get(counter, 0), opened.get(counter, 0)
            if sums[0] != sums[1] + sums[2]:
                drift[counter] = Drift(**counter._asdict(), counted=sums[0], events=sums[1], open=sums[2])
        ended = await self._ended(hold for counter in drift for hold in holds.get(counter, []))
        for hold in ended:
            for counter, amount in _entries(hold):
                if (known := drift.get(counter)) is not None:
                    drift[counter] = known.model_copy(update={"open": known.open - amount})
        drift = {key: one for key, one in drift.items() if one.counted != one.events + one.open}
        reply = VerifyReply(
            events=totals.events,
            counters=len(counted),
            ignored_count=totals.ignored_count,
            ignored=tuple(
                IgnoredEvent(seq=seq, request_id=request_id, reason=reason)
                for seq, request_id, reason in totals.ignored
            ),
            open_holds=open_holds - len(ended),
        )
        return drift, reply

    async def _ended(self, holds: Iterable[Hold]) -> list[Hold]:
        """Those of some holds with a lease whose end is recorded: a bus that was killed may bring their leases back."""
        return [
            hold
            for hold in {hold.id: hold for hold in holds}.values()
            if any(outcome.hold_id == hold.id for outcome in await self._counter_store.outcomes(hold.request_id))
        ]


def _entries(hold: Hold) -> list[tuple[Counter, int]]:
    return [(Counter(entry.tenant, entry.metric, entry.bucket), entry.amount) for entry in hold.entries]

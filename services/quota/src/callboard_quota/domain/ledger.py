"""The ledger: holds are taken, settled, released and expired as increments that each count once.

A reservation writes its lease and raises all its counters at once, then looks at the values that came back. The
store orders all increments, so of several that race for the last room exactly those that fit see a value within the
limit; the others take theirs back.

A hold ends once: settled, released or expired. The first to record its outcome decides, and whoever comes later repeats
the increments that follow from that outcome, under the same ids, so that an end that was interrupted is completed.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from callboard_contracts.quota import AuditEvent, Hold
from callboard_quota.domain.changes import (
    given_kudos,
    held_kudos,
    increments,
    is_transaction,
    late_charge,
    late_id,
    reversal,
    settlement,
)
from callboard_quota.domain.decision import Attempt, Granted, HoldRequest, LimitUsage, Refused, judge
from callboard_quota.domain.limits import Limit
from callboard_quota.domain.ports import Change, Clock, Counter, LedgerStore, StoreUnavailable
from callboard_quota.domain.usage_windows import BY_THE_HOUR, UsageWindow, WindowCache
from callboard_quota.domain.windows import (
    DECISION_LIFE_S,
    SETTLE_GRACE_S,
    Metric,
    bucket_of,
    earlier_buckets,
    hour_bucket,
    hour_start,
    resets_in_s,
)

MAX_ATTEMPTS = 3
MAX_UNCONFIRMED_HOLDS = 10_000
AFTER_EXPIRY = "after_expiry"
HELD_RETRY_S = 5.0
"""When to try again where open holds are in the way, since nobody knows when their work ends."""

Ending = Literal["settled", "released", "expired"]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a hold stands ended.

    `first` when this call decided it, `late` when it was charged after it had ended without a charge.
    """

    outcome: AuditEvent
    first: bool
    late: bool = False


class Ledger:
    """Decides on holds; it keeps nothing that another process would have to know."""

    def __init__(
        self,
        store: LedgerStore,
        clock: Clock,
        sign: Callable[[Hold], Hold] = lambda hold: hold,
        on_raise: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._sign = sign
        self._on_raise = on_raise
        self._window_cache = WindowCache(store)
        self.unconfirmed_holds: list[Hold] = []
        """Holds whose reservation ended with an unknown outcome, to be ended soon; the rest end with their lease."""

    async def reserve(self, ask: HoldRequest) -> Granted | Refused:
        """Takes a hold if every limit allows it, else leaves everything as it was.

        A refusal that may have been caused by another attempt that was refused as well is tried again.

        Raises:
            StoreUnavailable: the outcome is unknown; what was written is taken back later.
        """
        outcome = await self._reserve(ask)
        return outcome if isinstance(outcome, Granted) else await self._less_open_holds(ask, outcome)

    async def _less_open_holds(self, ask: HoldRequest, refused: Refused) -> Refused:
        """The refusal with a short time to wait where it is only what others hold that leaves no room.

        A hold gives back what its work does not use, and most work uses little of it.
        """
        limit, used = refused.limit_usage.limit, refused.limit_usage.used
        if limit.metric != "units" or limit.tenant != ask.tenant or refused.retry_after_s is None:
            return refused
        amount = next(amount for tenant, metric, amount in ask.amounts if (tenant, metric) == (limit.tenant, "units"))
        held = 0
        async for hold in self._store.leases(ask.tenant):
            held += sum(
                entry.amount for entry in hold.entries if entry.tenant == limit.tenant and entry.metric == "units"
            )
            if used - held + amount <= limit.maximum:
                return Refused(refused.limit_usage, min(refused.retry_after_s, HELD_RETRY_S))
        return refused

    async def _reserve(self, ask: HoldRequest) -> Granted | Refused:
        last: Refused | None = None
        for n in range(MAX_ATTEMPTS):
            attempt = await self._attempt(ask)
            early = await self._refused_early(attempt)
            if early is not None:
                if early.retry_after_s is None or not self._forget(ask, attempt.now):
                    return early
                last = early
                continue
            outcome, retry = await self._write(attempt)
            if isinstance(outcome, Granted):
                return outcome
            last = outcome
            if not retry or n == MAX_ATTEMPTS - 1:
                break
        assert last is not None
        return last

    async def settle(
        self, hold: Hold, units: int, reason: str = "", total_units: int | None = None, kudos: int = 0
    ) -> Ended:
        """Charges a hold's work and gives the rest back; a second call changes nothing. Raises StoreUnavailable.

        Work whose hold was expired or released meanwhile is charged all the same, once. `total_units` is what the work
        cost on all of its holds, this one by default; it is kept with the outcome. Of
        `kudos` no more is taken than was held, and nothing once the hold had ended.
        """
        total_units = units if total_units is None else total_units
        wanted = self._event("settled", hold, units, reason, hold.id, total_units)
        if kudos:
            wanted = wanted.model_copy(update={"kudos": min(kudos, held_kudos(hold))})
        ended = await self._end(wanted, hold)
        if ended.first or ended.outcome.kind == "settled":
            return ended
        wanted = self._event("settled", hold, units, AFTER_EXPIRY, late_id(hold), total_units)
        outcome = await self._store.record_outcome(wanted)
        await self._apply(late_charge(hold, outcome.units))
        return Ended(outcome, first=outcome is wanted, late=True)

    async def release(self, hold: Hold) -> Ended:
        """Gives a hold back whole, its request count too. Raises StoreUnavailable."""
        return await self._end(self._event("released", hold, 0, "", hold.id), hold)

    async def expire(self, hold: Hold, reason: str) -> Ended:
        """Ends a hold whose job never reported. Raises StoreUnavailable.

        The increments are repeated first, because the process that began them may have died half-way; they have no
        effect where they already stand.
        """
        await self._store.apply(increments(hold))
        return await self._end(self._event("expired", hold, 0, reason, hold.id), hold)

    async def transaction(self, hold: Hold, limit: Limit | None) -> Ended:
        """Books a kudos transaction: debits the payer if the limit allows and credits the receiver, or undoes it.

        However often a transaction is repeated, and wherever a repeat was cut off, it ends one way and counts once.
        The outcome
        that stands may be that of another hold under the same transaction's id, in which case this one is undone.

        Raises:
            StoreUnavailable: the outcome is unknown; a repeat or the reaper completes it.
        """
        try:
            values = [applied.value for applied in await self._store.open(hold, increments(hold))]
            allowed = True
            if limit is not None:
                value = values[0]
                if value is None:
                    counter = Counter(limit.tenant, limit.metric, bucket_of(limit.metric, self._clock.now()))
                    value = (await self._store.apply([Change(counter, 0, None)]))[0].value
                allowed = value is not None and value <= limit.maximum
            wanted = self._event("settled" if allowed else "released", hold, 0, hold.model, hold.id)
            return await self._end(wanted.model_copy(update={"kudos": given_kudos(hold) if allowed else 0}), hold)
        except BaseException:
            if len(self.unconfirmed_holds) < MAX_UNCONFIRMED_HOLDS:
                self.unconfirmed_holds.append(hold)
            raise

    async def end_old(self, hold: Hold, stands: Callable[[Change], Awaitable[bool]]) -> None:
        """Ends a hold whose ids may be forgotten, as far as nothing else would: what it took of kudos.

        `stands` tells from the counter's own messages whether a change took effect. Raises StoreUnavailable.
        """
        taken = [change for change in increments(hold) if change.counter.metric == "kudos"]
        if not is_transaction(hold) and not taken:
            return
        outcome = self._event("expired", hold, 0, "lease_too_old", hold.id)
        if is_transaction(hold):
            outcome = await self._store.record_outcome(outcome)
        settled = outcome.kind == "settled" and outcome.hold_id == hold.id
        if not settled and not all([await stands(change) for change in taken]):
            return
        for change in settlement(hold, 0, outcome.kudos) if settled else reversal(hold):
            if change.counter.metric == "kudos" and change.amount and not await stands(change):
                await self._store.apply([change])

    async def _end(self, wanted: AuditEvent, hold: Hold) -> Ended:
        outcome = await self._store.record_outcome(wanted)
        if outcome.kind == "settled" and outcome.hold_id == hold.id:
            changes = settlement(hold, outcome.units, outcome.kudos)
            if is_transaction(hold):
                await self._store.apply(changes)
                await self._store.close(hold)
            else:
                # The usage event is delivered again until this is confirmed, so the lease need not wait for it.
                await self._apply(changes, closing=hold)
        else:
            await self._store.apply(reversal(hold))
            await self._store.close(hold)
        return Ended(outcome, first=outcome is wanted)

    async def _apply(self, changes: Sequence[Change], closing: Hold | None = None) -> None:
        """Applies what work cost; a tenant whose use of an earlier hour grows is forgotten by every process."""
        await self._store.apply(changes, closing)
        present = hour_bucket(self._clock.now())
        for change in changes:
            counter = change.counter
            if change.amount > 0 and counter.metric in BY_THE_HOUR and counter.bucket != present:
                await self.raised(counter.tenant)

    async def raised(self, tenant: str) -> None:
        """Forgets what a tenant used in earlier hours, because it grew, and has all other processes do so."""
        self._window_cache.forget(tenant)
        if self._on_raise is not None:
            await self._on_raise(tenant)

    def _event(
        self, kind: Ending, hold: Hold, units: int, reason: str, hold_id: str, total_units: int = 0
    ) -> AuditEvent:
        return AuditEvent(
            kind=kind,
            request_id=hold.request_id,
            hold_id=hold_id,
            tenant=hold.tenant,
            work="kudos" if is_transaction(hold) else hold.kind,
            model="" if is_transaction(hold) else hold.model,
            units=units,
            total_units=total_units,
            reason=reason,
            at=self._clock.now(),
        )

    async def limit_usages(self, limits: Sequence[Limit]) -> list[LimitUsage]:
        """How full limits are at this moment, without taking anything. Raises StoreUnavailable."""
        now = self._clock.now()
        buckets = {limit: (bucket_of(limit.metric, now), *earlier_buckets(limit.name, now)) for limit in limits}
        counters = {Counter(limit.tenant, limit.metric, name) for limit in limits for name in buckets[limit]}
        found = await self._store.read(sorted(counters)) if counters else {}
        limit_usages: list[LimitUsage] = []
        for limit in limits:
            used = {name: found.get(Counter(limit.tenant, limit.metric, name), 0) for name in buckets[limit]}
            oldest_at: float | None = None
            if limit.name == "tokens_per_day":
                oldest_at = min((hour_start(name) for name, value in used.items() if value), default=None)
            limit_usages.append(LimitUsage(limit, sum(used.values()), resets_in_s(limit.name, now, oldest_at)))
        return limit_usages

    def can_settle(self, hold: Hold) -> bool:
        """Whether the hold's ids are still remembered by the store, so that settling it is safe."""
        return self._clock.now() < hold.expires_at + SETTLE_GRACE_S

    def forget(self, tenant: str | None = None) -> None:
        """Drops what is remembered of earlier hours, of a tenant or of all."""
        if tenant is None:
            self._window_cache.forget_all()
        else:
            self._window_cache.forget(tenant)

    async def _attempt(self, ask: HoldRequest) -> Attempt:
        now = self._clock.now()
        wanted: dict[tuple[str, Metric], list[Limit]] = {}
        for limit in ask.limits:
            wanted.setdefault((limit.tenant, limit.metric), []).append(limit)
        windows: dict[tuple[str, Metric], UsageWindow] = {}
        for (tenant, metric), limits in wanted.items():
            if metric in BY_THE_HOUR:
                windows[tenant, metric] = await self._window_cache.of(
                    tenant, metric, [limit.name for limit in limits], now
                )
        attempt = Attempt(ask, now, windows)
        attempt.hold = self._sign(attempt.hold)
        return attempt

    async def _refused_early(self, attempt: Attempt) -> Refused | None:
        """A refusal that is certain before anything is written; the present hour is read only to say when it ends."""
        amounts = {(tenant, metric): amount for tenant, metric, amount in attempt.ask.amounts}
        for limit in attempt.ask.limits:
            if limit.name == "kudos":
                continue
            amount = amounts[limit.tenant, limit.metric]
            earlier = attempt.earlier(limit)
            if earlier + amount > limit.maximum:
                present = Counter(limit.tenant, limit.metric, bucket_of(limit.metric, attempt.now))
                used = earlier + (await self._store.read([present])).get(present, 0)
                return attempt.refused(limit, used, amount)
        return None

    def _forget(self, ask: HoldRequest, now: float) -> bool:
        forgotten = [self._window_cache.refresh(limit.tenant, limit.metric, now) for limit in ask.limits]
        return any(forgotten)

    async def _write(self, attempt: Attempt) -> tuple[Granted | Refused, bool]:
        """Writes an attempt, judges it and takes it back if need be; says also whether another try makes sense."""
        hold = attempt.hold
        changes = attempt.changes()
        try:
            unknown = attempt.learn(changes, await self._store.open(hold, changes))
            if unknown:
                attempt.learn(unknown, await self._store.apply(unknown))
            over, limit_usages = judge(attempt)
            now = self._clock.now()
            # A reaper may have ended a hold that is over by now, and its increments hidden what they led to.
            if over is None and now - attempt.now <= DECISION_LIFE_S and now < hold.expires_at:
                return Granted(hold, limit_usages), False
            undone = await self._store.apply(reversal(hold))
            await self._store.close(hold)
        except BaseException:
            if len(self.unconfirmed_holds) < MAX_UNCONFIRMED_HOLDS:
                self.unconfirmed_holds.append(hold)
            raise
        if over is None:
            raise StoreUnavailable("the store confirmed too late")
        amounts = {(entry.tenant, entry.metric): entry.amount for entry in hold.entries}
        amount = amounts[over.limit.tenant, over.limit.metric]
        for change, result in zip(reversal(hold), undone, strict=True):
            if change.counter[:2] == (over.limit.tenant, over.limit.metric) and result.value is not None:
                left = result.value + attempt.earlier(over.limit)
                refused = attempt.refused(over.limit, left, amount)
                retry = left + amount <= over.limit.maximum or self._forget(attempt.ask, attempt.now)
                return refused, retry
        return attempt.refused(over.limit, over.used - amount, amount), False

"""The ledger: holds are taken, settled, released and expired by increments that each count once.

A reservation writes its lease and raises all its counters at once, then checks the values that come back. The store
orders all increments, so of several that race for the last room exactly those that fit see a value within the limit;
the others take theirs back.

A hold ends once: settled, released or expired. The first outcome that is recorded wins. Whoever comes later repeats the
increments that follow from that outcome, under the same ids, so that an end that was interrupted is completed.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from callboard_contracts.quota import AuditEvent, Hold
from callboard_quota.domain.changes import (
    Charge,
    audit_event,
    charged,
    credited_kudos,
    increments,
    is_transaction,
    late_charge,
    late_id,
    reversal,
    settlement,
)
from callboard_quota.domain.decision import Attempt, Granted, HoldRequest, LimitUsage, Refused
from callboard_quota.domain.limit_kinds import KUDOS, METRICS, Metric
from callboard_quota.domain.limits import Limit
from callboard_quota.domain.ports import (
    Change,
    Clock,
    Counter,
    CounterStore,
    LedgerStore,
    OutcomeUnknown,
    StoreUnavailable,
)
from callboard_quota.domain.usage_windows import UsageWindow, WindowCache
from callboard_quota.domain.windows import DECISION_LIFE_S, SETTLE_GRACE_S, hour_bucket, hour_start

MAX_ATTEMPTS = 3
MAX_UNCONFIRMED_HOLDS = 10_000
AFTER_EXPIRY = "after_expiry"
HELD_RETRY_S = 5.0
"""When to try again where open holds leave no room, since nobody knows when their work ends."""

Ending = Literal["settled", "released", "expired"]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a hold ended.

    `first` when this call decided it, `late` when it was charged after it had ended without a charge.
    """

    outcome: AuditEvent
    first: bool
    late: bool = False


class Ledger:
    """Decides on holds; `on_invalidate` tells other processes of a tenant whose use of an earlier hour grew."""

    def __init__(
        self,
        store: LedgerStore,
        clock: Clock,
        sign: Callable[[Hold], Hold] = lambda hold: hold,
        on_invalidate: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._sign = sign
        self._on_invalidate = on_invalidate
        self.window_cache = WindowCache(store)
        self.unconfirmed_holds: list[Hold] = []
        """Holds whose reservation ended with an unknown outcome, to be ended soon; the rest end with their lease."""

    async def reserve(self, request: HoldRequest) -> Granted | Refused:
        """Takes a hold if every limit allows it, else leaves everything as it was.

        A refusal that may have been caused by another attempt that was refused as well is tried again.

        Raises:
            OutcomeUnknown: what was written is taken back later.
            StoreUnavailable: nothing is taken, or all is taken back already.
        """
        refused: Refused | None = None
        for n in range(MAX_ATTEMPTS):
            attempt = await self._attempt(request)
            early = await self._refused_early(attempt)
            if early is not None:
                refused = early
                if early.retry_after_s is None or not self._refresh(attempt):
                    break
                continue
            outcome, retry = await self._write(attempt)
            if isinstance(outcome, Granted):
                return outcome
            refused = outcome
            if not retry or n == MAX_ATTEMPTS - 1:
                break
        assert refused is not None
        return await self._with_retry_time(request, refused)

    async def _with_retry_time(self, request: HoldRequest, refused: Refused) -> Refused:
        """The refusal, with a short time to wait where only open holds leave no room.

        A hold gives back what its work does not use, and most work uses little of it.
        """
        limit, used = refused.limit_usage.limit, refused.limit_usage.used
        if not limit.kind.metric.is_measured or limit.tenant != request.tenant or refused.retry_after_s is None:
            return refused
        amount = request.amounts[limit.tenant, limit.kind.metric]
        held = 0
        async for hold in self._store.leases(request.tenant):
            held += sum(
                entry.amount
                for entry in hold.entries
                if (entry.tenant, entry.metric) == (limit.tenant, limit.kind.metric.name)
            )
            if used - held + amount <= limit.maximum:
                return Refused(refused.limit_usage, min(refused.retry_after_s, HELD_RETRY_S))
        return refused

    async def settle(self, hold: Hold, units: int, *, kudos: int = 0) -> Ended:
        """Settles one hold, as `settle_all` does."""
        return (await self.settle_all([Charge(hold, units, kudos=kudos)]))[0]

    async def settle_all(self, charges: Sequence[Charge]) -> list[Ended]:
        """Charges the work of holds and gives the rest back; a second call changes nothing. Raises StoreUnavailable.

        Work whose hold was expired or released meanwhile is charged all the same, once.
        """
        now = self._clock.now()
        wanted = [charged(charge, now) for charge in charges]
        outcomes = await self._store.record_outcomes(wanted)
        await self._follow([(outcome, charge.hold) for outcome, charge in zip(outcomes, charges, strict=True)])
        ended = [Ended(outcome, first=outcome is mine) for outcome, mine in zip(outcomes, wanted, strict=True)]
        for n, one in enumerate(ended):
            if one.outcome.kind != "settled":
                ended[n] = await self._charge_late(charges[n].hold, wanted[n])
        return ended

    async def _charge_late(self, hold: Hold, wanted: AuditEvent) -> Ended:
        """Charges work whose hold had ended without a charge."""
        wanted = wanted.model_copy(update={"hold_id": late_id(hold), "reason": AFTER_EXPIRY, "kudos": 0})
        outcome = await self._store.record_outcome(wanted)
        changes = late_charge(hold, outcome)
        await self._store.apply(changes)
        await self._invalidate_grown(changes)
        return Ended(outcome, first=outcome is wanted, late=True)

    async def release(self, hold: Hold) -> Ended:
        """Gives a hold back whole, its request count too. Raises StoreUnavailable."""
        return await self._end(audit_event("released", hold, self._clock.now()), hold)

    async def take_back(self, tenant: str, request_id: str, before: int) -> None:
        """Releases what a request and its repeats before a number have left; raises StoreUnavailable.

        A repeat that was on its way for long must not touch what a later one got. The increments are repeated first, as
        in `expire`: somebody may still be in the middle of writing them, and the reversal must not take effect before.
        """
        async for hold in self._store.leases(tenant):
            if hold.request_id == request_id and hold.repeat < before:
                await self._store.apply(increments(hold))
                await self.release(hold)

    async def expire(self, hold: Hold, reason: str) -> Ended:
        """Ends a hold whose job never reported. Raises StoreUnavailable.

        The increments are repeated first, because the process that began them may have died half-way; they have no
        effect where they were applied.
        """
        await self._store.apply(increments(hold))
        return await self._end(audit_event("expired", hold, self._clock.now(), reason), hold)

    async def transaction(self, hold: Hold, limit: Limit | None, worker: str = "") -> Ended:
        """Books a kudos transaction: debits the payer if the limit allows and credits the receiver, or undoes it.

        `worker` is the volunteer that it pays for, if any.

        A transaction ends one way and counts once, however often it is repeated or cut off. The recorded outcome may be
        that of another hold of the same transaction, in which case this one is undone.

        Raises:
            StoreUnavailable: the outcome is unknown; a repeat or the reaper completes it.
        """
        try:
            values = [applied.value for applied in await self._store.open(hold, increments(hold))]
            allowed = True
            if limit is not None:
                value = values[0]
                if value is None:
                    counter = Counter(limit.tenant, limit.kind.metric.name, limit.kind.metric.bucket(self._clock.now()))
                    value = (await self._store.apply([Change(counter, 0, None)]))[0].value
                allowed = value is not None and value <= limit.maximum
            wanted = audit_event("settled" if allowed else "released", hold, self._clock.now(), hold.model)
            credited = credited_kudos(hold) if allowed else 0
            return await self._end(wanted.model_copy(update={"kudos": credited, "worker": worker}), hold)
        except BaseException:
            self._keep_unconfirmed(hold)
            raise

    async def end_stale(self, hold: Hold, counters: CounterStore) -> None:
        """Gives back or completes what a hold took of kudos whose ids may be forgotten; the rest ends by itself.

        `counters` tells from its own messages whether a change took effect. Raises StoreUnavailable.
        """
        taken = [change for change in increments(hold) if change.counter.metric == KUDOS.name]
        if not is_transaction(hold) and not taken:
            return
        outcome = audit_event("expired", hold, self._clock.now(), "lease_too_old")
        if is_transaction(hold):
            outcome = await self._store.record_outcome(outcome)
        else:
            recorded = await counters.outcomes(hold.request_id)
            outcome = next((one for one in recorded if one.hold_id == hold.id), outcome)
        settled = outcome.kind == "settled" and outcome.hold_id == hold.id
        if not settled and not all([await counters.is_applied(change) for change in taken]):
            return
        for change in settlement(hold, outcome) if settled else reversal(hold):
            if change.counter.metric == KUDOS.name and change.amount and not await counters.is_applied(change):
                await self._store.apply([change])

    async def _end(self, wanted: AuditEvent, hold: Hold) -> Ended:
        outcome = await self._store.record_outcome(wanted)
        await self._follow([(outcome, hold)])
        return Ended(outcome, first=outcome is wanted)

    async def _follow(self, ended: Sequence[tuple[AuditEvent, Hold]]) -> None:
        """Makes the increments that follow from outcomes, and removes the leases."""
        changes: list[Change] = []
        closing: list[Hold] = []
        for outcome, hold in ended:
            settled = outcome.kind == "settled" and outcome.hold_id == hold.id
            if settled and outcome.work != "kudos":
                changes += settlement(hold, outcome)
                closing.append(hold)
            else:
                await self._store.apply(settlement(hold, outcome) if settled else reversal(hold))
                await self._store.close(hold)
        if closing:
            # The usage event is delivered again until this is confirmed, so the lease need not wait for it.
            await self._store.complete(changes, closing)
            await self._invalidate_grown(changes)

    async def _invalidate_grown(self, changes: Sequence[Change]) -> None:
        """Invalidates tenants whose use of an earlier hour grew in all caches."""
        for tenant, metric, bucket in [change.counter for change in changes if change.amount > 0]:
            if METRICS[metric].is_hourly and bucket != hour_bucket(self._clock.now()):
                await self.invalidate(tenant)

    async def invalidate(self, tenant: str) -> None:
        """Invalidates a tenant's cached use of earlier hours, because it grew, in all processes."""
        self.window_cache.invalidate(tenant)
        if self._on_invalidate is not None:
            await self._on_invalidate(tenant)

    async def limit_usages(self, limits: Sequence[Limit]) -> list[LimitUsage]:
        """How much of limits is used at this moment, without taking anything. Raises StoreUnavailable."""
        now = self._clock.now()
        counters = {
            limit: [
                Counter(limit.tenant, limit.kind.metric.name, bucket)
                for bucket in (limit.kind.metric.bucket(now), *limit.kind.window.earlier_buckets(now))
            ]
            for limit in limits
        }
        wanted = sorted({counter for each in counters.values() for counter in each})
        found = await self._store.read(wanted) if wanted else {}
        limit_usages: list[LimitUsage] = []
        for limit in limits:
            used = {counter.bucket: value for counter in counters[limit] if (value := found.get(counter, 0))}
            oldest_at = hour_start(min(used)) if used and limit.kind.metric.is_hourly else None
            resets_in_s = limit.kind.window.resets_in_s(now, oldest_at)
            limit_usages.append(LimitUsage(limit, sum(used.values()), resets_in_s))
        return limit_usages

    async def kudos(self, account: str) -> int:
        """What an account has, without what is held for work that runs. Raises StoreUnavailable."""
        counter = Counter(account, KUDOS.name, KUDOS.bucket(self._clock.now()))
        return -(await self._store.read([counter])).get(counter, 0)

    def can_settle(self, hold: Hold, at: float | None = None) -> bool:
        """Whether the hold's ids are still remembered by the store, now or at a time, so that settling it is safe."""
        return (self._clock.now() if at is None else at) < hold.expires_at + SETTLE_GRACE_S

    async def _attempt(self, request: HoldRequest) -> Attempt:
        now = self._clock.now()
        usage: dict[tuple[str, Metric], UsageWindow] = {}
        for (tenant, metric), kinds in request.hourly.items():
            usage[tenant, metric] = await self.window_cache.get(tenant, metric, kinds, now)
        attempt = Attempt(request, now, usage)
        attempt.hold = self._sign(attempt.hold)
        return attempt

    async def _refused_early(self, attempt: Attempt) -> Refused | None:
        """A refusal that is certain before anything is written; the present hour is read only to say when it ends."""
        for limit in attempt.request.limits:
            if limit.kind.is_balance:
                continue
            amount = attempt.request.amounts[limit.tenant, limit.kind.metric]
            earlier = attempt.earlier(limit)
            if earlier + amount > limit.maximum:
                present = attempt.present_counter(limit)
                used = earlier + (await self._store.read([present])).get(present, 0)
                return attempt.refused(limit, used, amount)
        return None

    def _refresh(self, attempt: Attempt) -> bool:
        """Has stale windows of an attempt's limits read anew; says whether there are any."""
        limits = attempt.request.limits
        refreshed = [self.window_cache.refresh(limit.tenant, limit.kind.metric, attempt.now) for limit in limits]
        return any(refreshed)

    async def _write(self, attempt: Attempt) -> tuple[Granted | Refused, bool]:
        """Writes an attempt, checks it and takes it back if need be; says also whether another attempt makes sense."""
        hold = attempt.hold
        changes = attempt.changes()
        try:
            unknown = attempt.learn(changes, await self._store.open(hold, changes, attempt.request.confirm_timeout_s))
            if unknown:
                attempt.learn(unknown, await self._store.apply(unknown))
            over, limit_usages = attempt.check()
            now = self._clock.now()
            # A reaper may have ended a hold that is over by now, and its increments hidden what they led to.
            if over is None and now - attempt.now <= DECISION_LIFE_S and now < hold.expires_at:
                return Granted(hold, limit_usages), False
            undone = await self._store.apply(reversal(hold))
            await self._store.close(hold)
        except StoreUnavailable as error:
            self._keep_unconfirmed(hold)
            raise OutcomeUnknown(str(error)) from error
        except BaseException:
            self._keep_unconfirmed(hold)
            raise
        if over is None:
            raise StoreUnavailable("the store confirmed too late")
        amount = attempt.request.amounts[over.limit.tenant, over.limit.kind.metric]
        counter = attempt.present_counter(over.limit)
        for change, result in zip(reversal(hold), undone, strict=True):
            if change.counter == counter and result.value is not None:
                left = result.value + attempt.earlier(over.limit)
                refused = attempt.refused(over.limit, left, amount)
                retry = left + amount <= over.limit.maximum or self._refresh(attempt)
                return refused, retry
        return attempt.refused(over.limit, over.used - amount, amount), False

    def _keep_unconfirmed(self, hold: Hold) -> None:
        if len(self.unconfirmed_holds) < MAX_UNCONFIRMED_HOLDS:
            self.unconfirmed_holds.append(hold)

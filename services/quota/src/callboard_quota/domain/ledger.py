"""The ledger: holds are taken, settled, released and expired as increments that each count once.

A reservation writes its lease and raises all its counters at once, then looks at the values that came back. The
store orders all increments, so of several that race for the last room exactly those that fit see a value within the
limit; the others take theirs back.

A hold ends once: settled, released or expired. The first to record its fate decides, and whoever comes later repeats
the increments that follow from that fate, under the same ids, so that an end that was interrupted is completed.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from callboard_contracts.quota import AuditEvent, Hold, HoldEntry, Rates, WorkKind
from callboard_quota.domain.limits import Limit
from callboard_quota.domain.past import Past, PastReader
from callboard_quota.domain.ports import Applied, Change, Clock, Counter, LedgerStore, StoreUnavailable
from callboard_quota.domain.windows import (
    DECISION_LIFE_S,
    HOUR_S,
    SETTLE_GRACE_S,
    Metric,
    bucket_of,
    counts_next_hour,
    earlier_buckets,
    edge_at,
    frees_in_s,
    hour_bucket,
    resets_in_s,
)

MAX_ATTEMPTS = 3
MAX_LOOSE_ENDS = 10_000
ID_BYTES = 6
AFTER_EXPIRY = "after_expiry"
REQUEST_ID_IN_HOLD = 51
"""So much of a request's id stands in its holds' ids that these are still one token of a subject."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A hold that is wanted: the amounts by tenant and metric, and every limit that they must keep."""

    request_id: str
    tenant: str
    kind: WorkKind
    model: str
    amounts: tuple[tuple[str, Metric, int], ...]
    limits: tuple[Limit, ...]
    rates: Rates
    expires_at: float


@dataclass(frozen=True, slots=True)
class Standing:
    """How full a limit is after a decision, in the metric's own measure."""

    limit: Limit
    used: int
    resets_in_s: float


@dataclass(frozen=True, slots=True)
class Granted:
    """The hold was taken."""

    hold: Hold
    tightest: Standing | None


@dataclass(frozen=True, slots=True)
class Refused:
    """A limit does not allow it; `retry_after_s` is None when waiting will not help."""

    standing: Standing
    retry_after_s: float | None


Ending = Literal["settled", "released", "expired"]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a hold stands ended.

    `first` when this call decided it, `late` when it was charged after it had ended without a charge.
    """

    fate: AuditEvent
    first: bool
    late: bool = False


class _Attempt:
    """One try at a reservation: what must be written, and how to read what came back."""

    def __init__(self, ask: Ask, now: float, pasts: dict[tuple[str, Metric], Past]) -> None:
        self.ask = ask
        self.now = now
        self._pasts = pasts
        self._edge = edge_at(now)
        self._neighbours: list[Counter] = []
        self._values: dict[Counter, int] = {}
        # Built without validation, which would cost more than all the rest: every value here is our own.
        self.hold = Hold.model_construct(
            id=f"{ask.request_id[:REQUEST_ID_IN_HOLD]}-{secrets.token_hex(ID_BYTES)}",
            request_id=ask.request_id,
            tenant=ask.tenant,
            kind=ask.kind,
            model=ask.model,
            entries=tuple(
                HoldEntry.model_construct(tenant=tenant, metric=metric, bucket=bucket_of(metric, now), amount=amount)
                for tenant, metric, amount in ask.amounts
            ),
            rates=ask.rates,
            expires_at=ask.expires_at,
            seal="",
        )
        for (tenant, metric), past in pasts.items():
            if metric != "requests":
                if past.previous is None or self._edge.previous:
                    self._neighbours.append(Counter(tenant, metric, hour_bucket(now - HOUR_S)))
                if self._edge.following:
                    self._neighbours.append(Counter(tenant, metric, hour_bucket(now + HOUR_S)))

    def changes(self) -> list[Change]:
        """The increments, and after them the neighbouring hours to read."""
        return increments(self.hold) + [Change(counter, 0, None) for counter in self._neighbours]

    def learn(self, changes: Sequence[Change], applied: Sequence[Applied]) -> list[Change]:
        """Takes in the values; returns what must still be read because a repeat of a write hid its value."""
        unknown: list[Change] = []
        for change, result in zip(changes, applied, strict=True):
            if result.value is None:
                unknown.append(Change(change.counter, 0, None))
            else:
                self._values[change.counter] = result.value
        if not self._edge.previous:
            for (tenant, metric), past in self._pasts.items():
                value = self._values.get(Counter(tenant, metric, hour_bucket(self.now - HOUR_S)))
                if value is not None:
                    past.previous = value
        return unknown

    def earlier(self, limit: Limit) -> int:
        """What is known to count for a limit beside the present bucket."""
        if limit.metric == "requests":
            return 0
        past = self._pasts[limit.tenant, limit.metric]
        used = past.older_sum(limit.name, self.now)
        last_hour, next_hour = hour_bucket(self.now - HOUR_S), hour_bucket(self.now + HOUR_S)
        if last_hour in earlier_buckets(limit.name, self.now)[:1]:
            known = self._values.get(Counter(limit.tenant, limit.metric, last_hour))
            used += known if known is not None else past.previous or 0
        if counts_next_hour(limit.name, self.now):
            used += self._values.get(Counter(limit.tenant, limit.metric, next_hour), 0)
        return used

    def present(self, limit: Limit) -> int | None:
        """The value of the bucket that this attempt counts in, once it is known."""
        return self._values.get(Counter(limit.tenant, limit.metric, bucket_of(limit.metric, self.now)))

    def standing(self, limit: Limit, used: int) -> Standing:
        """How full a limit is."""
        return Standing(limit, used, resets_in_s(limit.name, self.now))

    def refused(self, limit: Limit, used_without: int, amount: int) -> Refused:
        """The refusal of a limit that already holds `used_without`, with the time when enough of it frees."""
        if amount > limit.maximum:
            return Refused(self.standing(limit, used_without), None)
        buckets: dict[str, int] = {}
        if limit.name == "tokens_per_day":
            past = self._pasts[limit.tenant, limit.metric]
            buckets = {bucket: past.older.get(bucket, 0) for bucket in earlier_buckets(limit.name, self.now)[1:]}
            buckets[hour_bucket(self.now - HOUR_S)] = past.previous or 0
            buckets[hour_bucket(self.now)] = max(0, used_without - sum(buckets.values()))
        excess = used_without + amount - limit.maximum
        return Refused(self.standing(limit, used_without), frees_in_s(limit.name, self.now, buckets, excess))


class Ledger:
    """Decides on holds; it keeps nothing that another process would have to know."""

    def __init__(self, store: LedgerStore, clock: Clock, seal: Callable[[Hold], Hold] = lambda hold: hold) -> None:
        self._store = store
        self._clock = clock
        self._seal = seal
        self._past = PastReader(store)
        self.loose_ends: list[Hold] = []
        """Holds whose reservation ended with an unknown outcome, to be ended soon; the rest end with their lease."""

    async def reserve(self, ask: Ask) -> Granted | Refused:
        """Takes a hold if every limit allows it, else leaves everything as it was.

        A refusal that may have been caused by another attempt that was refused as well is tried again.

        Raises:
            StoreUnavailable: the outcome is unknown; what was written is taken back later.
        """
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

    async def settle(self, hold: Hold, units: int, reason: str = "", total_units: int | None = None) -> Ended:
        """Charges a hold's work and gives the rest back; a second call changes nothing. Raises StoreUnavailable.

        Work whose hold was expired or released meanwhile is charged all the same, once. `total_units` is what the work
        cost on all of its holds, this one by default; it is kept with the fate.
        """
        total_units = units if total_units is None else total_units
        ended = await self._end(self._event("settled", hold, units, reason, hold.id, total_units), hold)
        if ended.first or ended.fate.kind == "settled":
            return ended
        wanted = self._event("settled", hold, units, AFTER_EXPIRY, late_id(hold), total_units)
        fate = await self._store.decide(wanted)
        await self._store.apply(
            [
                Change(_counter(entry), fate.units, f"{hold.id}.l{n}")
                for n, entry in enumerate(hold.entries)
                if entry.metric == "units"
            ]
        )
        return Ended(fate, first=fate is wanted, late=True)

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

    async def _end(self, wanted: AuditEvent, hold: Hold) -> Ended:
        fate = await self._store.decide(wanted)
        if fate.kind == "settled":
            # The usage event is delivered again until this is confirmed, so the lease need not wait for the counters.
            await self._store.apply(settlement(hold, fate.units), closing=hold)
        else:
            await self._store.apply(reversal(hold))
            await self._store.close(hold)
        return Ended(fate, first=fate is wanted)

    def _event(
        self, kind: Ending, hold: Hold, units: int, reason: str, hold_id: str, total_units: int = 0
    ) -> AuditEvent:
        return AuditEvent(
            kind=kind,
            request_id=hold.request_id,
            hold_id=hold_id,
            tenant=hold.tenant,
            work=hold.kind,
            model=hold.model,
            units=units,
            total_units=total_units,
            reason=reason,
            at=self._clock.now(),
        )

    async def standings(self, limits: Sequence[Limit]) -> list[Standing]:
        """How full limits are at this moment, without taking anything. Raises StoreUnavailable."""
        now = self._clock.now()
        buckets = {limit: (bucket_of(limit.metric, now), *earlier_buckets(limit.name, now)) for limit in limits}
        counters = {Counter(limit.tenant, limit.metric, name) for limit in limits for name in buckets[limit]}
        found = await self._store.read(sorted(counters)) if counters else {}
        return [
            Standing(
                limit,
                sum(found.get(Counter(limit.tenant, limit.metric, name), 0) for name in buckets[limit]),
                resets_in_s(limit.name, now),
            )
            for limit in limits
        ]

    def can_settle(self, hold: Hold) -> bool:
        """Whether the hold's ids are still remembered by the store, so that settling it is safe."""
        return self._clock.now() < hold.expires_at + SETTLE_GRACE_S

    def forget(self) -> None:
        """Drops what is remembered of earlier hours."""
        self._past.forget_all()

    async def _attempt(self, ask: Ask) -> _Attempt:
        now = self._clock.now()
        wanted: dict[tuple[str, Metric], list[Limit]] = {}
        for limit in ask.limits:
            wanted.setdefault((limit.tenant, limit.metric), []).append(limit)
        pasts: dict[tuple[str, Metric], Past] = {}
        for (tenant, metric), limits in wanted.items():
            if metric != "requests":
                pasts[tenant, metric] = await self._past.of(tenant, metric, [limit.name for limit in limits], now)
        attempt = _Attempt(ask, now, pasts)
        attempt.hold = self._seal(attempt.hold)
        return attempt

    async def _refused_early(self, attempt: _Attempt) -> Refused | None:
        """A refusal that is certain before anything is written; the present hour is read only to say when it ends."""
        amounts = {(tenant, metric): amount for tenant, metric, amount in attempt.ask.amounts}
        for limit in attempt.ask.limits:
            amount = amounts[limit.tenant, limit.metric]
            earlier = attempt.earlier(limit)
            if earlier + amount > limit.maximum:
                present = Counter(limit.tenant, limit.metric, bucket_of(limit.metric, attempt.now))
                used = earlier + (await self._store.read([present])).get(present, 0)
                return attempt.refused(limit, used, amount)
        return None

    def _forget(self, ask: Ask, now: float) -> bool:
        forgotten = [self._past.forget(limit.tenant, limit.metric, now) for limit in ask.limits]
        return any(forgotten)

    async def _write(self, attempt: _Attempt) -> tuple[Granted | Refused, bool]:
        """Writes an attempt, judges it and takes it back if need be; says also whether another try makes sense."""
        hold = attempt.hold
        changes = attempt.changes()
        try:
            unknown = attempt.learn(changes, await self._store.open(hold, changes))
            if unknown:
                attempt.learn(unknown, await self._store.apply(unknown))
            over, tightest = _judge(attempt)
            if over is None and self._clock.now() - attempt.now <= DECISION_LIFE_S:
                return Granted(hold, tightest), False
            undone = await self._store.apply(reversal(hold))
            await self._store.close(hold)
        except BaseException:
            if len(self.loose_ends) < MAX_LOOSE_ENDS:
                self.loose_ends.append(hold)
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


def late_id(hold: Hold) -> str:
    """The id under which a charge after a hold's end is decided."""
    return f"{hold.id}.late"


def increments(hold: Hold) -> list[Change]:
    """The increments that take a hold."""
    return [Change(_counter(entry), entry.amount, f"{hold.id}.r{n}") for n, entry in enumerate(hold.entries)]


def reversal(hold: Hold) -> list[Change]:
    """The increments that give a hold back whole."""
    return [Change(_counter(entry), -entry.amount, f"{hold.id}.s{n}") for n, entry in enumerate(hold.entries)]


def settlement(hold: Hold, units: int) -> list[Change]:
    """The increments that charge a hold's work; jobs that ran are over, requests stay counted."""
    return [
        Change(_counter(entry), (units if entry.metric == "units" else 0) - entry.amount, f"{hold.id}.s{n}")
        for n, entry in enumerate(hold.entries)
        if entry.metric != "requests"
    ]


def _judge(attempt: _Attempt) -> tuple[Standing | None, Standing | None]:
    """The first limit that is exceeded, or None, and the limit that is fullest."""
    tightest: Standing | None = None
    fullest = -1.0
    for limit in attempt.ask.limits:
        present = attempt.present(limit)
        if present is None:
            raise StoreUnavailable("a counter's value stayed unknown")
        used = present + attempt.earlier(limit)
        standing = attempt.standing(limit, used)
        if used > limit.maximum:
            return standing, None
        fullness = used / limit.maximum if limit.maximum else 1.0
        if fullness > fullest:
            fullest, tightest = fullness, standing
    return None, tightest


def _counter(entry: HoldEntry) -> Counter:
    return Counter(entry.tenant, entry.metric, entry.bucket)

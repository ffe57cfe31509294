"""Corrects the counters of past hours by the usage events.

An hour is closed once nothing can settle in it any more. Then its counters must equal the sums over its usage events.
Where they do not, because a process died at the wrong moment or an event came after its hold's ids were forgotten, the
difference is posted as an increment whose id names the hour and the counter's value. Events that arrive even later are
charged one by one.

The only state is a checkpoint, changed by compare-and-set, so any process may do the work.
"""

import logging
from collections.abc import Awaitable, Callable

from pydantic import ValidationError

from callboard_contracts.model import Message
from callboard_contracts.quota import AuditEvent, UsageEvent
from callboard_contracts.streams import COUNTER_LIFE_S
from callboard_quota.domain.limit_kinds import HEARD, METRICS, UNITS, charge_of
from callboard_quota.domain.ports import Change, Clock, Counter, CounterStore, Journal, LedgerStore, Logged, UsageLog
from callboard_quota.domain.usage_totals import UsageAggregator
from callboard_quota.domain.windows import CLOSING_S, HOUR_S, hour_bucket, hour_start, minutes_of

log = logging.getLogger(__name__)

CLAIM_S = 300.0
"""How long a process that began a pass has it for itself."""
FIRST_CLOSED_S = 3 * HOUR_S + CLOSING_S
"""Without a checkpoint, hours that began longer ago than this are taken as closed."""
MAX_ROUNDS = 3
OLDEST_S = COUNTER_LIFE_S - 10 * 86_400
"""Events of hours older than this are left alone, since the hour's counters may be gone."""


class Checkpoint(Message):
    """How far reconciliation has come, and which process works on it.

    Every event up to `last_seq` is accounted for in the hours up to `closed_through`; one that comes after it for such
    an hour is late.
    """

    closed_through: str
    last_seq: int
    worker: str = ""
    worker_until: float = 0.0


class Reconciler:
    """Closes one hour after another. `worker` names the process; `on_increase` learns whose use of a past hour grew."""

    def __init__(
        self,
        worker: str,
        store: LedgerStore,
        counters: CounterStore,
        log: UsageLog,
        aggregator: UsageAggregator,
        clock: Clock,
        journal: Journal,
        on_increase: Callable[[str], Awaitable[None]],
    ) -> None:
        self._worker = worker
        self._store = store
        self._counter_store = counters
        self._log = log
        self._aggregator = aggregator
        self._clock = clock
        self._journal = journal
        self._on_increase = on_increase
        self.drift_units = 0
        """The sum of the differences found when the last hour was closed, regardless of sign."""

    async def pass_once(self) -> bool:
        """Charges late events and closes the hours that can be closed; false when another process is at it.

        Raises:
            StoreUnavailable: some of it may be done; the next pass completes it.
        """
        checkpoint, revision = await self._load()
        now = self._clock.now()
        if checkpoint.worker not in {"", self._worker} and checkpoint.worker_until > now:
            return False
        # Two processes at once would do no harm, only the same work twice.
        checkpoint = checkpoint.model_copy(update={"worker": self._worker, "worker_until": now + CLAIM_S})
        claimed = await self._save(checkpoint, revision)
        if claimed is None:
            return False
        checkpoint = checkpoint.model_copy(update={"last_seq": await self._charge_late(checkpoint), "worker": ""})
        revision = await self._save(checkpoint, claimed)
        # `now` was read before the log was, so every event that was settled in such an hour is among those read.
        while revision is not None and hour_start(checkpoint.closed_through) + 2 * HOUR_S + CLOSING_S <= now:
            bucket = hour_bucket(hour_start(checkpoint.closed_through) + HOUR_S)
            await self._close(bucket, checkpoint.last_seq)
            await self._drop_brief(bucket)
            checkpoint = checkpoint.model_copy(update={"closed_through": bucket})
            revision = await self._save(checkpoint, revision)
        return revision is not None

    async def _save(self, checkpoint: Checkpoint, revision: int) -> int | None:
        return await self._counter_store.save(checkpoint.model_dump_json().encode(), revision)

    async def _load(self) -> tuple[Checkpoint, int]:
        text, revision = await self._counter_store.load()
        try:
            if text:
                return Checkpoint.model_validate_json(text), revision
        except ValidationError:
            log.exception("checkpoint_unreadable")
        first = hour_bucket(self._clock.now() - FIRST_CLOSED_S)
        return Checkpoint(closed_through=first, last_seq=await self._log.last_seq()), revision

    async def _close(self, bucket: str, last_seq: int) -> None:
        """Makes an hour's counters agree with its events up to a number."""
        start_seq = await self._log.seq_at(hour_start(bucket))
        sums: dict[Counter, int] = {}
        if start_seq is not None:
            sums = (await self._aggregator.sums(start_seq, {bucket}, until_seq=last_seq, exact=False)).sums
        suspects = set(_differences(await self._counter_store.counters(bucket), sums))
        self.drift_units = 0
        if suspects and start_seq is not None:
            sums = (await self._aggregator.sums(start_seq, {bucket}, only=suspects, until_seq=last_seq)).sums
        for n in range(MAX_ROUNDS):
            counted = await self._counter_store.counters(bucket)
            found = _differences(counted, sums).items()
            differences = {counter: difference for counter, difference in found if counter in suspects}
            if not differences:
                return
            if n == 0:
                self.drift_units = sum(
                    abs(difference) for counter, difference in differences.items() if counter.metric == UNITS.name
                )
            for counter, difference in differences.items():
                # Whoever corrects the same value uses the same id, so the correction counts once.
                await self.correct(counter, difference, f"recon.{bucket}.{counted.get(counter, 0)}", "hour_closed")
        log.error("hour_not_closed", extra={"bucket": bucket})

    async def _drop_brief(self, bucket: str) -> None:
        """Drops the counters that no limit counts any more; those by minute and caller would soon be millions."""
        for metric in [one for one in METRICS.values() if one.is_brief]:
            for each in [bucket] if metric.is_hourly else minutes_of(bucket):
                await self._counter_store.drop(metric.name, each)

    async def _charge_late(self, checkpoint: Checkpoint) -> int:
        """Charges events that came after their hour was closed; returns the number of the last event there is."""
        last_seq = checkpoint.last_seq
        async for logged in self._aggregator.follow(checkpoint.last_seq + 1):
            last_seq = logged.seq
            event = logged.event
            if event is None or await self._aggregator.rejection_reason(logged):
                continue
            for counter, amount in self._aggregator.charged(event):
                if counter.bucket <= checkpoint.closed_through and await self._is_first(logged, event, counter):
                    await self.correct(counter, amount, f"late.{logged.seq}", "late_event", event.request_id)
        return last_seq

    async def _is_first(self, logged: Logged, event: UsageEvent, counter: Counter) -> bool:
        """Whether no earlier event of the same work counts, and the hour's counters are still there."""
        began = hour_start(counter.bucket)
        if began < self._clock.now() - OLDEST_S:
            return False
        start_seq = await self._log.seq_at(began)
        if start_seq is None:
            return True
        async for earlier in self._aggregator.follow(start_seq, event.tenant):
            if earlier.seq >= logged.seq:
                break
            known = earlier.event
            same = known and (known.request_id, known.kind) == (event.request_id, event.kind)
            if same and not await self._aggregator.rejection_reason(earlier):
                return False
        return True

    async def correct(self, counter: Counter, amount: int, name: str, reason: str, request_id: str = "") -> bool:
        """Changes a counter, once for each name, and says whether it did; raises StoreUnavailable."""
        if not amount:
            return False
        change = Change(counter, amount, f"{name}.{counter.tenant}.{counter.metric}")
        if await self._counter_store.is_applied(change):
            return False
        applied = await self._store.apply([change])
        if applied[0].duplicate:
            return False
        if amount > 0:
            await self._on_increase(counter.tenant)
        log.warning(
            "counter_corrected",
            extra={"tenant": counter.tenant, "metric": counter.metric, "bucket": counter.bucket, "amount": amount},
        )
        self._journal.record(
            AuditEvent(
                kind="corrected",
                request_id=request_id or name.replace(".", "-"),
                tenant=counter.tenant,
                units=0 if counter.metric == HEARD.name else amount,
                heard_ms=amount if counter.metric == HEARD.name else 0,
                reason=reason,
                at=self._clock.now(),
            )
        )
        return True


def _differences(counted: dict[Counter, int], sums: dict[Counter, int]) -> dict[Counter, int]:
    """What each counter lacks; what a settled hold leaves all of cannot be recomputed from events."""
    return {
        counter: sums.get(counter, 0) - counted.get(counter, 0)
        for counter in {*counted, *sums}
        if charge_of(counter.metric) != "all" and sums.get(counter, 0) != counted.get(counter, 0)
    }

"""Corrects the counters of hours that are over by what the usage events say.

An hour is closed once nothing can settle in it any more. Then its counters must equal the sums over its usage events;
where they do not, because a process died at the wrong moment or an event came after its hold's ids were forgotten,
the difference is posted as an increment whose id names the hour and the last event that was read. Events that arrive
even later are charged one by one.

The only state is a note of how far the work has come, changed by compare-and-set, so any process may do it.
"""

import logging
from collections.abc import Awaitable, Callable

from pydantic import ValidationError

from callboard_contracts.model import Message
from callboard_contracts.quota import AuditEvent, UsageEvent
from callboard_contracts.streams import COUNTER_LIFE_S
from callboard_quota.domain.ports import Change, Clock, Counter, CounterStore, Journal, LedgerStore, Logged, UsageLog
from callboard_quota.domain.usage_totals import UsageAggregator
from callboard_quota.domain.windows import CLOSING_S, HOUR_S, hour_bucket, hour_start, minutes_of

log = logging.getLogger(__name__)

WORK_S = 300.0
"""How long a process that began a pass is left alone with it."""
FIRST_LOOK_S = 3 * HOUR_S + CLOSING_S
"""Without a note, hours that began longer ago than this are taken as they stand."""
MAX_LOOKS = 3
OLDEST_S = COUNTER_LIFE_S - 10 * 86_400
"""Events of hours older than this are left alone, since the hour's counters may be gone."""


class Checkpoint(Message):
    """How far reconciliation has come, and who works on it.

    Every event up to `last_seq` is accounted for in the hours up to `closed_through`; one that comes after it for such
    an hour is late.
    """

    closed_through: str
    last_seq: int
    worker: str = ""
    worker_until: float = 0.0


class Reconciler:
    """Closes one hour after another. `worker` names the process; `on_raise` learns whose use of such an hour grew."""

    def __init__(
        self,
        worker: str,
        store: LedgerStore,
        counters: CounterStore,
        log: UsageLog,
        aggregator: UsageAggregator,
        clock: Clock,
        journal: Journal,
        on_raise: Callable[[str], Awaitable[None]],
    ) -> None:
        self._worker = worker
        self._store = store
        self._counter_store = counters
        self._log = log
        self._aggregator = aggregator
        self._clock = clock
        self._journal = journal
        self._on_raise = on_raise
        self.drift_units = 0
        """The sum of the differences found when the last hour was closed, regardless of sign."""

    async def pass_once(self) -> bool:
        """Charges what came late and closes what can be closed; false when another process is at it.

        Raises:
            StoreUnavailable: some of it may be done; the next pass completes it.
        """
        note, revision = await self._note()
        now = self._clock.now()
        if note.worker not in {"", self._worker} and note.worker_until > now:
            return False
        # Two processes at once would do no harm, only the same work twice.
        note = note.model_copy(update={"worker": self._worker, "worker_until": now + WORK_S})
        claimed = await self._save(note, revision)
        if claimed is None:
            return False
        note = note.model_copy(update={"last_seq": await self._charge_late(note), "worker": ""})
        revision = await self._save(note, claimed)
        # `now` was read before the log was, so every event that was settled in such an hour is among those read.
        while revision is not None and hour_start(note.closed_through) + 2 * HOUR_S + CLOSING_S <= now:
            bucket = hour_bucket(hour_start(note.closed_through) + HOUR_S)
            await self._close(bucket, note.last_seq)
            await self._tidy(bucket)
            note = note.model_copy(update={"closed_through": bucket})
            revision = await self._save(note, revision)
        return revision is not None

    async def _save(self, note: Checkpoint, revision: int) -> int | None:
        return await self._counter_store.save(note.model_dump_json().encode(), revision)

    async def _note(self) -> tuple[Checkpoint, int]:
        text, revision = await self._counter_store.load()
        try:
            if text:
                return Checkpoint.model_validate_json(text), revision
        except ValidationError:
            log.exception("note_unreadable")
        begin = self._clock.now() - FIRST_LOOK_S
        return Checkpoint(closed_through=hour_bucket(begin), last_seq=await self._log.last_seq()), revision

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
        for look in range(MAX_LOOKS):
            counted = await self._counter_store.counters(bucket)
            differences = {counter: n for counter, n in _differences(counted, sums).items() if counter in suspects}
            if not differences:
                return
            if look == 0:
                self.drift_units = sum(abs(n) for counter, n in differences.items() if counter.metric == "units")
            for counter, difference in differences.items():
                # Whoever corrects the same value uses the same id, so the correction counts once.
                await self._correct(counter, difference, f"recon.{bucket}.{counted.get(counter, 0)}", "hour_closed", "")
        log.error("hour_not_closed", extra={"bucket": bucket})

    async def _tidy(self, bucket: str) -> None:
        """Drops what only limits of the moment looked at; counters by minute and caller would soon be millions."""
        await self._counter_store.drop("jobs", bucket)
        for minute in minutes_of(bucket):
            await self._counter_store.drop("requests", minute)

    async def _charge_late(self, note: Checkpoint) -> int:
        """Charges events that came after their hour was closed; returns the number of the last event there is."""
        last_seq = note.last_seq
        async for logged in self._aggregator.follow(note.last_seq + 1):
            last_seq = logged.seq
            event = logged.event
            if event is None or await self._aggregator.judge(logged):
                continue
            for counter, units in self._aggregator.charged(event):
                if counter.bucket <= note.closed_through and await self._is_first(logged, event, counter):
                    await self._correct(counter, units, f"late.{logged.seq}", "late_event", event.request_id)
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
            if same and not await self._aggregator.judge(earlier):
                return False
        return True

    async def _correct(self, counter: Counter, amount: int, name: str, reason: str, request_id: str) -> None:
        if not amount:
            return
        change = Change(counter, amount, f"{name}.{counter.tenant}.{counter.metric}")
        if await self._counter_store.stands(change):
            return
        applied = await self._store.apply([change])
        if applied[0].duplicate:
            return
        if amount > 0:
            await self._on_raise(counter.tenant)
        log.warning("counter_corrected", extra={"tenant": counter.tenant, "bucket": counter.bucket, "units": amount})
        self._journal.note(
            AuditEvent(
                kind="corrected",
                request_id=request_id or name.replace(".", "-"),
                tenant=counter.tenant,
                units=amount,
                reason=reason,
                at=self._clock.now(),
            )
        )


def _differences(counted: dict[Counter, int], sums: dict[Counter, int]) -> dict[Counter, int]:
    """What each counter lacks; jobs must have come down to nothing, requests are not kept by events."""
    return {
        counter: sums.get(counter, 0) - counted.get(counter, 0)
        for counter in {*counted, *sums}
        if counter.metric != "requests" and sums.get(counter, 0) != counted.get(counter, 0)
    }

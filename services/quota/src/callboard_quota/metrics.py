"""The metrics of the quota service."""

from collections.abc import Sequence
from functools import cache

from prometheus_client import Counter, Gauge, Histogram

from callboard_contracts.quota import AuditEvent, AuditKind
from callboard_quota.domain.kudos import RULES

DECISIONS = Counter(
    "callboard_quota_decisions",
    "Reservations decided, by kind of work and result: admitted, or why not.",
    ("work", "decision"),
)
DECISION_SECONDS = Histogram(
    "callboard_quota_decision_seconds",
    "Time from a request's arrival to its answer.",
    ("request",),
    buckets=(0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
CONCURRENCY_WAITS = Counter(
    "callboard_quota_concurrency_waits",
    "Requests over jobs_at_once that waited a moment for a hold to end, by result: admitted, refused or full.",
    ("result",),
)
SETTLEMENTS = Counter(
    "callboard_quota_settlements",
    "Usage events and releases handled, by result.",
    ("result",),
)
SETTLEMENT_LAG_SECONDS = Histogram(
    "callboard_quota_settlement_lag_seconds",
    "Time from the storing of a usage event to its settlement.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600),
)
UNITS = Counter(
    "callboard_quota_units", "Units finally charged, by kind of work; a unit is a thousandth of a token.", ("work",)
)
OPEN_LEASES = Gauge("callboard_quota_open_leases", "Holds that are neither settled nor ended.")
OLDEST_LEASE_SECONDS = Gauge(
    "callboard_quota_oldest_lease_overdue_seconds", "How far the oldest hold is past its end; at most 0 when none is."
)
EXPIRED_LEASES = Counter("callboard_quota_expired_leases", "Holds ended because their job never reported.")
IN_FLIGHT = Gauge("callboard_quota_requests_in_flight", "Requests being answered now.")
STORE_FAILURES = Counter(
    "callboard_quota_store_failures", "Requests that the store left without a confirmed answer.", ("request",)
)
AUDIT_LOSSES = Counter("callboard_quota_audit_losses", "Audit events dropped because too many waited for the bus.")
CORRECTIONS = Counter("callboard_quota_corrections", "Counters corrected by the reconciler.")
DRIFT_UNITS = Gauge("callboard_quota_drift_units", "Sum of the absolute differences that the reconciler last found.")
RECONCILE_AGE_SECONDS = Gauge(
    "callboard_quota_reconcile_age_seconds", "Time since the reconciler last finished a pass."
)


KUDOS = Counter(
    "callboard_quota_kudos",
    "Kudos that were credited, paid to volunteers, spent and transferred, in thousandths.",
    ("kind",),
)
KUDOS_REFUSALS = Counter("callboard_quota_kudos_refusals", "Kudos transactions refused, by rule.", ("reason",))


_decisions = cache(DECISIONS.labels)
"""A metric with labels keeps a child for each of their values; finding one again takes it ten steps."""
_settlements = cache(SETTLEMENTS.labels)
_units = cache(UNITS.labels)
_kudos = cache(KUDOS.labels)
decision_seconds = cache(DECISION_SECONDS.labels)


def count_events(events: Sequence[AuditEvent]) -> None:
    """Counts audit events, those that are alike in one step."""
    alike: dict[tuple[AuditKind, str, str], tuple[int, int, int]] = {}
    for event in events:
        key = (event.kind, event.work or "none", event.reason)
        number, units, kudos = alike.get(key, (0, 0, 0))
        alike[key] = (number + 1, units + event.units, kudos + event.kudos)
    for (kind, work, reason), (number, units, kudos) in alike.items():
        _count(kind, work, reason, number, units, kudos)


def _count(kind: AuditKind, work: str, reason: str, number: int, units: int, kudos: int) -> None:
    if work == "kudos" and kind in {"settled", "released"}:
        _kudos(reason).inc(kudos)
        return
    match kind:
        case "admitted":
            _decisions(work, "admitted").inc(number)
        case "refused":
            _decisions(work, reason).inc(number)
        case "settled":
            _settlements("after_expiry" if reason == "after_expiry" else "settled").inc(number)
            _units(work).inc(units)
            if kudos:
                _kudos("spend").inc(kudos)
        case "released":
            _settlements("released").inc(number)
        case "ignored":
            _settlements(reason).inc(number)
        case "expired":
            EXPIRED_LEASES.inc(number)
        case "corrected":
            CORRECTIONS.inc(number)


def begin() -> None:
    """Exports counters as 0 from the start, so that the first event is an increase."""
    for work in ("chat", "speech", "transcription"):
        DECISIONS.labels(work, "admitted")
        UNITS.labels(work)
    SETTLEMENTS.labels("settled")
    for request in ("reserve", "release", "settle"):
        STORE_FAILURES.labels(request)
    for move in ("earn", "reward", "uptime", "spend", "transfer"):
        KUDOS.labels(move)
    for rule in RULES:
        KUDOS_REFUSALS.labels(rule)
    for result in ("admitted", "refused", "full"):
        CONCURRENCY_WAITS.labels(result)

"""Quota: is every hold taken and settled?"""

from deploy.observability.panels import (
    Board,
    Query,
    Row,
    counter,
    gauge,
    of,
    panel,
    per_second,
    processes,
    quantile,
    spread,
)

DECISIONS = "callboard_quota_decisions_total"
ADMITTED = 'decision="admitted"'
DECISION_TIME = "callboard_quota_decision_seconds"
RECONCILED = of("callboard_quota_reconcile_age_seconds")
RECENT = f"{RECONCILED} < 600"
"""The processes whose last pass is not long ago; what another found before is history."""

REQUESTS = Row(
    "Decisions",
    (
        counter(
            "Decisions",
            "Reservations decided a second, by kind of work and what came of them.",
            DECISIONS,
            by="work, decision",
            unit="reqps",
            stacked=True,
        ),
        *spread(
            DECISION_TIME,
            "Time of a reservation",
            "From the arrival of a reservation to its answer; every request waits for one.",
            'request="reserve"',
        ),
        gauge(
            "In flight",
            "Requests being decided at this moment.",
            "callboard_quota_requests_in_flight",
            kind="stat",
            width=4,
        ),
        panel(
            "Time by kind of request, p95",
            "From a request's arrival to its answer.",
            "s",
            Query(quantile(0.95, DECISION_TIME, by="request"), "{{request}}"),
        ),
        panel(
            "Refused",
            "The share of reservations that were not admitted.",
            "percentunit",
            f"1 - {per_second(DECISIONS, ADMITTED)} / {per_second(DECISIONS)}",
        ),
        counter(
            "Waits for a place",
            "Requests over jobs_at_once that waited a moment for the settlement of an earlier one.",
            "callboard_quota_place_waits_total",
            by="result",
        ),
        counter(
            "Store failures",
            "Requests that the store left without a confirmed answer.",
            "callboard_quota_store_failures_total",
            by="request",
            runbook="quota-store-failing",
        ),
    ),
)
KUDOS = Row(
    "Kudos",
    (
        counter(
            "Kudos moved",
            "Thousandths of kudos earned, spent and transferred a second.",
            "callboard_quota_kudos_total",
            by="kind",
            unit="short",
        ),
        counter(
            "Deals refused",
            "Deals in kudos that were refused, by the rule that says so.",
            "callboard_quota_kudos_refusals_total",
            by="reason",
        ),
    ),
)
HOLDS = Row(
    "Holds",
    (
        panel(
            "Open holds",
            "Holds that are neither settled nor ended; each process counts all, so the most is shown.",
            "short",
            f"max ({of('callboard_quota_open_leases')})",
        ),
        panel(
            "Oldest hold",
            "How far the oldest hold is past its end, by the newest look; negative while none is.",
            "s",
            f"min ({of('callboard_quota_oldest_lease_overdue_seconds')})",
            limits=((60, "red"),),
            runbook="lease-overdue",
        ),
        counter(
            "Expired",
            "Holds ended because nothing was heard of their job.",
            "callboard_quota_expired_leases_total",
            runbook="leases-expire",
        ),
    ),
)
SETTLEMENT = Row(
    "Settlement",
    (
        counter(
            "Settlements",
            "Usage events and releases handled a second, by what came of them.",
            "callboard_quota_settlements_total",
            by="result",
            stacked=True,
        ),
        *spread(
            "callboard_quota_settlement_lag_seconds",
            "Settlement lag",
            "From the storing of a usage event to its settlement; 1 s is promised.",
            limits=((1, "red"),),
        ),
        panel(
            "Audit events lost",
            "Audit events dropped because too many waited for the bus, in the chosen time.",
            "short",
            f"sum (increase({of('callboard_quota_audit_losses_total')}[$__range]))",
            kind="stat",
            width=4,
            limits=((1, "red"),),
            runbook="audit-lost",
        ),
        panel(
            "FailedAfterOutput",
            "Tokens finally charged a second, by kind of work.",
            "suffix: tokens/s",
            Query(f"{per_second('callboard_quota_units_total', by='work')} / 1000", "{{work}}"),
            width=24,
        ),
    ),
)
RECONCILIATION = Row(
    "CounterStore",
    (
        panel(
            "Drift",
            "The differences that the reconciler last found between counters and usage events, in tokens, "
            "regardless of sign. What it finds it corrects.",
            "suffix: tokens",
            f"max ({of('callboard_quota_drift_units')} and on (namespace, job, instance) ({RECENT})) / 1000",
            runbook="quota-drift",
        ),
        counter(
            "Corrections",
            "Counters corrected by the reconciler.",
            "callboard_quota_corrections_total",
            runbook="quota-drift",
        ),
        panel(
            "Age of the last pass",
            "Time since a reconciler last finished a pass.",
            "s",
            f"min ({RECONCILED})",
            limits=((300, "orange"), (600, "red")),
            runbook="reconcile-stale",
        ),
    ),
)

QUOTA = Board(
    "quota",
    "Quota",
    "Is every hold taken and settled?",
    (REQUESTS, KUDOS, HOLDS, SETTLEMENT, RECONCILIATION, processes("callboard-quota")),
)

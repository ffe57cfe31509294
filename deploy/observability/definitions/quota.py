"""Quota: is every hold taken and settled?"""

from deploy.observability.panels import (
    Dashboard,
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
"""The processes that reconciled lately; what another process found before no longer counts."""

REQUESTS = Row(
    "Decisions",
    (
        counter(
            "Decisions",
            "Reservations decided a second, by kind of work and result.",
            DECISIONS,
            by="work, decision",
            unit="reqps",
            stacked=True,
        ),
        *spread(
            DECISION_TIME,
            "Reservation latency",
            "From the arrival of a reservation to its reply; every request waits for one.",
            'request="reserve"',
        ),
        gauge("In flight", "Requests being decided now.", "callboard_quota_requests_in_flight", kind="stat", width=4),
        panel(
            "Latency by request, p95",
            "From a request's arrival to its reply.",
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
            "Concurrency waits",
            "Requests over jobs_at_once that waited for the settlement of an earlier one.",
            "callboard_quota_concurrency_waits_total",
            by="result",
        ),
        counter(
            "Store failures",
            "Requests that the store did not confirm.",
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
            "Thousandths of kudos credited, paid to volunteers, spent and transferred a second.",
            "callboard_quota_kudos_total",
            by="kind",
            unit="short",
        ),
        counter(
            "Transactions refused",
            "Kudos transactions refused, by the rule that refused them.",
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
            "Holds that are neither settled nor ended; each process counts all of them, so the maximum is shown.",
            "short",
            f"max ({of('callboard_quota_open_leases')})",
        ),
        panel(
            "Oldest hold",
            "How far the oldest hold is past its end, as of the last scan; negative while none is.",
            "s",
            f"min ({of('callboard_quota_oldest_lease_overdue_seconds')})",
            limits=((60, "red"),),
            runbook="lease-overdue",
        ),
        counter(
            "Expired holds",
            "Holds ended because neither usage nor a release of their job arrived.",
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
            "Usage events and releases handled a second, by result.",
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
            "Audit events dropped in the chosen time range because too many waited for the bus.",
            "short",
            f"sum (increase({of('callboard_quota_audit_losses_total')}[$__range]))",
            kind="stat",
            width=4,
            limits=((1, "red"),),
            runbook="audit-lost",
        ),
        panel(
            "Charged",
            "Tokens charged a second, by kind of work.",
            "suffix: tokens/s",
            Query(f"{per_second('callboard_quota_units_total', by='work')} / 1000", "{{work}}"),
            width=24,
        ),
    ),
)
RECONCILIATION = Row(
    "Reconciliation",
    (
        panel(
            "Drift",
            "The absolute differences that the reconciler last found between counters and usage events, in tokens. "
            "It corrects what it finds.",
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
            "Last reconciliation",
            "Time since a reconciler last finished.",
            "s",
            f"min ({RECONCILED})",
            limits=((300, "orange"), (600, "red")),
            runbook="reconcile-stale",
        ),
    ),
)

QUOTA = Dashboard(
    "quota",
    "Quota",
    "Is every hold taken and settled?",
    (REQUESTS, KUDOS, HOLDS, SETTLEMENT, RECONCILIATION, processes("callboard-quota")),
)

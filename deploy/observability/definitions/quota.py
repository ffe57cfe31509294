"""Quota: is every hold taken and settled?"""

from deploy.observability.panels import Board, Panel, Query, Row, of, per_second, processes, quantile, spread, total

DECISIONS = "callboard_quota_decisions_total"
ADMITTED = 'decision="admitted"'
RECENT = f"{of('callboard_quota_reconcile_age_seconds')} < 600"
"""The processes whose last pass is not long ago; what another found before is history."""

QUOTA = Board(
    "quota",
    "Quota",
    "Is every hold taken and settled?",
    (
        Row(
            "Decisions",
            (
                Panel(
                    "Decisions",
                    "Reservations decided a second, by kind of work and result.",
                    "reqps",
                    (Query(per_second(DECISIONS, by="work, decision"), "{{work}} {{decision}}"),),
                    stacked=True,
                ),
                *spread(
                    "callboard_quota_decision_seconds",
                    "Time of a reservation",
                    "From the arrival of a reservation to its answer; every request waits for one.",
                    'request="reserve"',
                ),
                Panel(
                    "In flight",
                    "Requests being answered now.",
                    "short",
                    (Query(total("callboard_quota_requests_in_flight"), "in flight"),),
                    "stat",
                    4,
                ),
                Panel(
                    "Time by kind of request, p95",
                    "From a request's arrival to its answer.",
                    "s",
                    (Query(quantile(0.95, "callboard_quota_decision_seconds", by="request"), "{{request}}"),),
                ),
                Panel(
                    "Refused",
                    "The share of reservations that were not admitted.",
                    "percentunit",
                    (
                        Query(
                            f"1 - {per_second(DECISIONS, ADMITTED)} / {per_second(DECISIONS)}",
                            "refused",
                        ),
                    ),
                ),
                Panel(
                    "Concurrency waits",
                    "Requests over jobs_at_once that waited a moment for the settlement of an earlier one, by result.",
                    "ops",
                    (Query(per_second("callboard_quota_concurrency_waits_total", by="result"), "{{result}}"),),
                ),
                Panel(
                    "Store failures",
                    "Requests that the store left without a confirmed answer.",
                    "ops",
                    (Query(per_second("callboard_quota_store_failures_total", by="request"), "{{request}}"),),
                    runbook="quota-store-failing",
                ),
            ),
        ),
        Row(
            "Kudos",
            (
                Panel(
                    "Kudos moved",
                    "Thousandths of kudos earned, spent and transferred a second.",
                    "short",
                    (Query(per_second("callboard_quota_kudos_total", by="kind"), "{{kind}}"),),
                ),
                Panel(
                    "Transactions refused",
                    "Kudos transactions that were refused, by rule.",
                    "ops",
                    (Query(per_second("callboard_quota_kudos_refusals_total", by="reason"), "{{reason}}"),),
                ),
            ),
        ),
        Row(
            "Holds",
            (
                Panel(
                    "Open holds",
                    "Holds that are neither settled nor ended; each process counts all, so the most is shown.",
                    "short",
                    (Query(f"max ({of('callboard_quota_open_leases')})", "open"),),
                ),
                Panel(
                    "Oldest hold",
                    "How far the oldest hold is past its end, by the newest pass; negative while none is.",
                    "s",
                    (Query(f"min ({of('callboard_quota_oldest_lease_overdue_seconds')})", "overdue"),),
                    limits=((60, "red"),),
                    runbook="lease-overdue",
                ),
                Panel(
                    "Expired",
                    "Holds ended because their job never reported.",
                    "ops",
                    (Query(per_second("callboard_quota_expired_leases_total"), "expired"),),
                    runbook="leases-expire",
                ),
            ),
        ),
        Row(
            "Settlement",
            (
                Panel(
                    "Settlements",
                    "Usage events and releases handled a second, by result.",
                    "ops",
                    (Query(per_second("callboard_quota_settlements_total", by="result"), "{{result}}"),),
                    stacked=True,
                ),
                *spread(
                    "callboard_quota_settlement_lag_seconds",
                    "Settlement lag",
                    "From the storing of a usage event to its settlement; 1 s is promised.",
                    limits=((1, "red"),),
                ),
                Panel(
                    "Audit events lost",
                    "Audit events dropped because too many waited for the bus, in the chosen time.",
                    "short",
                    (Query(f"sum (increase({of('callboard_quota_audit_losses_total')}[$__range]))", "lost"),),
                    "stat",
                    4,
                    limits=((1, "red"),),
                    runbook="audit-lost",
                ),
                Panel(
                    "Charged",
                    "Tokens finally charged a second, by kind of work.",
                    "suffix: tokens/s",
                    (Query(f"{per_second('callboard_quota_units_total', by='work')} / 1000", "{{work}}"),),
                    width=24,
                ),
            ),
        ),
        Row(
            "Counters",
            (
                Panel(
                    "Drift",
                    "The differences that the reconciler last found between counters and usage events, in tokens, "
                    "regardless of sign. What it finds it corrects.",
                    "suffix: tokens",
                    (
                        Query(
                            f"max ({of('callboard_quota_drift_units')} "
                            f"and on (namespace, job, instance) ({RECENT})) / 1000",
                            "drift",
                        ),
                    ),
                    runbook="quota-drift",
                ),
                Panel(
                    "Corrections",
                    "Counters corrected by the reconciler.",
                    "ops",
                    (Query(per_second("callboard_quota_corrections_total"), "corrections"),),
                    runbook="quota-drift",
                ),
                Panel(
                    "Age of the last pass",
                    "Time since a reconciler last finished a pass.",
                    "s",
                    (Query(f"min ({of('callboard_quota_reconcile_age_seconds')})", "age"),),
                    limits=((300, "orange"), (600, "red")),
                    runbook="reconcile-stale",
                ),
            ),
        ),
        processes("callboard-quota"),
    ),
)

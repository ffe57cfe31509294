"""Service level: are the objectives met, and how much of the error budget is left?"""

from deploy.observability.objectives import AUDIO, AVAILABILITY, BUDGET_WINDOW, OBJECTIVES, TOKEN, Objective
from deploy.observability.panels import Dashboard, Panel, Query, Row, gauge, of, panel, recorded_spread, total

FIRING = ('alertname=~"Callboard.*"', 'alertstate="firing"')
DECISIONS = "callboard:decisions:rate5m"


def _budget(objective: Objective, title: str, promise: str) -> Panel:
    return panel(
        f"Budget left: {title}",
        f"The unused share of the bad requests that 30 days allow. Objective: {promise}.",
        "percentunit",
        Query(f"1 - max ({of(objective.record(BUDGET_WINDOW))}) / {objective.budget:g}", title),
        kind="stat",
        width=4,
        height=5,
        limits=((0, "orange"), (0.25, "green")),
        good_above=True,
        runbook=objective.runbook,
    )


OBJECTIVES_MET = Row(
    "Objectives",
    (
        panel(
            "Availability, 30 days",
            "The share of requests for work that did not end in a server error.",
            "percentunit",
            f"1 - max ({of(AVAILABILITY.record(BUDGET_WINDOW))})",
            kind="stat",
            width=4,
            height=5,
            limits=((AVAILABILITY.share, "green"),),
            good_above=True,
            runbook=AVAILABILITY.runbook,
        ),
        _budget(AVAILABILITY, "availability", f"{AVAILABILITY.share:.1%} end without a server error"),
        _budget(TOKEN, "first token", f"{TOKEN.share:.0%} of chat responses begin in time"),
        _budget(AUDIO, "first audio", f"{AUDIO.share:.0%} of speech responses begin in time"),
        panel(
            "Burn rate",
            "How many times faster than 30 days allow the budget was spent in the last hour.",
            "suffix: ×",
            *(
                Query(f"max ({of(each.record('1h'))}) / {each.budget:g}", each.key.replace("_", " "))
                for each in OBJECTIVES
            ),
            height=5,
            limits=((1, "orange"), (14.4, "red")),
            runbook="error-budget-burn",
        ),
    ),
)
TRAFFIC = Row(
    "Traffic",
    (
        gauge(
            "Requests",
            "Requests for work a second, by protocol.",
            "callboard:requests:rate5m",
            by="protocol",
            unit="reqps",
            stacked=True,
        ),
        gauge(
            "Server errors",
            "Requests a second that ended in a server error, by code.",
            "callboard:failures:rate5m",
            by="code",
            unit="reqps",
            stacked=True,
            runbook="error-budget-burn",
        ),
        panel(
            "Admitted and refused",
            "The decisions of quota as shares of all.",
            "percentunit",
            Query(
                f"{total(DECISIONS, by='decision')} / ignoring (decision) group_left {total(DECISIONS)}", "{{decision}}"
            ),
            stacked=True,
        ),
    ),
)
LATENCY = Row(
    "Latency",
    (
        *recorded_spread(
            "callboard:first_token_bucket:rate5m",
            "First token",
            "From a streamed chat request to its response's first byte, at the edge.",
            limits=((2.5, "red"),),
            runbook="first-token-slow",
        ),
        *recorded_spread(
            "callboard:first_audio_bucket:rate5m",
            "First audio",
            "From a speech request to its response's first byte, at the edge.",
            limits=((2.5, "red"),),
            runbook="first-audio-slow",
        ),
        *recorded_spread(
            "callboard:real_time_factor_bucket:rate5m",
            "Real-time factor",
            "The engine's time for a piece of speech divided by the duration of its audio.",
            "suffix: ×",
            limits=((1, "red"),),
            runbook="speech-slower-than-real-time",
        ),
        panel(
            "Queue wait, p95",
            "From the enqueueing of a job to its delivery to a worker.",
            "s",
            Query(
                f"histogram_quantile(0.95, {total('callboard:queue_wait_bucket:rate5m', by='service, le')})",
                "{{service}}",
            ),
            width=12,
            limits=((30, "red"),),
            runbook="queue-wait-long",
        ),
    ),
)
STATE = Row(
    "State",
    (
        gauge(
            "Processes up",
            "Processes that Prometheus reaches, by service.",
            "callboard:up:sum",
            by="job",
            kind="stat",
            limits=((1, "green"),),
            good_above=True,
            runbook="process-down",
        ),
        gauge(
            "Waiting jobs",
            "Jobs that no worker has received yet, from the bus's exporter.",
            "callboard:jobs_waiting:sum",
            by="stream_name",
            stacked=True,
            runbook="jobs-wait-unserved",
        ),
        gauge(
            "Oldest job",
            "How long the oldest request of each pool has waited for its first output, at the edge.",
            "callboard:oldest_job_seconds:max",
            by="service, pool",
            unit="s",
            limits=((120, "red"),),
            runbook="oldest-job-waits",
        ),
        gauge(
            "Workers",
            "Workers of each pool that have announced themselves to the edges.",
            "callboard:pool_workers:max",
            by="service, pool",
            runbook="pool-without-workers",
        ),
        panel(
            "Alerts",
            "Alerts that fire now.",
            "short",
            Query(total("ALERTS", *FIRING, by="alertname, severity")),
            kind="table",
        ),
    ),
)

SERVICE_LEVEL = Dashboard(
    "service-level",
    "Service level",
    "Are the objectives met, and how much of the error budget is left?",
    (OBJECTIVES_MET, TRAFFIC, LATENCY, STATE),
)

"""The first board: are promises kept, and how much of the error budget is left?"""

from deploy.observability.objectives import AUDIO, AVAILABILITY, BUDGET_WINDOW, OBJECTIVES, TOKEN, Objective
from deploy.observability.panels import Board, Panel, Query, Row, of, recorded_spread

FIRING = ('alertname=~"Callboard.*"', 'alertstate="firing"')


def _budget(objective: Objective, title: str, promise: str) -> Panel:
    return Panel(
        f"Budget left: {title}",
        f"How much of the bad requests that 30 days allow is still unused. Promised: {promise}.",
        "percentunit",
        (Query(f"1 - max ({of(objective.record(BUDGET_WINDOW))}) / {objective.budget:g}", title),),
        "stat",
        4,
        5,
        limits=((0, "orange"), (0.25, "green")),
        good_above=True,
        runbook=objective.runbook,
    )


SERVICE_LEVEL = Board(
    "service-level",
    "Service level",
    "Are promises kept, and how much of the error budget is left?",
    (
        Row(
            "Promises",
            (
                Panel(
                    "Availability, 30 days",
                    "The share of requests for work that did not end in an error of ours.",
                    "percentunit",
                    (Query(f"1 - max ({of(AVAILABILITY.record(BUDGET_WINDOW))})", "availability"),),
                    "stat",
                    4,
                    5,
                    limits=((AVAILABILITY.share, "green"),),
                    good_above=True,
                    runbook=AVAILABILITY.runbook,
                ),
                _budget(AVAILABILITY, "availability", f"{AVAILABILITY.share:.1%} end without an error of ours"),
                _budget(TOKEN, "first token", f"{TOKEN.share:.0%} of chat answers begin in time"),
                _budget(AUDIO, "first audio", f"{AUDIO.share:.0%} of speech answers begin in time"),
                Panel(
                    "Burn rate",
                    "How many times faster than a budget of 30 days allows it was spent in the last hour.",
                    "suffix: ×",
                    tuple(
                        Query(
                            f"max ({of(objective.record('1h'))}) / {objective.budget:g}",
                            objective.key.replace("_", " "),
                        )
                        for objective in OBJECTIVES
                    ),
                    height=5,
                    limits=((1, "orange"), (14.4, "red")),
                    runbook="error-budget-burn",
                ),
            ),
        ),
        Row(
            "Traffic",
            (
                Panel(
                    "Requests",
                    "Requests for work a second, by protocol.",
                    "reqps",
                    (Query(f"sum by (protocol) ({of('callboard:requests:rate5m')})", "{{protocol}}"),),
                    stacked=True,
                ),
                Panel(
                    "Errors of ours",
                    "Requests a second that ended in an error that no client can avoid, by code.",
                    "reqps",
                    (Query(f"sum by (code) ({of('callboard:failures:rate5m')})", "{{code}}"),),
                    stacked=True,
                    runbook="error-budget-burn",
                ),
                Panel(
                    "Admitted and refused",
                    "What quota decided, as a share of all decisions.",
                    "percentunit",
                    (
                        Query(
                            f"sum by (decision) ({of('callboard:decisions:rate5m')})"
                            f" / ignoring (decision) group_left sum ({of('callboard:decisions:rate5m')})",
                            "{{decision}}",
                        ),
                    ),
                    stacked=True,
                ),
            ),
        ),
        Row(
            "How soon",
            (
                *recorded_spread(
                    "callboard:first_token_bucket:rate5m",
                    "First token",
                    "From a streamed chat request to its answer's first byte, at the edge.",
                    limits=((2.5, "red"),),
                    runbook="first-token-slow",
                ),
                *recorded_spread(
                    "callboard:first_audio_bucket:rate5m",
                    "First audio",
                    "From a speech request to its answer's first byte, at the edge.",
                    limits=((2.5, "red"),),
                    runbook="first-audio-slow",
                ),
                *recorded_spread(
                    "callboard:real_time_factor_bucket:rate5m",
                    "Real-time factor",
                    "The engine's time for a piece of speech divided by the length of its sound.",
                    "suffix: ×",
                    limits=((1, "red"),),
                    runbook="speech-slower-than-real-time",
                ),
                Panel(
                    "Queue wait, p95",
                    "From the posting of a job to its arrival at a worker.",
                    "s",
                    (
                        Query(
                            "histogram_quantile(0.95, sum by (service, le) "
                            f"({of('callboard:queue_wait_bucket:rate5m')}))",
                            "{{service}}",
                        ),
                    ),
                    width=12,
                    limits=((30, "red"),),
                    runbook="queue-wait-long",
                ),
            ),
        ),
        Row(
            "State",
            (
                Panel(
                    "Processes up",
                    "Processes that Prometheus reaches, by service.",
                    "short",
                    (Query(f"sum by (job) ({of('callboard:up:sum')})", "{{job}}"),),
                    limits=((1, "green"),),
                    good_above=True,
                    kind="stat",
                    runbook="process-down",
                ),
                Panel(
                    "Jobs that wait",
                    "Jobs that no worker has been given yet, from the bus's exporter.",
                    "short",
                    (Query(f"sum by (stream_name) ({of('callboard:jobs_waiting:sum')})", "{{stream_name}}"),),
                    stacked=True,
                    runbook="jobs-wait-unserved",
                ),
                Panel(
                    "Alerts",
                    "What warns at this moment.",
                    "short",
                    (Query(f"sum by (alertname, severity) ({of('ALERTS', *FIRING)})"),),
                    "table",
                ),
            ),
        ),
    ),
)

"""The panels that every kind of worker has; `metrics` is how the names of its metrics begin."""

from deploy.observability.panels import Panel, Query, Variable, counter, gauge, of, panel, quantile, spread, total

POOL = 'pool=~"$pool"'


def pool_variable(metrics: str) -> Variable:
    """The variable that narrows a dashboard to some pools."""
    return Variable("pool", f"{metrics}_slots_limit")


def jobs(metrics: str) -> tuple[Panel, ...]:
    """How jobs end, how long they wait, and how many run."""
    used, limit = (total(f"{metrics}_slots_{kind}", POOL, by="pool") for kind in ("used", "limit"))
    return (
        counter(
            "Jobs by outcome",
            "Jobs ended a second, by the stop reason or the error's code; *dead* was delivered too often, "
            "*worker_died* ended its workers.",
            f"{metrics}_jobs_total",
            POOL,
            by="outcome",
            stacked=True,
            runbook="jobs-dead",
        ),
        *spread(
            f"{metrics}_queue_wait_seconds",
            "Queue wait",
            "From the enqueueing of a job to its delivery to a worker.",
            POOL,
            limits=((30, "red"),),
            runbook="queue-wait-long",
        ),
        panel(
            "Queue wait by pool, p95",
            "From the enqueueing of a job to its delivery to a worker.",
            "s",
            Query(quantile(0.95, f"{metrics}_queue_wait_seconds", POOL, by="pool"), "{{pool}}"),
            limits=((30, "red"),),
            runbook="queue-wait-long",
        ),
        panel(
            "Slots in use",
            "The share of each pool's slots that run a job; near 1, new jobs wait.",
            "percentunit",
            Query(f"{used} / {limit}", "{{pool}}"),
            kind="stat",
            width=4,
            limits=((0.8, "orange"), (1, "red")),
            runbook="queue-wait-long",
        ),
        panel(
            "Slots",
            "Running jobs and the most that may run, over the workers of each pool.",
            "short",
            Query(used, "{{pool}} used"),
            Query(limit, "{{pool}} limit"),
        ),
        counter(
            "Resumed jobs",
            "Jobs continued after their worker was lost, by where the prior attempt's output was found.",
            f"{metrics}_resumed_total",
            POOL,
            by="source",
            runbook="jobs-redelivered",
        ),
        counter(
            "Jobs of dead workers",
            "Jobs taken over from a worker that died, by what ended it: *killed* from outside or by lack of memory, or "
            "*stuck*, which is its own end because its engine neither worked nor stopped.",
            f"{metrics}_worker_deaths_total",
            POOL,
            by="reason",
            runbook="worker-died",
        ),
        counter(
            "Jobs that prefer a worker",
            "Jobs for which one worker is the quickest, by where they ran: *here* where they were delivered, "
            "*handed_over* to that worker, or kept because it was *full* or *gone*.",
            f"{metrics}_preferred_jobs_total",
            POOL,
            by="outcome",
        ),
        counter(
            "Hold extensions",
            "Extensions of a hold requested during the work: *refused* by a limit, *unheld* where the site lets work "
            "continue without quota, *failed* where quota did not answer.",
            f"{metrics}_hold_extensions_total",
            POOL,
            by="outcome",
            runbook="quota-unreachable",
        ),
    )


def engines(metrics: str, errors_by: str) -> tuple[Panel, ...]:
    """Whether engines answer, how they fail, and how fast they stop."""
    return (
        gauge(
            "Engines ready",
            "Workers whose engine answers, by pool and backend.",
            f"{metrics}_engine_ready",
            POOL,
            by="pool, backend",
            kind="stat",
            width=4,
            limits=((1, "green"),),
            good_above=True,
            runbook="engine-down",
        ),
        counter(
            "Engine errors",
            f"Failures of the engine, by backend and {errors_by}, including those that a retry fixed.",
            f"{metrics}_engine_errors_total",
            POOL,
            by=f"backend, {errors_by}",
            width=10,
            runbook="engine-down",
        ),
        counter(
            "Engine retries",
            "Retried calls of the engine.",
            f"{metrics}_engine_retries_total",
            POOL,
            by="backend",
            width=10,
        ),
        *spread(
            f"{metrics}_cancel_seconds",
            "Cancel latency",
            "From the cancellation of a job until its engine has stopped; 0.25 s is promised.",
            POOL,
            limits=((0.25, "red"),),
        ),
        panel(
            "Load time",
            "The time that each worker's engine took to load and warm up.",
            "s",
            Query(of(f"{metrics}_engine_load_seconds", POOL), "{{instance}} {{pool}} {{backend}}"),
            kind="stat",
            width=4,
        ),
        panel(
            "Memory",
            "The share of each worker's memory limit that is allocated or reserved; at 1 the worker ends.",
            "percentunit",
            Query(
                f"{of(f'{metrics}_memory_allocated_bytes', POOL)} / {of(f'{metrics}_memory_limit_bytes', POOL)}",
                "{{instance}} {{pool}}",
            ),
            width=12,
            limits=((0.9, "orange"), (1, "red")),
            runbook="process-down",
        ),
    )

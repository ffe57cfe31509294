"""The metrics that every kind of worker has, under the names of its service."""

from collections.abc import Iterable

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from callboard_kit.memory_limit import limit_bytes, used_bytes

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
CANCEL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)


class WorkerMetrics:
    """The metrics of one service, whose names begin with `prefix`.

    `resumed_from` is everything that can tell how far an earlier attempt came. Rare counts are shown as 0 from the
    start, so that the first event is seen as an increase.
    """

    def __init__(self, prefix: str, resumed_from: Iterable[str], registry: CollectorRegistry = REGISTRY) -> None:
        self.queue_wait = Histogram(
            f"{prefix}_queue_wait_seconds",
            "From the posting of a job to its arrival at a worker.",
            buckets=SECONDS,
            registry=registry,
        )
        self.jobs = Counter(
            f"{prefix}_jobs_total", "Jobs by how they ended; an error by its code.", ["outcome"], registry=registry
        )
        self.slots_used = Gauge(f"{prefix}_slots_used", "Jobs that run at this moment.", registry=registry)
        self.slots_limit = Gauge(f"{prefix}_slots_limit", "Jobs that may run at once.", registry=registry)
        self.engine_ready = Gauge(
            f"{prefix}_engine_ready", "1 while the engine can take work, else 0.", ["backend"], registry=registry
        )
        self.engine_load = Gauge(
            f"{prefix}_engine_load_seconds",
            "How long the engine took to load and warm up.",
            ["backend"],
            registry=registry,
        )
        self.engine_retries = Counter(
            f"{prefix}_engine_retries_total", "Repeated calls of the engine.", ["backend"], registry=registry
        )
        self.resumed = Counter(
            f"{prefix}_resumed_total",
            "Jobs taken over from another attempt, by what told how far it had come.",
            ["source"],
            registry=registry,
        )
        self.hold_extensions = Counter(
            f"{prefix}_hold_extensions_total",
            "Further holds asked for during the work, by what came of it: *granted*, *refused* by a limit, *unheld* "
            "where the site lets work go on without an answer, or *failed*.",
            ["outcome"],
            registry=registry,
        )
        self.cancel_latency = Histogram(
            f"{prefix}_cancel_seconds",
            "From the order to stop a job to its engine's standing still.",
            buckets=CANCEL_SECONDS,
            registry=registry,
        )

        self.memory_limit = Gauge(
            f"{prefix}_memory_limit_bytes",
            "The memory that the process may allocate, beside mapped files and a GPU's memory.",
            registry=registry,
        )
        self.memory_allocated = Gauge(
            f"{prefix}_memory_allocated_bytes",
            "What counts against the memory limit: allocated and reserved private memory.",
            registry=registry,
        )
        self.worker_deaths = Counter(
            f"{prefix}_worker_deaths_total",
            "Jobs taken over from a worker that died, by what ended it.",
            ["reason"],
            registry=registry,
        )

        self.preferred_jobs = Counter(
            f"{prefix}_preferred_jobs_total",
            "Jobs that prefer a worker, by where they went: *here*, *handed_over* to that worker, or kept because it "
            "was *full* or *gone*.",
            ["outcome"],
            registry=registry,
        )

        self._ended = {outcome: self.jobs.labels(outcome) for outcome in ("dead", "worker_died")}
        """The counts of ended jobs that were shown before; outcomes are a fixed set of words."""
        for outcome in ("here", "handed_over", "full", "gone"):
            self.preferred_jobs.labels(outcome)
        for reason in ("killed", "stuck"):
            self.worker_deaths.labels(reason)
        for outcome in ("granted", "refused", "unheld", "failed"):
            self.hold_extensions.labels(outcome)
        for source in resumed_from:
            self.resumed.labels(source)

    def count_job(self, outcome: str) -> None:
        """Counts a job that ended."""
        count = self._ended.get(outcome)
        if count is None:
            count = self._ended[outcome] = self.jobs.labels(outcome)
        count.inc()

    def begin(self, backend: str, slots: int) -> None:
        """Shows what is known of a worker before its first job."""
        self.memory_limit.set(limit_bytes())
        self.memory_allocated.set_function(used_bytes)
        self.slots_limit.set(slots)
        self.engine_retries.labels(backend)

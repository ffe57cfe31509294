"""The metrics that the runtime itself counts; each service hands in its own, under its own names."""

from dataclasses import dataclass

from prometheus_client import Counter, Gauge, Histogram


@dataclass(frozen=True, slots=True)
class WorkerMetrics:
    """The metrics of one service; `jobs` has the label `outcome`, `resumed` `source`, those of the engine `backend`."""

    queue_wait: Histogram
    jobs: Counter
    slots_used: Gauge
    slots_limit: Gauge
    engine_ready: Gauge
    engine_load: Gauge
    resumed: Counter
    cancel_latency: Histogram

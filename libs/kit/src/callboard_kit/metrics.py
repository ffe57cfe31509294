"""What every process tells of itself."""

from prometheus_client import Gauge, Histogram

EVENT_LOOP_LAG = Histogram(
    "callboard_event_loop_lag_seconds",
    "How late the event loop wakes a task that sleeps.",
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
CLOCK_SKEW = Gauge(
    "callboard_clock_skew_seconds", "How far the machine's clock is ahead of the bus's, or below 0 behind it."
)
STORE_SYNC_SECONDS = Histogram(
    "callboard_store_sync_seconds",
    "How long the bus's store took to be brought to the disk, where the processes of a site do that themselves.",
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)

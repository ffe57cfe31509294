"""All figures of a worker that writes down speech."""

from prometheus_client import Counter, Histogram

from callboard_worker.metrics import WorkerMetrics

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30, 60, 120, 300)
_LENGTHS = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200)
REFUSALS = ("silent_film", "unreadable", "too_long")

TIME_TO_FIRST_SEGMENT = Histogram(
    "callboard_stt_time_to_first_segment_seconds",
    "From a job's arrival at the worker to its first text.",
    buckets=_SECONDS,
)
JOB_DURATION = Histogram(
    "callboard_stt_job_duration_seconds",
    "From a job's arrival at the worker to the end of its text.",
    buckets=_SECONDS,
)
DECODE_DURATION = Histogram(
    "callboard_stt_decode_seconds", "How long it took to decode a file that can be read.", buckets=_SECONDS
)
REAL_TIME_FACTOR = Histogram(
    "callboard_stt_real_time_factor_ratio",
    "The engine's time for a whole sound divided by the length of the sound.",
    buckets=(0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 5),
)
SOUND_DURATION = Histogram("callboard_stt_sound_seconds", "The length of a request's sound.", buckets=_LENGTHS)
HEARD = Counter("callboard_stt_heard_seconds_total", "Sound that was written down, as it is charged.")
WORDS = Counter("callboard_stt_words_total", "Words that were written down.")
SPEECHLESS = Counter("callboard_stt_speechless_total", "Sounds in which nobody spoke.")
UNREADABLE = Counter(
    "callboard_stt_unreadable_total",
    "Files that were refused: a *silent_film* without sound, *unreadable*, or *too_long*.",
    ["reason"],
)
ENGINE_ERRORS = Counter(
    "callboard_stt_engine_errors_total", "Failures of the engine by their kind.", ["backend", "kind"]
)
for _reason in REFUSALS:
    UNREADABLE.labels(_reason)

WORKER = WorkerMetrics("callboard_stt", ("frames", "result", "edge", "none"))

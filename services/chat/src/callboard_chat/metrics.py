"""All figures of a chat worker, under OpenTelemetry's names for generative models where one exists."""

from prometheus_client import Counter, Gauge, Histogram

from callboard_worker.metrics import WorkerMetrics

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_PER_TOKEN_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.4, 1, 2.5)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576)

TIME_TO_FIRST_TOKEN = Histogram(
    "gen_ai_server_time_to_first_token_seconds",
    "From a job's arrival at the worker to the first piece of its reply.",
    ["gen_ai_request_model"],
    buckets=_SECONDS,
)
TIME_PER_OUTPUT_TOKEN = Histogram(
    "gen_ai_server_time_per_output_token_seconds",
    "Mean time between the tokens of a reply after its first.",
    ["gen_ai_request_model"],
    buckets=_PER_TOKEN_SECONDS,
)
REQUEST_DURATION = Histogram(
    "gen_ai_server_request_duration_seconds",
    "From a job's arrival at the worker to the end of its reply.",
    ["gen_ai_request_model"],
    buckets=_SECONDS,
)
TOKEN_USAGE = Histogram(
    "gen_ai_client_token_usage",
    "Tokens of a reply, as charged.",
    ["gen_ai_request_model", "gen_ai_token_type"],
    buckets=_TOKENS,
)
QUEUE_WAIT = Histogram(
    "callboard_chat_queue_wait_seconds", "From the posting of a job to its arrival at a worker.", buckets=_SECONDS
)
JOBS = Counter(
    "callboard_chat_jobs_total",
    "Jobs by how they ended; an error by its code.",
    ["outcome"],
)
SLOTS_USED = Gauge("callboard_chat_slots_used", "Jobs that run at this moment.")
SLOTS_LIMIT = Gauge("callboard_chat_slots_limit", "Jobs that may run at once.")
FRAMES = Counter("callboard_chat_frames_total", "Frames sent to edges.")
ENGINE_ERRORS = Counter("callboard_chat_engine_errors_total", "Failures of the engine by code.", ["backend", "code"])
ENGINE_RETRIES = Counter("callboard_chat_engine_retries_total", "Repeated calls of the engine.", ["backend"])
ENGINE_READY = Gauge("callboard_chat_engine_ready", "1 while the engine answers, else 0.", ["backend"])
ENGINE_LOAD = Gauge("callboard_chat_engine_load_seconds", "How long the engine took to load.", ["backend"])
RESUMED = Counter(
    "callboard_chat_resumed_total",
    "Jobs taken over from another attempt, by what told how far it had come.",
    ["source"],
)
OVER_HOLD = Counter(
    "callboard_chat_over_hold_total",
    "Replies that used more than was held for them, their prompt being counted only at the end; what is over is not "
    "charged.",
)
CANCEL_LATENCY = Histogram(
    "callboard_chat_cancel_seconds",
    "From the order to stop a reply to the closing of the engine's stream.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5),
)


WORKER = WorkerMetrics(
    queue_wait=QUEUE_WAIT,
    jobs=JOBS,
    slots_used=SLOTS_USED,
    slots_limit=SLOTS_LIMIT,
    engine_ready=ENGINE_READY,
    engine_load=ENGINE_LOAD,
    resumed=RESUMED,
    cancel_latency=CANCEL_LATENCY,
)


class ModelFigures:
    """The histograms of one model, looked up once instead of for every reply."""

    def __init__(self, model: str) -> None:
        self.first_token = TIME_TO_FIRST_TOKEN.labels(model)
        self.per_token = TIME_PER_OUTPUT_TOKEN.labels(model)
        self.duration = REQUEST_DURATION.labels(model)
        self.input_tokens = TOKEN_USAGE.labels(model, "input")
        self.output_tokens = TOKEN_USAGE.labels(model, "output")


def begin(backend: str) -> None:
    """Shows the rare counts as 0 from the start, so that the first event is seen as an increase."""
    JOBS.labels("dead")
    for source in ("frames", "result", "edge", "none"):
        RESUMED.labels(source)
    ENGINE_RETRIES.labels(backend)

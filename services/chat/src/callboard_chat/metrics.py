"""All figures of a chat worker, under OpenTelemetry's names for generative models where one exists."""

from typing import Protocol

from prometheus_client import Counter, Gauge, Histogram

from callboard_worker.metrics import SECONDS, WorkerMetrics

_PER_TOKEN_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.4, 1, 2.5)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576)

TIME_TO_FIRST_TOKEN = Histogram(
    "gen_ai_server_time_to_first_token_seconds",
    "From a job's arrival at the worker to the first piece of its reply.",
    ["gen_ai_request_model"],
    buckets=SECONDS,
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
    buckets=SECONDS,
)
TOKEN_USAGE = Histogram(
    "gen_ai_client_token_usage",
    "Tokens of a request, as charged.",
    ["gen_ai_request_model", "gen_ai_token_type"],
    buckets=_TOKENS,
)
CACHED_PROMPT_TOKENS = Counter(
    "callboard_chat_cached_prompt_tokens_total",
    "Tokens of prompts that the engine had in its cache.",
    ["gen_ai_request_model"],
)
OPERATION_DURATION = Histogram(
    "gen_ai_client_operation_duration_seconds",
    "From an embedding job's arrival at the worker to its last vector.",
    ["gen_ai_request_model", "gen_ai_operation_name"],
    buckets=SECONDS,
)
EMBEDDED_INPUTS = Counter("callboard_chat_embedded_inputs_total", "Texts embedded.", ["gen_ai_request_model"])
FRAMES = Counter("callboard_chat_frames_total", "Frames sent to edges.")
ENGINE_ERRORS = Counter("callboard_chat_engine_errors_total", "Failures of the engine by code.", ["backend", "code"])
OVER_HOLD = Counter(
    "callboard_chat_over_hold_total",
    "Replies that used more than was held for them, their prompt being counted only at the end; what is over is not "
    "charged.",
)
VOLUNTEER_POPS = Counter(
    "callboard_chat_volunteer_pops_total", "Pops of volunteers, by whether they got a job.", ["result"]
)
VOLUNTEER_SUBMITS = Counter(
    "callboard_chat_volunteer_submits_total", "Texts that volunteers submitted, by what became of them.", ["outcome"]
)
VOLUNTEER_JOBS = Gauge("callboard_chat_volunteer_jobs", "Jobs for volunteers, by state.", ["state"])
VOLUNTEERS_PARKED = Gauge("callboard_chat_volunteers_parked", "Volunteers that wait for a job.")
SHARED_JOBS = Counter(
    "callboard_chat_shared_jobs_total",
    "Jobs that the site's own engine or volunteers could write, by who began or finished them.",
    ["source"],
)
WORKER = WorkerMetrics("callboard_chat", ("frames", "result", "edge", "none"))


class ModelFigures:
    """The histograms of one model, looked up once instead of for every reply."""

    def __init__(self, model: str) -> None:
        self.first_token = TIME_TO_FIRST_TOKEN.labels(model)
        self.per_token = TIME_PER_OUTPUT_TOKEN.labels(model)
        self.duration = REQUEST_DURATION.labels(model)
        self.input_tokens = TOKEN_USAGE.labels(model, "input")
        self.output_tokens = TOKEN_USAGE.labels(model, "output")
        self.cached_tokens = CACHED_PROMPT_TOKENS.labels(model)


class EmbeddingFigures:
    """The same for embedding jobs."""

    def __init__(self, model: str) -> None:
        self.duration = OPERATION_DURATION.labels(model, "embeddings")
        self.inputs = EMBEDDED_INPUTS.labels(model)
        self.input_tokens = TOKEN_USAGE.labels(model, "input")


class PendingJobs(Protocol):
    """What is counted of the jobs for volunteers."""

    @property
    def waiting(self) -> int:
        """How many jobs wait for a volunteer."""
        ...

    @property
    def handed_out(self) -> int:
        """How many jobs volunteers have in work."""
        ...

    @property
    def parked(self) -> int:
        """How many volunteers wait for a job."""
        ...


def watch_volunteers(pending: PendingJobs) -> None:
    """Has the gauges of volunteers show these jobs."""
    VOLUNTEER_JOBS.labels("waiting").set_function(lambda: pending.waiting)
    VOLUNTEER_JOBS.labels("handed_out").set_function(lambda: pending.handed_out)
    VOLUNTEERS_PARKED.set_function(lambda: pending.parked)


def watch_shared() -> None:
    """Has the counts of shared jobs begin with 0."""
    for source in ("own", "volunteers"):
        SHARED_JOBS.labels(source)

"""What requesters send and read."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, RootModel

from callboard_edge.http.bodies import AnswerBody, Body
from callboard_edge.http.lenient import Flag, LenientBody
from callboard_edge.http.local_bodies import LocalSamplingBody

MAX_NAMES = 256
MAX_SOFT_PROMPT = 200
Ratio = Annotated[float | None, Field(ge=0, le=1)]


class Params(LocalSamplingBody):
    """How the text is written.

    Other sampling fields of KoboldCpp are taken as its own clients write them. The `frmt…` switches are ignored.
    """

    n: Annotated[int | None, Field(ge=1, le=20)] = None
    max_length: Annotated[int | None, Field(ge=16, le=4096)] = None
    max_context_length: Annotated[int | None, Field(ge=80, le=1_048_576)] = None
    temperature: Annotated[float | None, Field(ge=0, le=5)] = None
    top_p: Annotated[float | None, Field(ge=0.001, le=1)] = None
    top_k: Annotated[int | None, Field(ge=0, le=200)] = None
    top_a: Ratio = None
    tfs: Ratio = None
    typical: Ratio = None
    min_p: Ratio = None
    rep_pen: Annotated[float | None, Field(ge=1, le=3)] = None
    rep_pen_range: Annotated[int | None, Field(ge=0, le=4096)] = None
    rep_pen_slope: Annotated[float | None, Field(ge=0, le=10)] = None
    smoothing_factor: Annotated[float | None, Field(ge=0, le=10)] = None
    dynatemp_range: Annotated[float | None, Field(ge=0, le=5)] = None
    dynatemp_exponent: Annotated[float | None, Field(ge=0, le=5)] = None
    singleline: Flag = None
    frmtadsnsp: Flag = None
    frmtrmblln: Flag = None
    frmtrmspch: Flag = None
    frmttriminc: Flag = None


class AsyncBody(LenientBody):
    """A request for text that is fetched later."""

    prompt: str | None = None
    params: Params | None = None
    models: Annotated[list[str] | None, Field(max_length=MAX_NAMES)] = None
    workers: Annotated[list[str] | None, Field(max_length=MAX_NAMES)] = None
    worker_blacklist: Flag = None
    trusted_workers: Flag = None
    validated_backends: Flag = None
    slow_workers: Flag = None
    extra_slow_workers: Flag = None
    softprompt: Annotated[str | None, Field(max_length=MAX_SOFT_PROMPT)] = None
    dry_run: Flag = None
    allow_downgrade: Flag = None
    disable_batching: Flag = None
    nsfw: Flag = None
    proxied_account: str | None = None
    webhook: str | None = None
    style: str | None = None
    extra_source_images: list[Any] | None = None


class Warned(AnswerBody):
    """Something that a requester should know."""

    code: str
    message: str


class AsyncAnswer(AnswerBody):
    """The id to fetch the text by; `message` says that no worker is there at the moment."""

    id: str
    kudos: float
    message: str | None = None
    warnings: list[Warned] | None = None


class KudosAnswer(AnswerBody):
    """What the request would cost."""

    kudos: float


class Generation(AnswerBody):
    """A text."""

    text: str
    seed: int
    worker_id: str
    worker_name: str
    model: str
    state: Literal["ok", "censored", "csam"]
    gen_metadata: list[dict[str, Any]]


class StatusAnswer(AnswerBody):
    """A request as it stands; `wait_time` is in seconds."""

    finished: int
    processing: int
    restarted: int
    waiting: int
    done: bool
    faulted: bool
    wait_time: int
    queue_position: int
    kudos: float
    is_possible: bool
    generations: list[Generation]


class TypeQuery(Body):
    """Which kind of models or workers is asked for."""

    type: str | None = None


class ModelsQuery(LenientBody):
    """Which models are asked for: by how many workers they have, and whether the site's configuration names them."""

    type: str | None = None
    min_count: Annotated[int | None, Field(ge=0)] = None
    max_count: Annotated[int | None, Field(ge=0)] = None
    model_state: Literal["known", "custom", "all"] = "all"


def _no_truth_value(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a truth value is no amount")  # noqa: TRY004 - pydantic names the field at fault by it
    return value


class TransferBody(LenientBody):
    """Kudos for another user."""

    username: str
    amount: Annotated[int, BeforeValidator(_no_truth_value), Field(ge=1, le=10**12)]


class TransferAnswer(AnswerBody):
    """What was given."""

    transferred: float


class UserAnswer(AnswerBody):
    """A user; of others than the caller only the name is told."""

    username: str
    id: int
    kudos: float | None = None
    worker_count: int
    worker_ids: list[str]
    trusted: bool
    flagged: bool
    moderator: bool


class SharedKeyBody(LenientBody):
    """A key for several people."""

    name: str | None = None


class ModelAnswer(AnswerBody):
    """A model, and how long those wait who ask for it now; `eta` is in seconds."""

    name: str
    count: int
    performance: float
    queued: float
    jobs: float
    eta: int
    type: Literal["text"]


class ModelsAnswer(RootModel[tuple[ModelAnswer, ...]]):
    """A list of models."""


class PerformanceAnswer(AnswerBody):
    """What waits, and what was written lately."""

    queued_requests: int
    queued_text_requests: int
    worker_count: int
    text_worker_count: int
    thread_count: int
    text_thread_count: int
    queued_megapixelsteps: float
    past_minute_megapixelsteps: float
    queued_forms: float
    queued_tokens: float
    past_minute_tokens: float
    interrogator_count: int
    interrogator_thread_count: int


class HeartbeatAnswer(AnswerBody):
    """A sign of life."""

    message: str
    version: str

"""What workers send and read, and how they are shown."""

from typing import Annotated, Any, Literal

from pydantic import Field, RootModel

from callboard_contracts.volunteers import MAX_GEN_METADATA
from callboard_edge.http.bodies import AnswerBody
from callboard_edge.http.lenient import Flag, LenientBody

MAX_NAMES = 256
MAX_USERS = 1000
MAX_WORDS = 100
MAX_LENGTH = 1_000_000
MAX_CONTEXT_LENGTH = 100_000_000
MAX_REMARK = 255


class PopBody(LenientBody):
    """A volunteer asks for a job."""

    name: Annotated[str | None, Field(max_length=1000)] = None
    models: Annotated[list[str] | None, Field(max_length=MAX_NAMES)] = None
    max_length: Annotated[int | None, Field(ge=1, le=MAX_LENGTH)] = None
    max_context_length: Annotated[int | None, Field(ge=1, le=MAX_CONTEXT_LENGTH)] = None
    softprompts: Annotated[list[str] | None, Field(max_length=MAX_NAMES)] = None
    priority_usernames: Annotated[list[str] | None, Field(max_length=MAX_USERS)] = None
    blacklist: Annotated[list[str] | None, Field(max_length=MAX_WORDS)] = None
    bridge_agent: Annotated[str | None, Field(max_length=1000)] = None
    threads: Annotated[int | None, Field(ge=1, le=50)] = None
    amount: Annotated[int | None, Field(ge=1, le=20)] = None
    nsfw: Flag = None
    require_upfront_kudos: Flag = None
    extra_slow_worker: Flag = None


class PopAnswer(AnswerBody):
    """A job, or null and why there is none; `ttl` is the time for it in seconds."""

    id: str | None
    ids: list[str]
    payload: dict[str, Any]
    model: str | None
    ttl: int | None
    softprompt: str | None
    skipped: dict[str, int]
    messages: list[Any]
    extra_source_images: list[Any] | None


class RemarkBody(LenientBody):
    """A remark on a text, such as that something was left out of it."""

    type: Annotated[str, Field(min_length=1, max_length=MAX_REMARK)]
    value: Annotated[str, Field(min_length=1, max_length=MAX_REMARK)]
    ref: Annotated[str | None, Field(max_length=MAX_REMARK)] = None


class SubmitBody(LenientBody):
    """The text of a job; null is a failure. One that is `censored` or `csam` is withheld, which is none."""

    id: str
    generation: str | None = None
    state: Literal["ok", "censored", "faulted", "csam"] | None = None
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None
    gen_metadata: Annotated[list[RemarkBody] | None, Field(max_length=MAX_GEN_METADATA)] = None


class SubmitAnswer(AnswerBody):
    """What the text has earned, in kudos."""

    reward: float


class ProgressBody(LenientBody):
    """What a volunteer has written so far: the whole `text`, or the `delta` that follows what it told before."""

    id: str
    text: str | None = None
    delta: str | None = None


class ProgressAnswer(AnswerBody):
    """That the piece was taken, and goes to whoever reads the reply."""

    accepted: bool


class DeletedWorkerAnswer(AnswerBody):
    """The worker that is gone."""

    deleted_id: str
    deleted_name: str


class ChangedWorkerAnswer(AnswerBody):
    """What was changed."""

    maintenance: bool | None = None
    info: str | None = None


class WorkerBody(LenientBody):
    """What is to change of a worker."""

    maintenance: Flag = None
    maintenance_msg: str | None = None
    info: str | None = None
    name: str | None = None


class Team(AnswerBody):
    """A team of workers."""

    name: str | None
    id: str | None


class WorkerMessage(AnswerBody):
    """Something that a worker's owner should know; `origin` is who says it."""

    id: str
    worker_id: str
    worker_name: str
    message: str
    origin: str


class WorkerMessagesAnswer(RootModel[tuple[WorkerMessage, ...]]):
    """What an owner should know of workers."""


class KudosDetails(AnswerBody):
    """What a worker has earned, and for what."""

    generated: float
    uptime: int


class WorkerAnswer(AnswerBody):
    """A worker; one of the site's pools is shown as one."""

    type: Literal["text"]
    name: str
    id: str
    online: bool
    requests_fulfilled: int
    uncompleted_jobs: int
    kudos_rewards: float
    kudos_details: KudosDetails
    performance: str
    threads: int
    uptime: int
    maintenance_mode: bool
    paused: bool
    info: str | None
    nsfw: bool
    trusted: bool
    flagged: bool
    models: list[str]
    team: Team
    bridge_agent: str
    max_length: int
    max_context_length: int


class WorkersAnswer(RootModel[tuple[WorkerAnswer, ...]]):
    """A list of workers."""

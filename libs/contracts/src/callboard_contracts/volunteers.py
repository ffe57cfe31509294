"""Volunteers: workers elsewhere that fetch jobs over HTTP, as edges and chat workers speak of them.

A volunteer pops a job and submits its text. Edges know each by a record in the bucket VOLUNTEERS; chat workers whose
pool has the backend `volunteers` hold the jobs. Nothing that goes to a volunteer says who asks.
"""

import hashlib
import unicodedata
import uuid
from typing import Any, Literal

from pydantic import Field

from callboard_contracts.model import Message
from callboard_contracts.subjects import token

ONLINE_S = 300.0
"""A volunteer that has asked for work within this time counts as there."""
RECORD_LIFE_S = 90 * 86_400
"""A volunteer that has not asked for work for so long is forgotten, and its name is free."""
SLOW_TOKENS_PER_S = 3.0
"""A volunteer that has written slower than this is slow."""
MAX_DROPS_PER_HOUR = 20
"""A volunteer that drops more jobs is set into maintenance."""
MAX_SUSPICIONS_PER_HOUR = 20
"""A volunteer whose texts look false more often is paused, until an operator lets it go on."""
MAX_OFFERED_MODELS = 32
"""How many models one volunteer may offer at once."""
MAX_POOL_MODELS = 256
"""How many models of volunteers a pool offers beside those that are configured; accounts share them evenly."""
MAX_SOFT_PROMPTS = 32
"""How many soft prompts one volunteer may have."""
MAX_GEN_METADATA = 50
"""How many remarks a volunteer may make of one text."""
MAX_MODEL_NAME = 200
MAX_TEXT_BYTES = 256 * 1024
"""The longest text of one job."""
MAX_POP_WAIT_S = 25.0
"""How long one chat worker holds a volunteer that waits for a job."""
ID_MARK = 8
"""So many hexadecimal digits at the start of a job's id are those of the chat worker that handed it out."""
HANDOUT_MARK = 4
"""So many hexadecimal digits at the end of a job's id are those of the volunteer that got it."""
_NAMESPACE = uuid.UUID("0a0a2d43-4f0e-5c8e-9a57-3b8f6ad0c2b1")

Suspicion = Literal["speed", "empty", "repeated", "contradictory"]
"""Why a text looks false: written too fast, nothing, the same as the ones before, or not what was streamed."""


Formatting = Literal["singleline", "frmtadsnsp", "frmtrmblln", "frmtrmspch", "frmttriminc", "use_default_badwordsids"]
"""The Horde's switches for how a text is tidied up, which volunteers' engines know."""
TextState = Literal["ok", "censored", "csam"]
"""Whether a volunteer gives its text, or withholds it since it may be none that it wants to have written."""


class VolunteerTerms(Message):
    """What a requester asks of volunteers; left out, any may write the text.

    `models` may write it beside the model of the request, `any_model` says that every model may. With `excludes`, the
    `workers` are those that may not. `kudos`, in thousandths, are the requester's, which are served first. Where the
    pool has an engine of its own, `own_engine` says whether that may write the text, or must. With
    `disable_batching` each text of a request is popped alone. `softprompt` is one that the volunteer must have, and
    `formatting` are the switches that are on.
    """

    models: tuple[str, ...] = ()
    any_model: bool = False
    workers: tuple[str, ...] = ()
    excludes: bool = False
    trusted_only: bool = False
    validated_only: bool = False
    slow_workers: bool = True
    extra_slow_workers: bool = False
    nsfw: bool = True
    kudos: int = Field(default=0, ge=0)
    own_engine: Literal["may", "must", "may_not"] = "may"
    disable_batching: bool = False
    softprompt: str | None = None
    formatting: tuple[Formatting, ...] = ()


class GenMetadata(Message):
    """A remark of a volunteer's program on a text, such as that something was left out."""

    type: str
    value: str
    ref: str | None = None


class TextNotes(Message):
    """What a volunteer says of a text that it hands in; one that it withholds is no failure of it."""

    state: TextState = "ok"
    seed: int = 0
    gen_metadata: tuple[GenMetadata, ...] = Field(default=(), max_length=MAX_GEN_METADATA)


class ServedBy(Message):
    """The volunteer that wrote a text; `account` is its owner's, and never leaves the site.

    `reward` is what it earns, in thousandths of a kudos; `notes` is what it says of the text.
    """

    worker_id: str
    worker_name: str
    model: str
    account: str
    reward: int = Field(default=0, ge=0)
    notes: TextNotes = TextNotes()


class VolunteerRecord(Message):
    """What is known of a volunteer; times are in Unix seconds.

    `reward` is what it has earned with texts and `uptime_reward` for being there, in thousandths of a kudos. Its owner
    sets it into `maintenance`, as too many drops do; an operator or a rule has it `paused`. `drops` and
    `suspicions` are the times of those of the last hour.
    """

    version: Literal[1] = 1
    id: str
    name: str
    account: str
    models: tuple[str, ...] = ()
    max_length: int = 80
    max_context_length: int = 1024
    threads: int = 1
    nsfw: bool = True
    extra_slow: bool = False
    needs_kudos: bool = False
    softprompts: tuple[str, ...] = ()
    bridge_agent: str = "unknown:0:unknown"
    info: str | None = None
    maintenance: bool = False
    maintenance_message: str | None = None
    paused: bool = False
    trusted: bool = False
    created_at: float
    seen_at: float
    uptime_s: float = Field(default=0.0, ge=0)
    fulfilled: int = Field(default=0, ge=0)
    dropped: int = Field(default=0, ge=0)
    tokens: int = Field(default=0, ge=0)
    seconds: float = Field(default=0.0, ge=0)
    reward: int = Field(default=0, ge=0)
    uptime_reward: int = Field(default=0, ge=0)
    drops: tuple[float, ...] = ()
    suspicions: tuple[float, ...] = ()
    suspected: dict[str, int] = Field(default_factory=dict)

    @property
    def tokens_per_s(self) -> float | None:
        """How fast it has written; None until its first text."""
        return self.tokens / self.seconds if self.tokens and self.seconds > 0 else None

    @property
    def is_slow(self) -> bool:
        """Whether it has written slowly; one without a text counts as fast."""
        speed = self.tokens_per_s
        return speed is not None and speed < SLOW_TOKENS_PER_S

    def is_online(self, now: float) -> bool:
        """Whether it has lately asked for work."""
        return now - self.seen_at < ONLINE_S

    def offer(self, *, validated: bool) -> "VolunteerOffer":
        """What it can do as far as the record tells; `validated` says whether its program is in the site's list."""
        return VolunteerOffer(
            worker_id=self.id,
            worker_name=self.name,
            account=self.account,
            models=self.models,
            max_length=self.max_length,
            max_context_length=self.max_context_length,
            nsfw=self.nsfw,
            trusted=self.trusted,
            validated=validated,
            slow=self.is_slow,
            extra_slow=self.extra_slow,
            needs_kudos=self.needs_kudos,
            softprompts=self.softprompts,
            own_only=self.maintenance,
        )


class VolunteerOffer(Message):
    """What a volunteer can do now, as one pop says; `priority` are the accounts whose jobs it takes first.

    With `own_only` it gets no jobs but those of its owner, and those of `priority`.
    """

    worker_id: str
    worker_name: str
    account: str
    models: tuple[str, ...]
    max_length: int = Field(ge=1)
    max_context_length: int = Field(ge=1)
    nsfw: bool = True
    trusted: bool = False
    validated: bool = False
    slow: bool = False
    extra_slow: bool = False
    needs_kudos: bool = False
    softprompts: tuple[str, ...] = ()
    blacklist: tuple[str, ...] = ()
    priority: tuple[str, ...] = ()
    own_only: bool = False


class PopRequest(Message):
    """A volunteer asks a chat worker for jobs; `ticket` names the question, so that it can be withdrawn."""

    ticket: str
    offer: VolunteerOffer
    amount: int = Field(default=1, ge=1, le=20)
    wait_s: float = Field(default=0.0, ge=0, le=MAX_POP_WAIT_S)


class HandedJob(Message):
    """A job as a volunteer gets it; `payload` is the Horde's. `ttl_s` is never longer than the job itself has."""

    id: str
    model: str
    payload: dict[str, Any]
    ttl_s: float
    softprompt: str | None = None


class PopReply(Message):
    """The jobs for a volunteer; without any, `skipped` counts those that it could not take, by reason.

    `dropped` is how many jobs of this volunteer ran out of time since its last pop here.
    """

    jobs: tuple[HandedJob, ...] = ()
    skipped: dict[str, int] = Field(default_factory=dict)
    dropped: int = 0


class WithdrawPop(Message):
    """A volunteer left before it got the answer to its pop; what was handed out by it goes back."""

    ticket: str


class SubmitRequest(Message):
    """A volunteer of an account submits the text of a job, or None where it failed.

    `worker_id` and `worker_name` are the account's volunteer that the job's id names, for a job that another chat
    worker handed out before it was lost; `validated` says that its program earns the whole reward. `notes` is what it
    says of the text.
    """

    id: str
    account: str
    text: str | None = None
    worker_id: str = ""
    worker_name: str = ""
    validated: bool = False
    notes: TextNotes = TextNotes()


class ProgressRequest(Message):
    """A volunteer of an account tells what it has written so far, whole, or what follows what it told before."""

    id: str
    account: str
    text: str | None = None
    delta: str | None = None


class SubmitReply(Message):
    """What became of a text, or of a piece of one.

    `accepted` texts are those of the job; `faulted` says that the job went back; `duplicate` and `aborted` that it was
    submitted before, or is no longer this volunteer's; `foreign` that another account has it; `unknown` that no such
    job is here. `reward` is in thousandths of a kudos.
    """

    outcome: Literal["accepted", "faulted", "duplicate", "aborted", "foreign", "unknown"]
    worker_id: str | None = None
    reward: int = 0
    tokens: int = 0
    seconds: float = 0.0
    suspicions: tuple[Suspicion, ...] = ()


def volunteer_id(name: str) -> str:
    """The id of a volunteer, which is made of its name, so that there is one of each name.

    Names that differ only in case, blanks or the form of their letters, such as full-width ones, are one.
    """
    return str(uuid.uuid5(_NAMESPACE, " ".join(unicodedata.normalize("NFKC", name).casefold().split())))


def handout_mark(worker_id: str) -> str:
    """The hexadecimal digits by which the id of a job tells which of its owner's volunteers got it."""
    return hashlib.blake2b(worker_id.encode(), digest_size=HANDOUT_MARK // 2).hexdigest()


def volunteer_entry(worker_id: str) -> str:
    """The bucket's entry of a volunteer; `*` stands for all."""
    return f"volunteer.{worker_id if worker_id == '*' else token(worker_id)}"

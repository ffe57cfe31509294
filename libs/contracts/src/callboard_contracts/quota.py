"""Holds: what a request may cost, taken before the work and settled after it.

All amounts are integers. A unit is a thousandth of a token; audio counts its milliseconds times the configured cost
of a second, so a second at a cost of 100 tokens is 100,000 units.
"""

from typing import Literal

from pydantic import AliasChoices, Field, ValidationError

from callboard_contracts.errors import ErrorInfo
from callboard_contracts.kudos import KUDOS_METRIC, MAX_KUDOS
from callboard_contracts.kudos_price import MAX_REWARD
from callboard_contracts.model import Message

UNITS_PER_TOKEN = 1000
HEARD_METRIC = "heard"
"""What counts the milliseconds of sound that are written down."""
WorkKind = Literal["chat", "speech", "transcription", "embedding"]
WorkOutcome = Literal["stop", "length", "tool_calls", "cancelled", "error"]


MAX_AMOUNT = 10**15
"""No amount of work is larger, so that sums of amounts fit wherever they are kept."""
DECISION_HEARTBEAT_S = 0.5
MAX_DECISION_WAIT_S = 60.0
LATEST = 7_258_118_400
"""No event is of a later time, in Unix seconds: the year 2200."""


class Work(Message):
    """An amount of work, estimated for a hold or measured for a usage event."""

    prompt_tokens: int = Field(default=0, ge=0, le=MAX_AMOUNT)
    completion_tokens: int = Field(default=0, ge=0, le=MAX_AMOUNT)
    audio_ms: int = Field(default=0, ge=0, le=MAX_AMOUNT)


class HoldEntry(Message):
    """One counter that a hold has raised: whose, of which limit, in which bucket of time, and by how much."""

    tenant: str
    metric: str
    bucket: str
    amount: int = Field(ge=0)


class Rates(Message):
    """What work cost when the hold was taken, so that its settlement never depends on a later price."""

    prompt_units: int = Field(default=UNITS_PER_TOKEN, ge=0)
    """Units for each token of the prompt."""
    completion_units: int = Field(default=UNITS_PER_TOKEN, ge=0)
    """Units for each token of the reply."""
    audio_units_per_s: int = Field(default=0, ge=0)


class Hold(Message):
    """A granted hold; it travels inside the job and the usage event, so that settling needs no look-up.

    `id` is unique among all holds, also among several of one request. `repeat` is the number of the request that took
    it. `signature` lets quota recognise its own holds: whoever passes a hold on must leave it as it is.
    """

    id: str = ""
    request_id: str
    tenant: str
    kind: WorkKind
    model: str
    entries: tuple[HoldEntry, ...]
    rates: Rates = Rates()
    expires_at: float
    repeat: int = 0
    signature: str = Field(default="", validation_alias=AliasChoices("signature", "seal"))

    @property
    def units(self) -> int | None:
        """How many units are held; None when the hold counts no units and so bounds nothing."""
        return self._held("units")

    @property
    def heard_ms(self) -> int | None:
        """How much sound may be heard for it; None when the hold counts none and so bounds nothing."""
        return self._held(HEARD_METRIC)

    def _held(self, metric: str) -> int | None:
        amounts = [entry.amount for entry in self.entries if entry.metric == metric]
        return max(amounts) if amounts else None

    @property
    def kudos(self) -> int:
        """The kudos that are taken from an account, in thousandths."""
        return sum(entry.amount for entry in self.entries if entry.metric == KUDOS_METRIC)


class ReserveRequest(Message):
    """The edge asks for a hold.

    `key_digest` is the hex SHA-256 of the API key, `address` the client's IP address; quota turns both into opaque
    tenants, and neither is stored or logged in this form. With `extends` a worker asks for a further hold on the same
    accounts as one that it has; `work` is then what is needed on top, and key and address are left out.
    `kudos` are held from the key's account, in thousandths, beside what the work costs. With `kudos_if_any` no more is
    held than the account has, and nothing from a caller without one; else such a request is refused.

    `wait_s` is how long the sender waits at most; while quota waits for its store, an empty message every
    `DECISION_HEARTBEAT_S` says so. A request that got no answer may be sent again with the next number as
    `repeat`: whatever the earlier ones took is given back first. One that extends a hold is never repeated.
    """

    request_id: str
    kind: WorkKind
    model: str
    work: Work
    key_digest: str | None = None
    address: str | None = None
    life_s: float = Field(gt=0)
    extends: Hold | None = Field(default=None, validation_alias=AliasChoices("extends", "top_up"))
    kudos: int = Field(default=0, ge=0, le=MAX_KUDOS, strict=True)
    kudos_if_any: bool = False
    wait_s: float = Field(default=0.0, ge=0, le=MAX_DECISION_WAIT_S)
    repeat: int = Field(default=0, ge=0)


class LimitState(Message):
    """Where a limit stands after a decision, for the client's rate-limit headers."""

    limit: str
    allowed: int
    remaining: int
    resets_in_s: float


class ReserveReply(Message):
    """Quota's decision: a hold, or the error that the client is to be told.

    `states` is the fullest limit of each metric, or the one that is exceeded.
    """

    tenant: str = "anonymous"
    hold: Hold | None = None
    error: ErrorInfo | None = None
    states: tuple[LimitState, ...] = ()


class IdentifyRequest(Message):
    """The edge asks who a caller is without holding anything, for paths that cost nothing."""

    key_digest: str | None = None
    address: str | None = None


class IdentifyReply(Message):
    """The caller's tenant and tier, or the error for a key that is unknown, expired or revoked."""

    tenant: str = "anonymous"
    tier: str = ""
    error: ErrorInfo | None = None


class UsageRequest(Message):
    """The edge asks what a caller has used, for the caller's own eyes."""

    key_digest: str | None = None
    address: str | None = None


class UsageReply(Message):
    """What a caller has used, open holds included, and where each of the caller's limits stands."""

    tenant: str = "anonymous"
    tier: str = ""
    tokens_last_day: int = 0
    tokens_this_month: int = 0
    limits: tuple[LimitState, ...] = ()
    error: ErrorInfo | None = None


class ReleaseRequest(Message):
    """The edge gives a hold back because its job never ran."""

    hold: Hold


class ReleaseReply(Message):
    """Whether the release settled the hold; false when it was settled before."""

    settled: bool


class VolunteerWork(Message):
    """Which volunteer did a request's work, and what its owner earns for it once the event is settled.

    `worker` is the worker's id and `owner` the account that runs it; `reward` is in thousandths of kudos, and 0 where
    the site counts none.
    """

    worker: str
    worker_name: str = ""
    owner: str
    reward: int = Field(default=0, ge=0, le=MAX_REWARD, strict=True)


class UsageEvent(Message):
    """What a request really used; published to USAGE under the id `<request>.<kind>`, so it counts once.

    `extensions` are the further holds that a worker took for the same work, in the order in which it got them.
    `kudos` are what the work really cost in thousandths of kudos; more than was held is never taken. `volunteer` is
    paid out of nobody's account, once for the event, by the transaction `reward_id` of the request.
    """

    version: Literal[1] = 1
    request_id: str
    tenant: str
    kind: WorkKind
    model: str
    pool: str
    work: Work
    outcome: WorkOutcome
    hold: Hold | None = None
    extensions: tuple[Hold, ...] = Field(default=(), validation_alias=AliasChoices("extensions", "top_ups"))
    kudos: int = Field(default=0, ge=0, le=MAX_KUDOS, strict=True)
    volunteer: VolunteerWork | None = None
    at: float = Field(ge=0, le=LATEST)


def usage_event_of(subject: str, data: bytes) -> UsageEvent | None:
    """The usage event that a message carries, or None where it is none, or is filed under another tenant."""
    try:
        event = UsageEvent.model_validate_json(data)
    except ValidationError:
        return None
    return event if subject.rpartition(".")[2] == event.tenant else None


AuditKind = Literal["admitted", "refused", "settled", "released", "expired", "corrected", "ignored"]


class AuditEvent(Message):
    """One thing that quota did about a request, kept in AUDIT so that it can be read back by the request's id.

    `units` is what was held (admitted, refused), finally charged (settled, released, expired) or added (corrected);
    `reason` is a short fixed word, such as the limit that refused or the rule that ignored an event. `total_units` is
    what a settled usage event charged to all of its holds together. `heard_ms` is the sound that was finally counted
    (settled) or added (corrected). `kudos` are what was finally taken from an account, or earned by it; a kudos
    transaction is recorded as work of the kind kudos.
    `worker` is the volunteer that a transaction pays for; such an event is kept under the worker's id as well.
    """

    kind: AuditKind
    request_id: str
    hold_id: str = ""
    tenant: str = ""
    work: WorkKind | Literal["kudos"] | None = None
    model: str = ""
    units: int = 0
    total_units: int = 0
    heard_ms: int = 0
    kudos: int = 0
    worker: str = ""
    reason: str = ""
    at: float


class VerifyRequest(Message):
    """An operator asks quota to compute all counters again from USAGE, for the hours since a Unix time.

    With `repair` those that do not agree are corrected, as after a power cut.
    With `heartbeat_s` an empty message is sent that often until the reply, so that whoever waits sees that the process
    still works on it.
    """

    since: float
    repair: bool = False
    heartbeat_s: float | None = Field(default=None, ge=0.1, le=60)


class Drift(Message):
    """A counter that does not agree with the usage events; `open` is what unsettled holds account for."""

    tenant: str
    metric: str
    bucket: str
    counted: int
    events: int
    open: int


class IgnoredEvent(Message):
    """A usage event that counts for nothing, and the rule that says so."""

    seq: int
    request_id: str
    reason: str


class VerifyReply(Message):
    """What verification found; `drift` and `ignored` list the first of each, the counts say how many there are."""

    events: int = 0
    counters: int = 0
    drift_count: int = 0
    drift_units: int = 0
    drift: tuple[Drift, ...] = ()
    ignored_count: int = 0
    ignored: tuple[IgnoredEvent, ...] = ()
    open_holds: int = 0
    corrected_count: int = 0
    """How many counters were corrected."""
    error: ErrorInfo | None = None

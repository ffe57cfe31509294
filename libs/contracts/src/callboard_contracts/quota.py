"""Holds: what a request may cost, taken before the work and settled after it.

All amounts are integers. A unit is a thousandth of a token; audio counts its milliseconds times the configured cost
of a second, so a second at a cost of 100 tokens is 100,000 units.
"""

from typing import Literal

from pydantic import Field

from callboard_contracts.errors import ErrorInfo
from callboard_contracts.model import Message

UNITS_PER_TOKEN = 1000
WorkKind = Literal["chat", "speech"]


class Work(Message):
    """An amount of work, estimated for a hold or measured for a usage event."""

    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)
    audio_ms: int = Field(default=0, ge=0)


class HoldEntry(Message):
    """One counter that a hold has raised: whose, of which limit, in which bucket of time, and by how much."""

    tenant: str
    metric: str
    bucket: str
    amount: int = Field(ge=0)


class Hold(Message):
    """A granted hold; it travels inside the job and the usage event, so that settling needs no look-up."""

    request_id: str
    tenant: str
    kind: WorkKind
    model: str
    entries: tuple[HoldEntry, ...]
    expires_at: float


class ReserveRequest(Message):
    """The edge asks for a hold.

    `key_digest` is the hex SHA-256 of the API key, `address` the client's IP address; quota turns both into opaque
    tenants, and neither is stored or logged in this form.
    """

    request_id: str
    kind: WorkKind
    model: str
    work: Work
    key_digest: str | None = None
    address: str | None = None
    life_s: float = Field(gt=0)


class LimitState(Message):
    """Where the tightest limit stands after a decision, for the client's rate-limit headers."""

    limit: str
    allowed: int
    remaining: int
    resets_in_s: float


class ReserveReply(Message):
    """Quota's decision: a hold, or the error that the client is to be told."""

    tenant: str = "anonymous"
    hold: Hold | None = None
    error: ErrorInfo | None = None
    state: LimitState | None = None


class IdentifyRequest(Message):
    """The edge asks who a caller is without holding anything, for paths that cost nothing."""

    key_digest: str | None = None
    address: str | None = None


class IdentifyReply(Message):
    """The caller's tenant and tier, or the error for a key that is unknown, expired or revoked."""

    tenant: str = "anonymous"
    tier: str = ""
    error: ErrorInfo | None = None


class ReleaseRequest(Message):
    """The edge gives a hold back because its job never ran."""

    hold: Hold


class ReleaseReply(Message):
    """Whether the release settled the hold; false when it was settled before."""

    settled: bool


class UsageEvent(Message):
    """What a request really used; published to USAGE under the id `<request>.<kind>`, so it counts once."""

    version: Literal[1] = 1
    request_id: str
    tenant: str
    kind: WorkKind
    model: str
    pool: str
    work: Work
    outcome: Literal["stop", "length", "tool_calls", "cancelled", "error"]
    hold: Hold | None = None
    at: float

"""What is kept of a job whose result is polled, so that any edge can answer for it after any restart."""

from typing import Any

from pydantic import Field

from callboard_contracts.chat import ChatMessage
from callboard_contracts.jobs import Service
from callboard_contracts.model import Message
from callboard_contracts.quota import Hold
from callboard_contracts.volunteers import VolunteerTerms


class JobTicket(Message):
    """Where a polled job lies and what it holds, kept beside its result under `ticket.<request>`.

    `stream` and `seq` are the job's place in its work queue; times are Unix seconds.
    """

    request_id: str
    service: Service
    pool: str
    tenant: str
    model: str
    stream: str
    seq: int
    hold: Hold | None = None
    created_at: float
    deadline_at: float


class NamedRequest(Message):
    """Which request a client's own name stands for, kept under `name.<hash>` for as long as its result."""

    request_id: str


class KeptGroup(Message):
    """The polled jobs that one request of a client made, kept under `name.<hash>` for as long as their results.

    `stops` are the stop sequences that the client is shown where one ended a reply, and `webhook` the address that is
    called with each reply. `volunteers` and `context_tokens` are what is asked of volunteers, where they may write it.
    Times are Unix seconds; `ended` is set once all jobs have.
    """

    request_id: str
    job_ids: tuple[str, ...]
    model: str
    pool: str
    max_output_tokens: int = Field(ge=1)
    stops: tuple[str, ...] = ()
    volunteers: VolunteerTerms | None = None
    context_tokens: int | None = None
    webhook: str | None = None
    created_at: float
    ended: bool = False


class KeptDialogue(Message):
    """A dialogue up to a reply that its client may go on from, kept under `name.<hash>` for as long as the reply.

    `messages` are those before the reply, without `instructions`, which count for one reply only; the reply itself is
    the result of the request. `shown` is what else the client is told of its request when it asks for the reply again.
    Times are Unix seconds; `deleted` is set once the client took the reply back.
    """

    request_id: str
    model: str
    created_at: float
    deadline_at: float
    messages: tuple[ChatMessage, ...] = ()
    shown: dict[str, Any] = Field(default_factory=dict)
    deleted: bool = False

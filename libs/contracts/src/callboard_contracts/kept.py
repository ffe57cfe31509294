"""What is kept of a job whose result is polled, so that any edge can answer for it after any restart."""

from callboard_contracts.jobs import Service
from callboard_contracts.model import Message
from callboard_contracts.quota import Hold


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

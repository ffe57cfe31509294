"""What every job has in common, whatever its worker makes of it, and what is kept of one that never finished."""

from typing import Literal

from callboard_contracts.model import Message
from callboard_contracts.quota import Hold

JOB_VERSION: Literal[1, 2] = 2
Service = Literal["chat", "tts", "stt"]
"""The services that take long jobs; each has a work queue of its own."""


class Job(Message):
    """A request in a work queue; times are Unix seconds.

    `edge` names the edge that the frames go to. `hold` is None where the site admitted the work without one.
    Who makes a job says its version.
    """

    version: Literal[1, 2] = 1
    request_id: str
    edge: str
    tenant: str
    hold: Hold | None = None
    created_at: float
    deadline_at: float

    @property
    def preferred_worker(self) -> str | None:
        """The id of the worker that is the quickest at the job, where one is."""
        return None

    @property
    def has_listening_edge(self) -> bool:
        """Whether the edge of a live job says that it waits for it."""
        return True


class AttemptRecord(Message):
    """The newest attempt at a job, on `attempt.<request_id>`.

    `worker` is the id of the worker that announces itself by it. `deaths` counts the attempts before this one whose
    worker died. An attempt that is `running` although its worker is gone is such a death too. `returned` says that the
    worker gave the job back, `stuck` that it did so because another job kept its engine from working, and `died` that
    it may have been this one.
    """

    attempt: int
    worker: str
    deaths: int = 0
    state: Literal["running", "returned", "stuck", "died"] = "running"


class DeadLetter(Message):
    """A job that is not handed out again, by its ids. Its payload is kept beside it, encrypted, as long as its key.

    `subject` and `stream_seq` are its place in the work queue `stream`, where it is deleted; `request_id` is None for a
    message that was published without one.
    """

    request_id: str | None
    stream: str
    stream_seq: int
    subject: str
    deliveries: int
    queued_at: str

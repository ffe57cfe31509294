"""What every job has in common, whatever its worker makes of it."""

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

"""How workers learn whether anybody still waits for a job, and what an edge has received of it."""

from pydantic import Field

from callboard_contracts.model import Message

HEARTBEAT_INTERVAL_S = 1.0
"""How often an edge says which of its requests are open."""
EDGE_LOST_S = 3.5
"""An edge that has said nothing for this long counts as gone."""


class EdgeHeartbeat(Message):
    """The requests of an edge that are still open, on `ctl.interest.<edge>`.

    `attempts` holds the newest attempt seen of those requests that were handed out more than once, so that a worker
    that was given up for dead learns that another one took over.
    """

    edge: str
    open: tuple[str, ...] = ()
    attempts: dict[str, int] = Field(default_factory=dict)


class ResumeRequest(Message):
    """A worker that takes a job over asks its edge, on `ctl.resume.<edge>.<request>`, how far the reply has come."""

    attempt: int


class ResumeReply(Message):
    """How far a reply has come at its edge; `open` is false when nobody waits any more.

    `attempt` is the newest attempt seen, `next_seq` the number of the next frame or segment. Text, thinking and their
    tokens are those of a chat reply.
    """

    open: bool
    attempt: int = 0
    next_seq: int = 0
    text: str = ""
    thinking: str = ""
    tokens: int = 0
    thinking_tokens: int = 0

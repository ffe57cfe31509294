"""What one edge asks all edges about a reply that a client's own key names.

The edge that writes the reply, or wrote it a short while ago, answers; the others stay silent.
"""

from typing import Literal

from callboard_contracts.chat import TokenLogprob
from callboard_contracts.model import Message

RunningAction = Literal["read", "stop"]


class RunningReplyRequest(Message):
    """Reads a reply as far as it has come, or stops it.

    `name` is a digest of who the caller is and of the caller's own key for the reply, so that no caller reaches the
    reply of another.
    """

    name: str
    action: RunningAction


class RunningReply(Message):
    """A reply so far; `running` is false once it has ended, and `stopped` says that it was just told to stop."""

    running: bool = False
    stopped: bool = False
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()

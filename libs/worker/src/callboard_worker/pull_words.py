"""What a worker says to the queue that it pulls jobs from, and what it notes of the answers."""

import json
from enum import Enum, auto

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from callboard_contracts.streams import NANOSECONDS_PER_S

BATCH_PROBE_LIFE_S = 0.25
PENDING_MESSAGES = "Nats-Pending-Messages"
"""The header in which the server says how many messages a pull that ends still asks for."""


class Inbox:
    """Where the answers to pulls arrive, how many jobs the open pulls still ask for, and since when."""

    def __init__(self) -> None:
        self.subject = ""
        self.subscription: Subscription | None = None
        self.open = 0
        self.asked_at = 0.0
        self.not_before = 0.0


def lost(inbox: Inbox, now: float, after_s: float) -> bool:
    """Whether the pulls of an inbox have brought nothing for too long, not even their end."""
    return inbox.open > 0 and now - inbox.asked_at > after_s


class Step(Enum):
    """What the batch probe asked for last."""

    LIVE_NOW = auto()
    BATCH_NOW = auto()
    LIVE_SOON = auto()


NEXT_STEP = {
    Step.LIVE_NOW: Step.BATCH_NOW,
    Step.BATCH_NOW: Step.LIVE_SOON,
    Step.LIVE_SOON: Step.BATCH_NOW,
}


def pull_for(jobs: int, life_s: float) -> bytes:
    """A pull for so many jobs that waits for them."""
    return b'{"batch":%d,"expires":%d}' % (jobs, int(life_s * NANOSECONDS_PER_S))


PULL_NOW = json.dumps({"batch": 1, "no_wait": True}).encode()
PULL_SOON = pull_for(1, BATCH_PROBE_LIFE_S)


def unfilled(message: Msg) -> int | None:
    """How many jobs a pull that ended still asked for; None where the server does not say."""
    jobs = (message.headers or {}).get(PENDING_MESSAGES, "")
    return int(jobs) if jobs.isdecimal() else None

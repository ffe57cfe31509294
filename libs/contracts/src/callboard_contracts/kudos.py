"""Kudos: what accounts earn by working, spend on requests and give to each other.

All amounts are integers, in thousandths of a kudos. Amounts are strict on the wire: a fraction, a text or a truth value
is refused as malformed; what is negative, zero or beyond `MAX_KUDOS` is refused by quota.
"""

import hashlib
from dataclasses import dataclass

from pydantic import Field

from callboard_contracts.errors import ErrorInfo
from callboard_contracts.model import Message
from callboard_contracts.subjects import is_token

KUDOS_SCALE = 1000
"""How many of the wire's amounts make one kudos."""
MAX_KUDOS = 10**15
"""The largest amount of one transaction; sums of many of them stay far below what a counter holds."""
KUDOS_METRIC = "kudos"
"""The metric of a hold's entry that takes kudos from an account."""
KUDOS_CREDIT_METRIC = "kudos_credit"
"""The metric of a hold's entry that gives kudos to an account when the hold is settled."""
_MAX_ID = 61
"""Leaves room for a number behind the id of a transaction."""


class KudosTerms(Message):
    """How the work on a job is reckoned in kudos, beside the constants of the site.

    `billions` is the size of the model, None where nobody knows it; `fee` is what the job costs beside the reward for
    its work, in thousandths.
    """

    billions: float | None = Field(default=None, ge=0)
    fee: int = Field(default=0, ge=0)


class KudosEarnRequest(Message):
    """Somebody who may do so credits an account; of several requests with one id only the first counts.

    `id` names the transaction for ever: a repeat gets the answer of the first, and the same id with other contents is
    refused.
    """

    id: str
    account: str
    amount: int = Field(strict=True)


class KudosUptimeRequest(Message):
    """A volunteer is to be paid for having been there, once for each period.

    `worker` is its id, `account` its owner, and `period` the number of a period that has just ended or still runs.
    """

    worker: str
    account: str
    period: int = Field(ge=0, strict=True)
    amount: int = Field(strict=True)


class KudosTransferRequest(Message):
    """An account gives kudos to another; `id` is one for all transactions, as for earning."""

    id: str
    source: str
    target: str
    amount: int = Field(strict=True)


class KudosBalanceRequest(Message):
    """Somebody asks what an account has."""

    account: str


class KudosReply(Message):
    """What an account has; after a transfer it is the giver's balance.

    `name` is the account's, in the answer to who asks for a balance.

    `repeated` says that the transaction had been made before. What is held for requests that run is not in the balance.
    """

    account: str = ""
    name: str = ""
    balance: int = 0
    repeated: bool = False
    error: ErrorInfo | None = None


@dataclass(frozen=True, slots=True)
class KudosTransaction:
    """A transaction that was made; `balance` is what the account has after it that earned or gave.

    `repeated` says that it had been made before under the same id, and counts once.
    """

    id: str
    account: str
    balance: int
    repeated: bool


@dataclass(frozen=True, slots=True)
class KudosChange:
    """One change of an account's kudos; `reason` is the id of the transaction or hold that made it, and the step.

    `seq` is higher with each change of any account, and `at` a Unix time.
    """

    seq: int
    at: float
    change: int
    balance: int
    reason: str


@dataclass(frozen=True, slots=True)
class KudosLeader:
    """What an account earned by its volunteers: for texts, and for having been there."""

    account: str
    rewards: int
    uptime: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.rewards + self.uptime


@dataclass(frozen=True, slots=True)
class KudosPayment:
    """One payment for a volunteer's work; `reason` is `reward` or `uptime`, and `id` the transaction.

    `seq` is higher with each payment, and `at` a Unix time.
    """

    seq: int
    at: float
    account: str
    amount: int
    reason: str
    id: str


def reward_id(request_id: str) -> str:
    """The transaction that pays the volunteer who did a request's work; one for each request."""
    return _transaction_id("reward", request_id)


def uptime_id(worker: str, period: int) -> str:
    """The transaction that pays a volunteer for a period."""
    return _transaction_id("uptime", f"{worker}-{period}")


def _transaction_id(kind: str, of: str) -> str:
    whole = f"{kind}-{of}"
    return (
        whole if len(whole) <= _MAX_ID and is_token(whole) else f"{kind}-{hashlib.sha256(of.encode()).hexdigest()[:40]}"
    )

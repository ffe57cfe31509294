"""Kudos of accounts: transactions through quota, and their history and verification, read from the bus."""

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from callboard_contracts import subjects
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.headers import INCREMENT, MSG_ID
from callboard_contracts.kudos import (
    KudosBalanceRequest,
    KudosChange,
    KudosEarnRequest,
    KudosLeader,
    KudosPayment,
    KudosReply,
    KudosTransaction,
    KudosTransferRequest,
)
from callboard_contracts.model import Message
from callboard_contracts.quota import AuditEvent
from callboard_contracts.streams import AUDIT, KUDOS, TRANSFERS
from callboard_kit.bus import Bus
from callboard_kit.stream_reads import StoredMessage, first_seq, read_batches

REQUEST_TIMEOUT_S = 15.0
READ_TIMEOUT_S = 5.0
VERIFY_ATTEMPTS = 5
VERIFY_PAUSE_S = 0.5
"""Transactions go on while the streams are read, so only a problem that every attempt finds is reported."""
ID_BYTES = 8
PAYMENTS = {"reward", "uptime"}
"""The transactions that pay for volunteers' work."""


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What verification found, in thousandths of kudos; `problems` names what does not balance."""

    earned: int
    spent: int
    held: int
    total: int
    problems: frozenset[str]


class KudosRecords:
    """Transactions and balances of an installation, in thousandths of kudos.

    Every method raises BusError when the bus or quota fails, and CallboardError for what quota refuses.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def balance(self, account: str) -> int:
        """Returns the balance of an account, without what is held for running requests."""
        return (await self._request(subjects.QUOTA_KUDOS_SHOW, KudosBalanceRequest(account=account))).balance

    async def earn(self, account: str, amount: int, transaction_id: str | None = None) -> KudosTransaction:
        """Credits an account, once for each id; without one the transaction gets a new id."""
        request = KudosEarnRequest(id=transaction_id or _new_id(), account=account, amount=amount)
        return _transaction(request.id, await self._request(subjects.QUOTA_KUDOS_EARN, request))

    async def transfer(
        self, source: str, target: str, amount: int, transaction_id: str | None = None
    ) -> KudosTransaction:
        """Moves kudos from one account to another, once for each id; without one the transaction gets a new id."""
        request = KudosTransferRequest(id=transaction_id or _new_id(), source=source, target=target, amount=amount)
        return _transaction(request.id, await self._request(subjects.QUOTA_KUDOS_TRANSFER, request))

    async def history(self, account: str, since: float = 0.0, after_seq: int = 0) -> AsyncGenerator[KudosChange]:
        """Yields the changes of an account's kudos since a Unix time and after a `seq`, the oldest first.

        Changes of zero are left out.
        """
        subject = subjects.kudos(account)
        seq = await first_seq(self._bus, KUDOS, subject, since, READ_TIMEOUT_S)
        if seq is None:
            return
        async for batch in read_batches(self._bus, KUDOS, subject, max(seq, after_seq + 1)):
            for message in batch:
                change = _change(message)
                if change.change:
                    yield change

    async def leaders(self, since: float, limit: int) -> list[KudosLeader]:
        """Returns the accounts whose volunteers earned most since a Unix time; reads all transactions since then."""
        earned: dict[str, dict[str, int]] = {}
        async for event in self._transactions(since):
            if event.kind == "settled" and event.reason in PAYMENTS:
                amounts = earned.setdefault(event.tenant, dict.fromkeys(PAYMENTS, 0))
                amounts[event.reason] += event.kudos
        found = [KudosLeader(account, one["reward"], one["uptime"]) for account, one in earned.items()]
        return sorted(found, key=lambda leader: (-leader.total, leader.account))[:limit]

    async def payments(self, worker: str, since: float = 0.0, after_seq: int = 0) -> AsyncGenerator[KudosPayment]:
        """Yields what a volunteer was paid since a Unix time and after a `seq`, the oldest first, of the last 30 days.

        Raises:
            CallboardError: that is no worker's id.
        """
        try:
            subject = subjects.audit(worker)
        except ValueError:
            raise CallboardError(ErrorCode.INVALID_REQUEST, "that is not a worker's id", param="worker") from None
        seq = await first_seq(self._bus, AUDIT, subject, since, READ_TIMEOUT_S)
        if seq is None:
            return
        async for batch in read_batches(self._bus, AUDIT, subject, max(seq, after_seq + 1)):
            for message in batch:
                event = AuditEvent.model_validate_json(message.data)
                if event.worker == worker and event.kind == "settled":
                    yield KudosPayment(message.seq, event.at, event.tenant, event.kudos, event.reason, event.request_id)

    async def verify(self) -> VerifyResult:
        """Compares all balances with what was earned, transferred, spent and held; reads all transactions ever made."""
        result = await self._verify_once()
        for _ in range(VERIFY_ATTEMPTS - 1):
            if not result.problems:
                break
            await asyncio.sleep(VERIFY_PAUSE_S)
            again = await self._verify_once()
            result = replace(again, problems=again.problems & result.problems)
        return result

    async def _verify_once(self) -> VerifyResult:
        totals = KudosTotals()
        async for batch in read_batches(self._bus, KUDOS, subjects.kudos("*")):
            for message in batch:
                change = _change(message)
                totals.add(message.subject.rpartition(".")[2], change.change, change.reason)
        outcomes: dict[str, AuditEvent] = {}
        async for outcome in self._transactions():
            outcomes[outcome.hold_id] = outcome
        return check_totals(totals, outcomes)

    async def _transactions(self, since: float = 0.0) -> AsyncGenerator[AuditEvent]:
        """Yields how each transaction since a Unix time ended."""
        subject = subjects.transfer("*")
        seq = await first_seq(self._bus, TRANSFERS, subject, since, READ_TIMEOUT_S) if since else 1
        if seq is None:
            return
        async for batch in read_batches(self._bus, TRANSFERS, subject, seq):
            for message in batch:
                yield AuditEvent.model_validate_json(message.data)

    async def _request(self, subject: str, request: Message) -> KudosReply:
        body = request.model_dump_json().encode()
        reply = KudosReply.model_validate_json(await self._bus.request(subject, body, REQUEST_TIMEOUT_S))
        if reply.error is not None:
            raise CallboardError.of(reply.error)
        return reply


@dataclass(slots=True)
class KudosTotals:
    """The changes in the stream KUDOS, added up by account and by the hold that made them."""

    balances: dict[str, int] = field(default_factory=dict[str, int])
    holds: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    """By hold and account: credits less debits."""
    settled: set[str] = field(default_factory=set[str])

    def add(self, account: str, change: int, msg_id: str) -> None:
        """Adds one change of an account."""
        hold_id, _, step = msg_id.rpartition(".")
        self.balances[account] = self.balances.get(account, 0) + change
        changes = self.holds.setdefault(hold_id, {})
        changes[account] = changes.get(account, 0) + change
        if step.startswith("s"):
            self.settled.add(hold_id)


def check_totals(totals: KudosTotals, outcomes: dict[str, AuditEvent]) -> VerifyResult:
    """Compares the changes with the outcome of each transaction; `outcomes` is by the id of the transaction's hold."""
    problems = {f"{account} is below zero" for account, balance in totals.balances.items() if balance < 0}
    earned = spent = held = 0
    for hold_id, outcome in outcomes.items():
        changes = totals.holds.get(hold_id, {})
        amount = outcome.kudos if outcome.kind == "settled" else 0
        # A transfer takes from one account what it gives to another; every other transaction creates kudos.
        created = 0 if outcome.reason == "transfer" else amount
        earned += created
        credited = sum(change for change in changes.values() if change > 0)
        if sum(changes.values()) != created or credited != amount:
            problems.add(f"transaction {outcome.request_id} does not balance")
    for hold_id, changes in totals.holds.items():
        if hold_id in outcomes:
            continue
        net = -sum(changes.values())
        if net < 0:
            problems.add(f"hold {hold_id} credited more than it debited")
        if hold_id in totals.settled:
            spent += net
        else:
            held += net
    total = sum(totals.balances.values())
    if total != earned - spent - held:
        problems.add(f"balances differ by {total - earned + spent + held} thousandths")
    return VerifyResult(earned, spent, held, total, frozenset(problems))


def _change(message: StoredMessage) -> KudosChange:
    return KudosChange(
        seq=message.seq,
        at=message.stored_at,
        change=-int(message.headers[INCREMENT]),
        balance=-int(json.loads(message.data)["val"]),
        reason=message.headers.get(MSG_ID, ""),
    )


def _transaction(transaction_id: str, reply: KudosReply) -> KudosTransaction:
    return KudosTransaction(transaction_id, reply.account, reply.balance, reply.repeated)


def _new_id() -> str:
    now = datetime.now(UTC).strftime("%Y%m%d%H%M%S")
    return f"{now}-{secrets.token_hex(ID_BYTES)}"

"""Kudos transactions: an account earns kudos, or transfers them to another, exactly once by the transaction's id.

A transaction is a hold with a credit entry. It takes the kudos from the payer as any hold takes what it counts. Its
outcome is recorded once and for ever under the transaction's id, and only the outcome "settled" credits the receiver. A
process that dies in between leaves the hold's lease behind, and the reaper completes or undoes it by the same outcome.

The counter of an account is what it has spent less what it has earned, so its balance is the counter's negative.
"""

import hashlib
from collections.abc import Callable

from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.kudos import (
    KUDOS_CREDIT_METRIC,
    KUDOS_METRIC,
    KUDOS_SCALE,
    MAX_KUDOS,
    KudosBalanceRequest,
    KudosEarnRequest,
    KudosReply,
    KudosTransferRequest,
    KudosUptimeRequest,
    reward_id,
    uptime_id,
)
from callboard_contracts.kudos_price import MAX_REWARD, KudosSection, uptime_period
from callboard_contracts.quota import AuditEvent, Hold, HoldEntry, UsageEvent
from callboard_contracts.subjects import token
from callboard_quota.domain.decision import REQUEST_ID_IN_HOLD
from callboard_quota.domain.ledger import Ledger
from callboard_quota.domain.limits import kudos_limit
from callboard_quota.domain.ports import AccountStore, Clock, Journal, LedgerStore
from callboard_quota.domain.windows import LIFETIME_BUCKET

TRANSACTION_LIFE_S = 10.0
"""A transaction that has not ended after this long may be undone by the reaper; a repeat is then told so."""
DIGEST_LENGTH = 12
MAX_UNDONE = 5
"""So many times a payment is booked anew under a further id, because it was cut off and undone."""
MAX_PERIODS_LATE = 6
"""How many periods ago a volunteer was there that is still paid for it."""
RULES = (
    "not_a_token",
    "not_positive",
    "too_large",
    "absurd_period",
    "same_account",
    "unknown_account",
    "insufficient",
    "other_contents",
    "undone",
    "malformed",
)
"""Why a transaction is refused; the last is for requests that cannot be parsed."""


class KudosService:
    """Books transactions and reads balances; `on_refusal` learns by which rule a transaction was refused.

    `settings` may be replaced at any time.
    Every method raises StoreUnavailable, after which the same request may be repeated.
    """

    def __init__(
        self,
        store: LedgerStore,
        ledger: Ledger,
        accounts: AccountStore,
        clock: Clock,
        journal: Journal,
        on_refusal: Callable[[str], None],
        settings: KudosSection | None = None,
    ) -> None:
        self.settings = settings or KudosSection()
        self._store = store
        self._ledger = ledger
        self._accounts = accounts
        self._clock = clock
        self._journal = journal
        self._on_refusal = on_refusal

    async def earn(self, request: KudosEarnRequest) -> KudosReply:
        """Credits an account once."""
        refused = self._check(request.id, request.amount) or await self._unknown(account=request.account)
        if refused:
            return refused
        entries = (_entry(request.account, KUDOS_CREDIT_METRIC, request.amount),)
        return (await self._transaction(request.id, "earn", request.account, entries))[0]

    async def transfer(self, request: KudosTransferRequest) -> KudosReply:
        """Moves kudos from one account to another once."""
        refused = self._check(request.id, request.amount)
        if refused is None and request.source == request.target:
            refused = self._refuse("same_account", "target", "an account cannot give to itself")
        refused = refused or await self._unknown(source=request.source, target=request.target)
        if refused:
            return refused
        entries = (
            _entry(request.source, KUDOS_METRIC, request.amount),
            _entry(request.target, KUDOS_CREDIT_METRIC, request.amount),
        )
        return (await self._transaction(request.id, "transfer", request.source, entries))[0]

    async def balance(self, request: KudosBalanceRequest) -> KudosReply:
        """Reads what an account has, without what is held for requests that run."""
        refused = await self._unknown(account=request.account)
        if refused:
            return refused
        account = await self._accounts.by_id(request.account)
        balance = await self._ledger.kudos(request.account)
        return KudosReply(account=request.account, name=account.name if account else "", balance=balance)

    async def reward(self, event: UsageEvent) -> None:
        """Pays the volunteer that a usage event names, once for its request; whom nobody knows gets nothing."""
        volunteer = event.volunteer
        if volunteer is None or not volunteer.reward or await self._unknown(owner=volunteer.owner):
            return
        entries = (_entry(volunteer.owner, KUDOS_CREDIT_METRIC, volunteer.reward),)
        await self._pay(reward_id(event.request_id), "reward", volunteer.owner, entries, volunteer.worker)

    async def uptime(self, request: KudosUptimeRequest) -> KudosReply:
        """Pays a volunteer for having been there, once for each period."""
        transaction_id = uptime_id(request.worker, request.period)
        refused = self._check(transaction_id, request.amount) or await self._unknown(account=request.account)
        if refused is None and request.amount > MAX_REWARD:
            refused = self._refuse("too_large", "amount", f"must be at most {MAX_REWARD // KUDOS_SCALE} kudos")
        present = uptime_period(self.settings, self._clock.now())
        if refused is None and not present - MAX_PERIODS_LATE <= request.period <= present + 1:
            refused = self._refuse("absurd_period", "period", f"is not near the present one, {present}")
        if refused:
            return refused
        entries = (_entry(request.account, KUDOS_CREDIT_METRIC, request.amount),)
        return await self._pay(transaction_id, "uptime", request.account, entries, request.worker)

    async def _pay(
        self, transaction_id: str, kind: str, account: str, entries: tuple[HoldEntry, ...], worker: str
    ) -> KudosReply:
        """Books a payment for work that was done; one that was cut off and undone is booked anew under a further id.

        What was undone is so for ever, and nobody takes a further id before, so that only one of them ever counts.
        """
        number = 0
        while True:
            numbered = f"{transaction_id}-{number}" if number else transaction_id
            reply, outcome = await self._transaction(numbered, kind, account, entries, worker)
            number += 1
            if outcome.kind != "expired" or number > MAX_UNDONE:
                return reply

    async def _transaction(
        self, transaction_id: str, kind: str, account: str, entries: tuple[HoldEntry, ...], worker: str = ""
    ) -> tuple[KudosReply, AuditEvent]:
        hold = Hold(
            id=f"{transaction_id[:REQUEST_ID_IN_HOLD]}-{_digest(transaction_id, kind, entries)}",
            request_id=transaction_id,
            tenant=account,
            kind="chat",
            model=kind,
            entries=entries,
            expires_at=self._clock.now() + TRANSACTION_LIFE_S,
        )
        outcome = await self._store.transaction_outcome(transaction_id)
        repeated = outcome is not None
        if outcome is None:
            limit = kudos_limit(account) if kind == "transfer" else None
            ended = await self._ledger.transaction(hold, limit, worker)
            outcome, repeated = ended.outcome, not ended.first
            if ended.first:
                self._journal.record(outcome)
        if outcome.hold_id != hold.id:
            return self._refuse("other_contents", "id", "that id was used for another transaction"), outcome
        return await self._reply(outcome, account, repeated=repeated), outcome

    async def _reply(self, outcome: AuditEvent, account: str, *, repeated: bool) -> KudosReply:
        if outcome.kind == "expired":
            return self._refuse("undone", "id", "that transaction was cut off and undone; repeat it under another id")
        balance = await self._ledger.kudos(account)
        if outcome.kind == "settled":
            return KudosReply(account=account, balance=balance, repeated=repeated)
        self._on_refusal("insufficient")
        message = f"The account has {balance / KUDOS_SCALE:g} kudos, fewer than it is to give."
        error = ErrorInfo(code=ErrorCode.QUOTA_EXCEEDED, message=message, limit=kudos_limit(account).label)
        return KudosReply(account=account, balance=balance, repeated=repeated, error=error)

    def _check(self, transaction_id: str, amount: int) -> KudosReply | None:
        try:
            token(transaction_id)
        except ValueError:
            return self._refuse("not_a_token", "id", "not an id: up to 64 letters, digits, - and _")
        if amount <= 0:
            return self._refuse("not_positive", "amount", "must be above zero")
        if amount > MAX_KUDOS:
            return self._refuse("too_large", "amount", f"must be at most {MAX_KUDOS // KUDOS_SCALE} kudos")
        return None

    async def _unknown(self, **accounts: str) -> KudosReply | None:
        for param, account in accounts.items():
            try:
                known = await self._accounts.by_id(token(account))
            except ValueError:
                known = None
            if known is None:
                return self._refuse("unknown_account", param, "no such account")
        return None

    def _refuse(self, rule: str, param: str, message: str) -> KudosReply:
        self._on_refusal(rule)
        return KudosReply(error=ErrorInfo(code=ErrorCode.INVALID_REQUEST, message=f"{param}: {message}", param=param))


def _entry(account: str, metric: str, amount: int) -> HoldEntry:
    return HoldEntry(tenant=account, metric=metric, bucket=LIFETIME_BUCKET, amount=amount)


def _digest(transaction_id: str, kind: str, entries: tuple[HoldEntry, ...]) -> str:
    """Tells two transactions under one id apart."""
    text = repr((transaction_id, kind, [(entry.tenant, entry.metric, entry.amount) for entry in entries]))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]

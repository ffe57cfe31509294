"""An operator's side of the harness: accounts in memory, and usage that a test makes up."""

import asyncio
import dataclasses
import hashlib
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from callboard_admin.accounts import Accounts
from callboard_admin.room_records import RoomRecords
from callboard_contracts.config import QuotaSection
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.kudos import KudosChange, KudosLeader, KudosPayment, KudosTransaction
from callboard_contracts.quota import AuditEvent, VerifyReply
from callboard_contracts.rooms import RoomReply, RoomRequest
from callboard_edge.domain.administration import Administration
from callboard_kit.fake_bucket import FakeBucket
from tests.support.characters import ServedCharacters
from tests.unit.edge.harness import EdgeHarness

TOKEN = "an-operators-own-long-token"
PREFIX = "/admin/v1"


def event_row(seq: int, tenant: str = "k_0123456789abcdef") -> dict[str, str | int]:
    """One usage event as an export has it."""
    return {
        "seq": seq,
        "at": "2026-11-21T00:00:00.000+00:00",
        "request_id": f"r{seq}",
        "tenant": tenant,
        "kind": "chat",
        "model": "owl",
        "pool": "main",
        "outcome": "stop",
        "prompt_tokens": 7,
        "completion_tokens": 2,
        "audio_ms": 0,
    }


@dataclass
class FakeUsage:
    """Says what it was told to say; `trouble` is raised by whatever is asked next, `late_trouble` after the events."""

    units: dict[str, int] = field(default_factory=dict[str, int])
    rows: list[dict[str, str | int]] = field(default_factory=list[dict[str, str | int]])
    audit_trails: dict[str, list[AuditEvent]] = field(default_factory=dict[str, list[AuditEvent]])
    report: VerifyReply = field(default_factory=VerifyReply)
    trouble: Exception | None = None
    late_trouble: Exception | None = None
    verifying: asyncio.Event = field(default_factory=asyncio.Event)
    """A verification ends when this is set, as it is at first."""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when events or a verification are no longer worked on."""
    asked: list[tuple[float, float, str | None]] = field(default_factory=list[tuple[float, float, str | None]])

    def __post_init__(self) -> None:
        self.verifying.set()

    async def used(self, since: float, until: float, tenant: str | None = None) -> dict[str, int]:
        self._fail()
        self.asked.append((since, until, tenant))
        return {name: units for name, units in self.units.items() if tenant in {None, name}}

    async def events(
        self, since: float, until: float, tenant: str | None = None
    ) -> AsyncGenerator[list[dict[str, str | int]]]:
        self._fail()
        self.asked.append((since, until, tenant))
        rows = [row for row in self.rows if tenant in {None, row["tenant"]}]
        try:
            for start in range(0, len(rows), 100):
                yield rows[start : start + 100]
            if self.late_trouble is not None:
                raise self.late_trouble
        finally:
            self.left.set()

    async def verify(self, since: float) -> VerifyReply:
        self._fail()
        self.asked.append((since, 0, None))
        try:
            await self.verifying.wait()
        finally:
            self.left.set()
        return self.report

    async def audit_trail(self, request_id: str) -> list[AuditEvent]:
        self._fail()
        if request_id not in self.audit_trails:
            raise CallboardError(ErrorCode.NOT_FOUND, "nothing is known of that request", param="request_id")
        return self.audit_trails[request_id]

    def _fail(self) -> None:
        if self.trouble is not None:
            raise self.trouble


@dataclass
class FakeKudos:
    """Keeps transactions as quota does; `trouble` is raised by whatever is asked next."""

    balances: dict[str, int] = field(default_factory=dict[str, int])
    transactions: dict[str, tuple[tuple[str, str, int], KudosTransaction]] = field(
        default_factory=dict[str, tuple[tuple[str, str, int], KudosTransaction]]
    )
    changes: dict[str, list[KudosChange]] = field(default_factory=dict[str, list[KudosChange]])
    earners: list[KudosLeader] = field(default_factory=list[KudosLeader])
    asked_since: float = 0.0
    paid: dict[str, list[KudosPayment]] = field(default_factory=dict[str, list[KudosPayment]])
    trouble: Exception | None = None

    async def balance(self, account: str) -> int:
        self._fail()
        return self.balances.get(account, 0)

    async def earn(self, account: str, amount: int, transaction_id: str | None = None) -> KudosTransaction:
        self._fail()
        return self._transaction(transaction_id, "", account, amount)

    async def transfer(
        self, source: str, target: str, amount: int, transaction_id: str | None = None
    ) -> KudosTransaction:
        self._fail()
        if self.balances.get(source, 0) < amount:
            raise CallboardError(ErrorCode.QUOTA_EXCEEDED, "The account has fewer.", limit="key.kudos")
        return self._transaction(transaction_id, source, target, amount)

    async def history(self, account: str, since: float = 0.0, after_seq: int = 0) -> AsyncGenerator[KudosChange]:
        self._fail()
        for change in self.changes.get(account, []):
            if change.at >= since and change.seq > after_seq:
                yield change

    async def leaders(self, since: float, limit: int) -> list[KudosLeader]:
        self._fail()
        self.asked_since = since
        return self.earners[:limit]

    async def payments(self, worker: str, since: float = 0.0, after_seq: int = 0) -> AsyncGenerator[KudosPayment]:
        self._fail()
        for payment in self.paid.get(worker, []):
            if payment.at >= since and payment.seq > after_seq:
                yield payment

    def _transaction(self, transaction_id: str | None, source: str, target: str, amount: int) -> KudosTransaction:
        contents = (source, target, amount)
        transaction_id = transaction_id or f"new-{len(self.transactions)}"
        if transaction_id in self.transactions:
            known, transaction = self.transactions[transaction_id]
            if known != contents:
                raise CallboardError(ErrorCode.INVALID_REQUEST, "that id was used for another transaction", param="id")
            return dataclasses.replace(transaction, repeated=True)
        for account, change in ((source, -amount), (target, amount)):
            if account:
                self._change(account, change, transaction_id)
        payer = source or target
        transaction = KudosTransaction(transaction_id, payer, self.balances[payer], repeated=False)
        self.transactions[transaction_id] = (contents, transaction)
        return transaction

    def _change(self, account: str, change: int, transaction_id: str) -> None:
        self.balances[account] = self.balances.get(account, 0) + change
        seq = sum(map(len, self.changes.values())) + 1
        self.changes.setdefault(account, []).append(
            KudosChange(seq, time.time(), change, self.balances[account], transaction_id)
        )

    def _fail(self) -> None:
        if self.trouble is not None:
            raise self.trouble


@dataclass
class AdminHarness:
    """What the admin API of a harness works with."""

    bucket: FakeBucket = field(default_factory=FakeBucket)
    usage: FakeUsage = field(default_factory=FakeUsage)
    kudos: FakeKudos = field(default_factory=FakeKudos)
    rooms: FakeBucket = field(default_factory=FakeBucket)
    ended: list[RoomRequest] = field(default_factory=list[RoomRequest])
    announced: list[str] = field(default_factory=list[str])
    quota: QuotaSection = field(default_factory=QuotaSection)
    characters: ServedCharacters = field(init=False)

    def __post_init__(self) -> None:
        self.characters = ServedCharacters(self.room_records)

    @property
    def book(self) -> Accounts:
        """The accounts."""

        async def announce(account_id: str) -> None:
            await asyncio.sleep(0)
            self.announced.append(account_id)

        return Accounts(self.bucket, announce)

    @property
    def room_records(self) -> RoomRecords:
        """The rooms; what ends is only noted."""

        async def ask(request: RoomRequest) -> RoomReply:
            await asyncio.sleep(0)
            self.ended.append(request)
            return RoomReply()

        return RoomRecords(self.rooms, ask)

    def administration(self, pause_s: float = 0.0) -> Administration:
        """What an edge is given."""

        async def quota() -> QuotaSection:
            return self.quota

        digest = hashlib.sha256(TOKEN.encode()).digest()
        return Administration(
            digest, self.book, self.usage, self.kudos, self.room_records, self.characters.records, quota, pause_s
        )


@dataclass
class Operator:
    """Asks the admin API of a harness, with the token unless another is given."""

    harness: EdgeHarness
    admin_harness: AdminHarness

    async def ask(
        self, method: str, path: str, body: Any = None, *, token: str | None = TOKEN, **headers: str
    ) -> tuple[int, Any, bytes]:
        """The status, headers and body of an answer."""
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        url = self.harness.url + (path if path.startswith("/admin") else PREFIX + path)
        timeout = aiohttp.ClientTimeout(10)
        async with self.harness.session.request(method, url, json=body, headers=headers, timeout=timeout) as reply:
            return reply.status, reply.headers, await reply.read()

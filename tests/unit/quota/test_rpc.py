"""Requests that fail are answered in the form of their reply."""

import asyncio
from typing import Any, cast

import pytest
from faststream.nats import NatsBroker, TestNatsBroker
from nats.aio.msg import Msg

from callboard_contracts import subjects
from callboard_contracts.errors import ErrorCode
from callboard_contracts.kudos import KudosReply, KudosTransferRequest
from callboard_contracts.model import Message
from callboard_contracts.quota import IdentifyReply, ReleaseReply, ReserveReply, ReserveRequest, Work
from callboard_kit.background_tasks import BackgroundTasks
from callboard_kit.bus import Bus
from callboard_quota.domain.kudos import KudosService
from callboard_quota.domain.ports import StoreUnavailable
from callboard_quota.domain.repair import CounterRepair
from callboard_quota.domain.reservations import ReservationService
from callboard_quota.domain.verification import Verifier
from callboard_quota.handlers import rpc
from callboard_quota.handlers.rpc import RpcHandlers

pytestmark = pytest.mark.unit


class Kudos(KudosService):
    """Counts transfers."""

    def __init__(self) -> None:
        self.transfers: list[KudosTransferRequest] = []

    async def transfer(self, request: KudosTransferRequest) -> KudosReply:
        self.transfers.append(request)
        return KudosReply(account=request.source, balance=5)


@pytest.fixture
def kudos() -> Kudos:
    return Kudos()


@pytest.fixture
def handlers(kudos: Kudos) -> RpcHandlers:
    """The handlers over services that these tests do not call."""
    reservations, verifier = ReservationService.__new__(ReservationService), Verifier.__new__(Verifier)
    repair = CounterRepair.__new__(CounterRepair)
    return RpcHandlers(Bus.__new__(Bus), BackgroundTasks(), reservations, kudos, verifier, repair)


async def unavailable() -> Message:
    raise StoreUnavailable("no acknowledgement in time")


async def test_store_that_is_away_is_told_in_the_reply(handlers: RpcHandlers) -> None:
    reply = await handlers.answer(subjects.QUOTA_IDENTIFY, unavailable)
    assert isinstance(reply, IdentifyReply)
    assert reply.error is not None
    assert reply.error.code == ErrorCode.QUOTA_UNAVAILABLE


async def test_release_that_fails_gets_no_reply(handlers: RpcHandlers) -> None:
    assert "error" not in ReleaseReply.model_fields
    with pytest.raises(StoreUnavailable):
        await handlers.answer(subjects.QUOTA_RELEASE, unavailable)


class SlowReservations(ReservationService):
    """Takes its time."""

    def __init__(self) -> None:
        pass

    async def reserve(self, request: ReserveRequest) -> ReserveReply:
        await asyncio.sleep(0.3)
        return ReserveReply(tenant="k_a")


class Outbox(Bus):
    """Keeps what is published."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []

    def send(self, subject: str, payload: bytes = b"", *_: Any, **__: Any) -> None:
        self.sent.append((subject, payload))


async def test_decision_that_takes_long_says_so_to_those_who_wait_for_it(
    kudos: Kudos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc, "DECISION_HEARTBEAT_S", 0.05)
    asked = ReserveRequest(request_id="r", kind="chat", model="owl", work=Work(), life_s=10)
    for wait_s in (0.0, 10.0):
        outbox, tasks = Outbox(), BackgroundTasks()
        handlers = RpcHandlers(
            outbox, tasks, SlowReservations(), kudos, Verifier.__new__(Verifier), CounterRepair.__new__(CounterRepair)
        )
        request = asked.model_copy(update={"wait_s": wait_s})
        await handlers.reserve(Msg(cast("Any", None), data=request.model_dump_json().encode(), reply="inbox"))
        await tasks.close(5)
        *beats, (subject, reply) = outbox.sent
        assert (subject, ReserveReply.model_validate_json(reply).tenant) == ("inbox", "k_a")
        assert set(beats) == ({("inbox", b"")} if wait_s else set())


async def test_request_over_the_bound_is_refused_without_being_handled(
    handlers: RpcHandlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc, "MAX_IN_FLIGHT", -1)
    reply = await handlers.answer(subjects.QUOTA_USAGE, lambda: pytest.fail("was handled"))
    assert reply.error.code == ErrorCode.QUOTA_UNAVAILABLE


async def test_broker_validates_requests_and_answers(handlers: RpcHandlers, kudos: Kudos) -> None:
    broker = NatsBroker(middlewares=[handlers], logger=None)
    handlers.subscribe(broker)
    body: dict[str, Any] = {"id": "t1", "source": "k_a", "target": "k_b", "amount": 3}
    async with TestNatsBroker(broker) as bus:
        replies: list[KudosReply] = []
        for sent in (body, {**body, "amount": 1.5}, b"\xff"):
            answer = await bus.request(sent, subjects.QUOTA_KUDOS_TRANSFER, timeout=5)
            replies.append(KudosReply.model_validate_json(answer.body))
    assert [reply.error and (reply.error.code, reply.error.param) for reply in replies] == [
        None,
        (ErrorCode.INVALID_REQUEST, "amount"),
        (ErrorCode.INVALID_REQUEST, "request"),
    ]
    assert kudos.transfers == [KudosTransferRequest.model_validate(body)]


async def test_message_that_cannot_be_handled_is_logged(
    handlers: RpcHandlers, caplog: pytest.LogCaptureFixture
) -> None:
    broker = NatsBroker(middlewares=[handlers], logger=None)
    invalidated: list[str] = []
    rpc.subscribe_control(broker, lambda: None, invalidated.append)
    async with TestNatsBroker(broker) as bus:
        await bus.publish(b"k_ada", subjects.CTL_INVALIDATE)
        with pytest.raises(ValueError, match="tenant"):
            await bus.publish(b"\xff", subjects.CTL_INVALIDATE)
    assert invalidated == ["k_ada"]
    assert [record.message for record in caplog.records] == ["message_failed"]

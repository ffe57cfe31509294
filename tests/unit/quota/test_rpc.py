"""Requests that fail are answered in the form of their reply."""

from typing import Any

import pytest
from faststream.nats import NatsBroker, TestNatsBroker

from callboard_contracts import subjects
from callboard_contracts.errors import ErrorCode
from callboard_contracts.kudos import KudosReply, KudosTransferRequest
from callboard_contracts.model import Message
from callboard_contracts.quota import IdentifyReply, ReleaseReply
from callboard_kit.background_tasks import BackgroundTasks
from callboard_kit.bus import Bus
from callboard_quota.domain.kudos import KudosService
from callboard_quota.domain.ports import StoreUnavailable
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
    return RpcHandlers(Bus.__new__(Bus), BackgroundTasks(), reservations, kudos, verifier)


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

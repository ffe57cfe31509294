"""The requests of edges, workers and operators to quota, and the control messages of other processes.

Each handler is a FastStream subscriber, from which the AsyncAPI document is made. Only reservations, which every
request of every client waits for, reach their handler directly.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from faststream import ContextRepo
from faststream.nats import NatsBroker
from faststream.nats.annotations import NatsMessage
from nats.aio.msg import Msg
from pydantic import ValidationError

from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.quota import DECISION_HEARTBEAT_S, ReserveReply, ReserveRequest, VerifyReply, VerifyRequest
from callboard_contracts.subjects import (
    CTL_ACCOUNTS,
    CTL_INVALIDATE,
    QUOTA_IDENTIFY,
    QUOTA_KUDOS_EARN,
    QUOTA_KUDOS_SHOW,
    QUOTA_KUDOS_TRANSFER,
    QUOTA_KUDOS_UPTIME,
    QUOTA_RELEASE,
    QUOTA_RESERVE,
    QUOTA_USAGE,
    QUOTA_VERIFY,
)
from callboard_kit import tracing
from callboard_kit.background_tasks import BackgroundTasks
from callboard_kit.broker import AnsweringMiddleware, Handler, malformed, reply_of, subscribe_all
from callboard_kit.bus import Bus, BusError
from callboard_quota.domain.kudos import KudosService
from callboard_quota.domain.ports import StoreUnavailable
from callboard_quota.domain.repair import CounterRepair
from callboard_quota.domain.reservations import ReservationService
from callboard_quota.domain.verification import Verifier
from callboard_quota.metrics import IN_FLIGHT, KUDOS_REFUSALS, STORE_FAILURES, decision_seconds

log = logging.getLogger(__name__)

QUEUE = "quota"
MAX_IN_FLIGHT = 2000


class _NotReady(Exception):  # noqa: N818 - a state, not a failure
    """Too many requests are in flight, or the clock is wrong."""


class RpcHandlers:
    """The handler of each request, and what is common to all: errors in the form of the reply, and metrics.

    It is the broker's middleware. What comes on top of 2,000 requests in flight, or while the clock is wrong and
    `may_decide` is false, is answered at once as unavailable.
    """

    def __init__(
        self,
        bus: Bus,
        in_flight: BackgroundTasks,
        reservations: ReservationService,
        kudos: KudosService,
        verifier: Verifier,
        repair: CounterRepair,
        may_decide: Callable[[], bool] = lambda: True,
    ) -> None:
        self._bus = bus
        self._in_flight = in_flight
        self._may_decide = may_decide
        self._reservations = reservations
        self._verifier = verifier
        self._repair = repair
        self.handlers: Mapping[str, Handler] = {
            QUOTA_RESERVE: reservations.reserve,
            QUOTA_RELEASE: reservations.release,
            QUOTA_IDENTIFY: reservations.identify,
            QUOTA_USAGE: reservations.usage,
            QUOTA_VERIFY: self.verify,
            QUOTA_KUDOS_SHOW: kudos.balance,
            QUOTA_KUDOS_EARN: kudos.earn,
            QUOTA_KUDOS_TRANSFER: kudos.transfer,
            QUOTA_KUDOS_UPTIME: kudos.uptime,
        }
        self._replies = {subject: reply_of(handler) for subject, handler in self.handlers.items()}
        self._names = {subject: subject.removeprefix("quota.").replace(".", "_") for subject in self.handlers}
        IN_FLIGHT.set_function(lambda: len(in_flight))

    def __call__(self, msg: Any, /, *, context: ContextRepo) -> AnsweringMiddleware:
        """The middleware of one message."""
        return AnsweringMiddleware(self.answer, msg, context)

    def subscribe(self, broker: NatsBroker) -> None:
        """Has the broker take the requests, in the queue group that all quota processes share."""
        subscribe_all(broker, QUEUE, self.handlers)

    async def reserve(self, message: Msg) -> None:
        """Answers a reservation without FastStream, which would cost half as much again as the decision."""
        if not message.reply:
            return
        reply = await self.answer(QUOTA_RESERVE, partial(self._decide, message))
        try:
            self._bus.send(message.reply, reply.encoded())
        except BusError:
            log.warning("reply_lost", extra={"request": "reserve"})

    async def _decide(self, message: Msg) -> ReserveReply:
        request = ReserveRequest.model_validate_json(message.data)
        if not request.wait_s:
            return await self._reservations.reserve(request)
        heartbeat = _Heartbeat(partial(self._say_alive, message.reply))
        try:
            return await self._reservations.reserve(request)
        finally:
            heartbeat.stop()

    async def verify(self, request: VerifyRequest, message: NatsMessage) -> VerifyReply:
        """Recomputes all counters from USAGE, for the hours since a time, or repairs them; raises StoreUnavailable."""
        beating = asyncio.ensure_future(self._beat(message.reply_to, request.heartbeat_s))
        try:
            return await (self._repair.repair(request) if request.repair else self._verifier.verify(request))
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    async def answer(self, subject: str, call: Callable[[], Awaitable[Any]]) -> Any:
        """Calls a handler and returns its reply, or the error in its form; raises where the reply has no error."""
        reply = self._replies.get(subject)
        if reply is None:
            return await call()
        request = self._names[subject]
        started = time.monotonic()
        try:
            self._check_ready()
            return await call()
        except Exception as error:
            info = _error_info(request, error)
            if "error" not in reply.model_fields:
                # A release carries no error; without a reply its sender tries again or lets the lease end.
                raise
            return reply.model_validate({"error": info})
        finally:
            decision_seconds(request).observe(time.monotonic() - started, tracing.ids())

    def _check_ready(self) -> None:
        if len(self._in_flight) > MAX_IN_FLIGHT or not self._may_decide():
            raise _NotReady

    async def _beat(self, reply_to: str, interval_s: float | None) -> None:
        while interval_s is not None:
            await asyncio.sleep(interval_s)
            self._say_alive(reply_to)

    def _say_alive(self, reply_to: str) -> None:
        try:
            self._bus.send(reply_to)
        except BusError:
            log.debug("heartbeat_unsent")


class _Heartbeat:
    """Beats every half second until it is stopped."""

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat = beat
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(DECISION_HEARTBEAT_S, self._due)

    def _due(self) -> None:
        self._timer = self._loop.call_later(DECISION_HEARTBEAT_S, self._due)
        self._beat()

    def stop(self) -> None:
        """Ends it."""
        self._timer.cancel()


def subscribe_control(
    broker: NatsBroker, invalidate_accounts: Callable[[], None], invalidate_usage: Callable[[str], None]
) -> None:
    """Has the broker take the control messages, which every process gets."""

    @broker.subscriber(CTL_ACCOUNTS, title=CTL_ACCOUNTS)
    async def account_changed(account_id: str) -> None:  # pyright: ignore[reportUnusedFunction] - the broker calls it
        """An account was changed, so that no cache of accounts is up to date."""
        log.debug("account_changed", extra={"account": account_id})
        invalidate_accounts()

    @broker.subscriber(CTL_INVALIDATE, title=CTL_INVALIDATE)
    async def usage_grew(tenant: str) -> None:  # pyright: ignore[reportUnusedFunction] - the broker calls it
        """A tenant's use of an hour that is over grew, so that no cache of it is up to date."""
        invalidate_usage(tenant)


def _error_info(request: str, error: Exception) -> ErrorInfo:
    """What the sender of a request is told of an error, which is also counted or logged."""
    if isinstance(error, StoreUnavailable | _NotReady):
        if isinstance(error, StoreUnavailable):
            STORE_FAILURES.labels(request).inc()
            log.warning("store_unavailable", extra={"request": request, "reason": str(error)})
        return ErrorInfo(code=ErrorCode.QUOTA_UNAVAILABLE, message="The quota store did not answer in time.")
    if isinstance(error, ValidationError):
        if request.startswith("kudos"):
            KUDOS_REFUSALS.labels("malformed").inc()
        return malformed(error)
    log.error("request_failed", extra={"request": request}, exc_info=error)
    return ErrorInfo(code=ErrorCode.INTERNAL, message="The quota decision failed.")

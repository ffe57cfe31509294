"""The requests of edges, workers and operators to quota.

FastStream carries all but reserve, which every request of every client waits for. A handler only starts a task and
returns, and the task answers; how many run at once is bounded, and what comes on top is answered at once as
unavailable.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Literal

from faststream.nats import NatsBroker, NatsMessage
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from pydantic import ValidationError

from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.kudos import KudosBalanceRequest, KudosEarnRequest, KudosReply, KudosTransferRequest
from callboard_contracts.model import Message
from callboard_contracts.quota import (
    IdentifyReply,
    IdentifyRequest,
    ReleaseRequest,
    ReserveReply,
    ReserveRequest,
    UsageReply,
    UsageRequest,
    VerifyReply,
    VerifyRequest,
)
from callboard_contracts.subjects import (
    QUOTA_IDENTIFY,
    QUOTA_KUDOS_EARN,
    QUOTA_KUDOS_SHOW,
    QUOTA_KUDOS_TRANSFER,
    QUOTA_RELEASE,
    QUOTA_RESERVE,
    QUOTA_USAGE,
    QUOTA_VERIFY,
)
from callboard_kit.bus import Bus, BusError
from callboard_kit.lifecycle import is_set_within
from callboard_quota.domain.kudos import KudosService
from callboard_quota.domain.ports import StoreUnavailable
from callboard_quota.domain.reservations import ReservationService
from callboard_quota.domain.verification import Verifier
from callboard_quota.metrics import DECISION_SECONDS, IN_FLIGHT, KUDOS_REFUSALS, STORE_FAILURES

log = logging.getLogger(__name__)

QUEUE = "quota"
MAX_IN_FLIGHT = 2000

Kind = Literal["reserve", "release", "identify", "usage", "verify", "kudos_show", "kudos_earn", "kudos_transfer"]
_SUBJECTS: dict[Kind, str] = {
    "reserve": QUOTA_RESERVE,
    "release": QUOTA_RELEASE,
    "identify": QUOTA_IDENTIFY,
    "usage": QUOTA_USAGE,
    "verify": QUOTA_VERIFY,
    "kudos_show": QUOTA_KUDOS_SHOW,
    "kudos_earn": QUOTA_KUDOS_EARN,
    "kudos_transfer": QUOTA_KUDOS_TRANSFER,
}
_REPLIES: dict[Kind, Callable[..., Message] | None] = {
    "reserve": ReserveReply,
    # A release carries no error; without an answer its sender tries again or lets the lease end.
    "release": None,
    "identify": IdentifyReply,
    "usage": UsageReply,
    "verify": VerifyReply,
    "kudos_show": KudosReply,
    "kudos_earn": KudosReply,
    "kudos_transfer": KudosReply,
}
"""How an error is told."""


class RpcHandler:
    """Takes requests from the broker and answers each in a task of its own."""

    def __init__(self, bus: Bus, reservations: ReservationService, kudos: KudosService, verifier: Verifier) -> None:
        self._bus = bus
        self._reservations = reservations
        self._kudos = kudos
        self._verifier = verifier
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._reserve_subscription: Subscription | None = None
        IN_FLIGHT.set_function(lambda: len(self._tasks))

    async def open(self) -> None:
        """Begins to take reservations; raises BusUnavailable."""
        self._reserve_subscription = await self._bus.subscribe_now(
            QUOTA_RESERVE, lambda message: self._take(message, "reserve"), QUEUE
        )

    async def close(self) -> None:
        """Takes no more reservations; those that are on their way to this process still count as taken."""
        if self._reserve_subscription is not None:
            await self._reserve_subscription.drain()
            self._reserve_subscription = None

    def attach(self, broker: NatsBroker) -> None:
        """Has the broker bring the other requests, in the queue group that all quota processes share."""
        for kind, subject in _SUBJECTS.items():
            if kind != "reserve":
                self._listen(broker, kind, subject)

    def _listen(self, broker: NatsBroker, kind: Kind, subject: str) -> None:
        @broker.subscriber(subject, queue=QUEUE, no_reply=True, decoder=_whole, title=subject)
        async def take(message: NatsMessage) -> None:
            self._take(message.raw_message, kind)

    async def drain(self, timeout_s: float) -> None:
        """Waits for the requests that are being answered; at the timeout they are cancelled."""
        if not await is_set_within(self._idle, timeout_s):
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _take(self, message: Msg, kind: Kind) -> None:
        if not message.reply:
            return
        task = asyncio.get_running_loop().create_task(
            self._answer(message.data, message.reply, kind), name=f"quota-{kind}"
        )
        self._tasks.add(task)
        self._idle.clear()
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._idle.set()

    async def _answer(self, body: bytes, reply_to: str, kind: Kind) -> None:
        started = asyncio.get_running_loop().time()
        try:
            reply = _UNAVAILABLE[kind] if len(self._tasks) > MAX_IN_FLIGHT else await self._decide(kind, body, reply_to)
        except StoreUnavailable as error:
            STORE_FAILURES.labels(kind).inc()
            log.warning("store_unavailable", extra={"request": kind, "reason": str(error)})
            reply = _UNAVAILABLE[kind]
        except ValidationError as error:
            if kind.startswith("kudos"):
                KUDOS_REFUSALS.labels("malformed").inc()
            reply = _malformed(kind, error)
        except Exception:
            log.exception("request_failed", extra={"request": kind})
            reply = _FAILED[kind]
        if reply is not None:
            # Not by the broker's connection, which ends first when the process stops.
            try:
                await self._bus.publish(reply_to, reply.model_dump_json(exclude_none=True).encode(), flush=True)
            except BusError:
                log.warning("answer_lost", extra={"request": kind})
        DECISION_SECONDS.labels(kind).observe(asyncio.get_running_loop().time() - started)

    async def _decide(self, kind: Kind, body: bytes, reply_to: str) -> Message:
        match kind:
            case "reserve":
                return await self._reservations.reserve(ReserveRequest.model_validate_json(body))
            case "release":
                return await self._reservations.release(ReleaseRequest.model_validate_json(body))
            case "identify":
                return await self._reservations.identify(IdentifyRequest.model_validate_json(body))
            case "usage":
                return await self._reservations.usage(UsageRequest.model_validate_json(body))
            case "verify":
                return await self._verify(VerifyRequest.model_validate_json(body), reply_to)
            case "kudos_show":
                return await self._kudos.balance(KudosBalanceRequest.model_validate_json(body))
            case "kudos_earn":
                return await self._kudos.earn(KudosEarnRequest.model_validate_json(body))
            case "kudos_transfer":
                return await self._kudos.transfer(KudosTransferRequest.model_validate_json(body))

    async def _verify(self, request: VerifyRequest, reply_to: str) -> VerifyReply:
        beating = asyncio.ensure_future(self._beat(reply_to, request.heartbeat_s))
        try:
            return await self._verifier.verify(request)
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    async def _beat(self, reply_to: str, interval_s: float | None) -> None:
        while interval_s is not None:
            await asyncio.sleep(interval_s)
            try:
                await self._bus.publish(reply_to)
            except BusError:
                return


async def _whole(message: NatsMessage) -> NatsMessage:
    """Hands a handler the message itself, since it needs the reply subject and parses the body on its own."""
    return message


def _malformed(kind: Kind, error: ValidationError) -> Message | None:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    param = ".".join(str(part) for part in first["loc"]) or "request"
    return _with_error(kind, ErrorCode.INVALID_REQUEST, f"{param}: {first['msg']}", param)


def _with_error(kind: Kind, code: ErrorCode, message: str, param: str | None = None) -> Message | None:
    reply = _REPLIES[kind]
    return reply(error=ErrorInfo(code=code, message=message, param=param)) if reply else None


_UNAVAILABLE = {
    kind: _with_error(kind, ErrorCode.QUOTA_UNAVAILABLE, "The quota store did not answer in time.")
    for kind in _SUBJECTS
}
_FAILED = {kind: _with_error(kind, ErrorCode.INTERNAL, "The quota decision failed.") for kind in _SUBJECTS}

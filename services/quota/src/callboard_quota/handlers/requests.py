"""The requests of edges and workers: reserve, release, identify, usage, verify.

FastStream carries all but reserve, which every request of every client waits for. A handler only starts a task and
returns, and the task answers; how many run at once is bounded, and what comes on top is answered at once as
unavailable.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

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
    ReleaseReply,
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
from callboard_quota.domain.desk import Desk
from callboard_quota.domain.kudos import Treasury
from callboard_quota.domain.ports import StoreUnavailable
from callboard_quota.domain.verification import Verifier
from callboard_quota.metrics import DECISION_SECONDS, IN_FLIGHT, KUDOS_REFUSALS, STORE_FAILURES

log = logging.getLogger(__name__)

QUEUE = "quota"
MAX_IN_FLIGHT = 2000

Request = TypeVar("Request", bound=Message)


class RequestDesk:
    """Takes requests from the broker and answers each in a task of its own."""

    def __init__(self, bus: Bus, desk: Desk, treasury: Treasury, verifier: Verifier) -> None:
        self._bus = bus
        self._desk = desk
        self._treasury = treasury
        self._verifier = verifier
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._reservations: Subscription | None = None

    async def open(self) -> None:
        """Begins to take reservations; raises BusUnavailable."""
        self._reservations = await self._bus.subscribe_now(
            QUOTA_RESERVE, lambda message: self._take(message, "reserve", self._reserve), QUEUE
        )

    async def close(self) -> None:
        """Takes no more reservations; those that are on their way to this process still count as taken."""
        if self._reservations is not None:
            await self._reservations.drain()
            self._reservations = None

    def attach(self, broker: NatsBroker) -> None:
        """Has the broker bring the other requests, in the queue group that all quota processes share."""

        @broker.subscriber(QUOTA_RELEASE, queue=QUEUE, no_reply=True, decoder=_whole, title="quota.release")
        async def release(message: NatsMessage) -> None:
            """Gives a hold back whole."""
            self._take(message.raw_message, "release", self._release)

        @broker.subscriber(QUOTA_IDENTIFY, queue=QUEUE, no_reply=True, decoder=_whole, title="quota.identify")
        async def identify(message: NatsMessage) -> None:
            """Says who a caller is."""
            self._take(message.raw_message, "identify", self._identify)

        @broker.subscriber(QUOTA_USAGE, queue=QUEUE, no_reply=True, decoder=_whole, title="quota.usage")
        async def usage(message: NatsMessage) -> None:
            """Says what a caller has used."""
            self._take(message.raw_message, "usage", self._usage)

        @broker.subscriber(QUOTA_KUDOS_SHOW, queue=QUEUE, no_reply=True, decoder=_whole, title="quota.kudos.show")
        async def kudos_show(message: NatsMessage) -> None:
            """Says what an account has in kudos."""
            self._take(message.raw_message, "kudos_show", self._kudos_show)

        @broker.subscriber(QUOTA_KUDOS_EARN, queue=QUEUE, no_reply=True, decoder=_whole, title="quota.kudos.earn")
        async def kudos_earn(message: NatsMessage) -> None:
            """Credits an account."""
            self._take(message.raw_message, "kudos_earn", self._kudos_earn)

        @broker.subscriber(
            QUOTA_KUDOS_TRANSFER, queue=QUEUE, no_reply=True, decoder=_whole, title="quota.kudos.transfer"
        )
        async def kudos_transfer(message: NatsMessage) -> None:
            """Moves kudos from one account to another."""
            self._take(message.raw_message, "kudos_transfer", self._kudos_transfer)

        @broker.subscriber(QUOTA_VERIFY, queue=QUEUE, no_reply=True, decoder=_whole, title="quota.verify")
        async def verify(message: NatsMessage) -> None:
            """Computes the counters again from the usage events."""
            raw = message.raw_message
            self._take(raw, "verify", lambda body: self._verify(body, raw.reply))

    async def drain(self, timeout_s: float) -> None:
        """Waits for the requests that are being answered; at the timeout they are cancelled."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _take(self, message: Msg, kind: str, answer: Callable[[bytes], Awaitable[Message]]) -> None:
        if not message.reply:
            return
        task = asyncio.get_running_loop().create_task(
            self._answer(message.data, message.reply, kind, answer), name=f"quota-{kind}"
        )
        self._tasks.add(task)
        self._idle.clear()
        IN_FLIGHT.set(len(self._tasks))
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        IN_FLIGHT.set(len(self._tasks))
        if not self._tasks:
            self._idle.set()

    async def _answer(
        self, body: bytes, reply_to: str, kind: str, answer: Callable[[bytes], Awaitable[Message]]
    ) -> None:
        started = asyncio.get_running_loop().time()
        try:
            reply = _UNAVAILABLE[kind] if len(self._tasks) > MAX_IN_FLIGHT else await answer(body)
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
                await self._bus.publish(reply_to, reply.model_dump_json(exclude_none=True).encode())
            except BusError:
                log.warning("answer_lost", extra={"request": kind})
        DECISION_SECONDS.labels(kind).observe(asyncio.get_running_loop().time() - started)

    async def _reserve(self, body: bytes) -> ReserveReply:
        return await self._desk.reserve(ReserveRequest.model_validate_json(body))

    async def _release(self, body: bytes) -> ReleaseReply:
        return await self._desk.release(ReleaseRequest.model_validate_json(body))

    async def _usage(self, body: bytes) -> UsageReply:
        return await self._desk.usage(UsageRequest.model_validate_json(body))

    async def _verify(self, body: bytes, reply_to: str) -> VerifyReply:
        request = VerifyRequest.model_validate_json(body)
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

    async def _kudos_show(self, body: bytes) -> KudosReply:
        return await self._treasury.balance(KudosBalanceRequest.model_validate_json(body))

    async def _kudos_earn(self, body: bytes) -> KudosReply:
        return await self._treasury.earn(KudosEarnRequest.model_validate_json(body))

    async def _kudos_transfer(self, body: bytes) -> KudosReply:
        return await self._treasury.transfer(KudosTransferRequest.model_validate_json(body))

    async def _identify(self, body: bytes) -> IdentifyReply:
        return await self._desk.identify(IdentifyRequest.model_validate_json(body))


async def _whole(message: NatsMessage) -> NatsMessage:
    """Hands a handler the message itself, since it needs the reply subject and parses the body on its own."""
    return message


def _malformed(kind: str, error: ValidationError) -> Message | None:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    param = ".".join(str(part) for part in first["loc"]) or "request"
    info = ErrorInfo(code=ErrorCode.INVALID_REQUEST, message=f"{param}: {first['msg']}", param=param)
    return _with_error(kind, info)


def _with_error(kind: str, info: ErrorInfo) -> Message | None:
    match kind:
        case "reserve":
            return ReserveReply(error=info)
        case "identify":
            return IdentifyReply(error=info)
        case "usage":
            return UsageReply(error=info)
        case "kudos_show" | "kudos_earn" | "kudos_transfer":
            return KudosReply(error=info)
        case "verify":
            return VerifyReply(error=info)
        case _:
            # A release carries no error; without an answer its sender tries again or lets the lease end.
            return None


_KINDS = ("reserve", "release", "identify", "usage", "verify", "kudos_show", "kudos_earn", "kudos_transfer")
_UNAVAILABLE = {
    kind: _with_error(
        kind, ErrorInfo(code=ErrorCode.QUOTA_UNAVAILABLE, message="The quota store did not answer in time.")
    )
    for kind in _KINDS
}
_FAILED = {
    kind: _with_error(kind, ErrorInfo(code=ErrorCode.INTERNAL, message="The quota decision failed.")) for kind in _KINDS
}

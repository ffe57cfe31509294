"""FastStream on the bus's own connection, with a task for each message.

By itself FastStream opens a connection, handles the messages of a subject one after another, and drops what waits in
the client when it stops.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from inspect import cleandoc
from types import TracebackType
from typing import Any, get_type_hints

from faststream import BaseMiddleware, ContextRepo
from faststream.message import StreamMessage
from faststream.nats import NatsBroker
from faststream.nats.subscriber.usecases.core_subscriber import CoreSubscriber
from faststream.types import BrokerMiddleware
from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from pydantic import ValidationError

from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.model import Message
from callboard_kit import tracing
from callboard_kit.background_tasks import BackgroundTasks
from callboard_kit.bus import Bus

log = logging.getLogger(__name__)

DRAIN_TIMEOUT_S = 10.0

Handle = Callable[[Msg], Coroutine[Any, Any, None]]
Handler = Callable[..., Awaitable[Message]]
Answer = Callable[[str, Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""Calls the handler of a subject and returns its reply, or the error in the reply's form."""


class BusBroker(NatsBroker):
    """A broker over the bus; `direct` are the subjects whose messages do not go through FastStream."""

    def __init__(
        self,
        bus: Bus,
        in_flight: BackgroundTasks,
        direct: Mapping[str, Handle],
        middlewares: Sequence[BrokerMiddleware[Any, Any]] = (),
    ) -> None:
        super().__init__(logger=None, middlewares=middlewares)
        self._bus = bus
        self._in_flight = in_flight
        self._direct = direct
        self._started = asyncio.Event()
        self.joined = False
        """Whether the process takes requests, as a member of the queue groups."""

    async def _connect(self) -> Client:
        self.config.connect(self._bus.connection)
        return self._bus.connection

    async def start(self) -> None:
        """Subscribes; raises BusUnavailable."""
        await self.connect()
        await self._subscribe(self._core_subscribers())
        await super().start()
        self._started.set()
        self.joined = True

    async def join(self) -> None:
        """Takes requests, at first or again; raises BusUnavailable."""
        if self._started.is_set():
            await self._subscribe(self._grouped())
            self.joined = True
        else:
            await self.start()

    async def leave(self) -> None:
        """Takes no more requests, so that the others of the queue groups get them; those on their way are answered."""
        self.joined = False
        for subscriber in self._grouped():
            if subscriber.subscription is not None:
                await self._bus.drain(subscriber.subscription)

    async def drain(self) -> None:
        """Takes no more messages; those on their way still become tasks, and the connection stays for their replies.

        A connection that is just being restored has none.
        """
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                for subscriber in self._core_subscribers() if self.joined else []:
                    if subscriber.subscription is not None:
                        await subscriber.subscription.drain()
        except (TimeoutError, errors.Error):
            log.warning("broker_not_drained")

    async def _subscribe(self, subscribers: Sequence[CoreSubscriber]) -> None:
        for subscriber in subscribers:
            subject = subscriber.subject.template
            handle = self._direct.get(subject) or partial(self._consume, subscriber)
            # FastStream leaves a subscription alone that is there already; the bus restores it with the connection.
            take = partial(self._take, subject, handle)
            subscriber.subscription = await self._bus.subscribe_now(subject, take, subscriber.queue)

    def _grouped(self) -> list[CoreSubscriber]:
        return [subscriber for subscriber in self._core_subscribers() if subscriber.queue]

    def _core_subscribers(self) -> list[CoreSubscriber]:
        return [one for one in self.subscribers if isinstance(one, CoreSubscriber)]

    def _take(self, subject: str, handle: Handle, message: Msg) -> None:
        self._in_flight.start(tracing.served(handle(message), subject, message.headers), subject)

    async def _consume(self, subscriber: CoreSubscriber, message: Msg) -> None:
        # Until all its subscribers run FastStream drops what comes.
        await self._started.wait()
        await subscriber.consume(message)


class AnsweringMiddleware(BaseMiddleware[Any, Any]):
    """Has every message answered by `answer`, and logs what fails by its type."""

    def __init__(self, answer: Answer, msg: Any, context: ContextRepo) -> None:
        super().__init__(msg, context=context)
        self._answer = answer

    async def consume_scope(self, call_next: Callable[[Any], Awaitable[Any]], msg: StreamMessage[Any]) -> Any:
        """Calls the handler."""
        return await self._answer(msg.raw_message.subject, partial(call_next, msg))

    async def after_processed(
        self,
        exc_type: type[BaseException] | None = None,
        exc_val: BaseException | None = None,
        exc_tb: TracebackType | None = None,
    ) -> bool | None:
        """Logs an error."""
        # FastStream itself is silent without a logger, and with one it logs every message.
        if exc_val is not None:
            log.warning("message_failed", extra={"subject": self.msg.subject, "error": type(exc_val).__name__})
        return False


def subscribe_all(broker: NatsBroker, queue: str, handlers: Mapping[str, Handler]) -> None:
    """Has the broker take requests by their subjects, in the queue group that all processes of a service share."""
    for subject, handler in handlers.items():
        description = cleandoc(handler.__doc__ or "").partition("\n")[0]
        broker.subscriber(subject, queue, title=subject, description=description)(handler)


def reply_of(handler: Handler) -> type[Message]:
    """The model of a handler's reply."""
    reply: type[Message] = get_type_hints(handler)["return"]
    return reply


def malformed(error: ValidationError) -> ErrorInfo:
    """The error for a request that cannot be read, by the field at fault."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    # FastStream puts the name of the handler's parameter before the field.
    loc = first["loc"][1:] if first["loc"][:1] == ("request",) else first["loc"]
    param = ".".join(map(str, loc)) or "request"
    return ErrorInfo(code=ErrorCode.INVALID_REQUEST, message=f"{param}: {first['msg']}", param=param)

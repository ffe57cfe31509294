"""FastStream on the bus's own connection, with a task for each message.

By itself FastStream opens a connection, handles the messages of a subject one after another, and drops what waits in
the client when it stops.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

from faststream.nats import NatsBroker
from faststream.nats.subscriber.usecases.core_subscriber import CoreSubscriber
from faststream.types import BrokerMiddleware
from nats.aio.client import Client
from nats.aio.msg import Msg

from callboard_kit.background_tasks import BackgroundTasks
from callboard_kit.bus import Bus

Handle = Callable[[Msg], Coroutine[Any, Any, None]]


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
        """Takes no more messages; those on their way still become tasks, and the connection stays for their replies."""
        for subscriber in self._core_subscribers() if self.joined else []:
            if subscriber.subscription is not None:
                await subscriber.subscription.drain()

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
        self._in_flight.start(handle(message), subject)

    async def _consume(self, subscriber: CoreSubscriber, message: Msg) -> None:
        # Until all its subscribers run FastStream drops what comes.
        await self._started.wait()
        await subscriber.consume(message)

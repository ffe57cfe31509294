"""What keeps a view of the bus current has in common: it hears of changes, and reads what it may have missed."""

import asyncio
from abc import ABC, abstractmethod

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from callboard_kit.bus import Bus


class RecordWatch(ABC):
    """Listens on a subject from `start` to `close`; `due` is set when there is something to read."""

    name: str

    def __init__(self, bus: Bus, subject: str) -> None:
        self.due = asyncio.Event()
        self._bus = bus
        self._subject = subject
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Subscribes, and reads what stands; raises BusUnavailable."""
        self._subscription = await self._bus.subscribe(self._subject, self.heard)
        self._bus.on_reconnect(self.reconnected)
        await self.read()

    async def close(self) -> None:
        """Ends the subscription."""
        if self._subscription is not None:
            await self._bus.unsubscribe(self._subscription)
            self._subscription = None

    @abstractmethod
    async def run(self) -> None:
        """Reads what has changed, for as long as the process runs."""

    @abstractmethod
    async def heard(self, message: Msg) -> None:
        """Takes a message of the subject."""

    @abstractmethod
    async def read(self) -> None:
        """Reads what is due; a bus that fails is only logged."""

    def reconnected(self) -> None:
        """Lets everything be read, since messages may have been missed."""
        self.due.set()

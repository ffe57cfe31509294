"""FastStream on the bus's own connection, so that requests and the store share its buffers and its reconnects."""

from types import TracebackType

from faststream.nats import NatsBroker
from faststream.nats.subscriber.usecases.core_subscriber import CoreSubscriber
from nats.aio.client import Client

from callboard_kit.bus import Bus


class BusBroker(NatsBroker):
    """A broker that neither opens nor closes a connection; subscriptions come back with the bus's own reconnect."""

    def __init__(self, bus: Bus) -> None:
        super().__init__(apply_types=False, logger=None)
        self._bus = bus

    async def _connect(self) -> Client:
        self.config.connect(self._bus.connection)
        return self._bus.connection

    async def stop(
        self,
        exc_type: type[BaseException] | None = None,
        exc_val: BaseException | None = None,
        exc_tb: TracebackType | None = None,
    ) -> None:
        """Takes no more requests; those that have arrived are handed over, and the connection stays for the answers."""
        for subscriber in self.subscribers:
            if isinstance(subscriber, CoreSubscriber) and subscriber.subscription is not None:
                # FastStream itself would throw away what waits in the client.
                await subscriber.subscription.drain()
                subscriber.subscription = None
            await subscriber.stop()

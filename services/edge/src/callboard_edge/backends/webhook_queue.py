"""The webhooks that are to be called, in the stream WEBHOOKS: kept by one edge, called by any."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from nats.aio.msg import Msg

from callboard_contracts import subjects
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.streams import ACK_WAIT_S, WEBHOOK_CONSUMER, WEBHOOKS
from callboard_contracts.webhooks import WebhookTask
from callboard_kit.bus import Bus, BusError, PublishRefused
from callboard_kit.feed import ACK, NAK, TERM, Feed
from callboard_kit.jobs import STREAM_STORE_FAILED, bus_unavailable
from callboard_kit.payload_cipher import PayloadUnreadable

RETRY_AFTER_S = 10.0
STOP_WAIT_S = 2.0
"""How long a call that is under way has to end when the edge stops."""


class BusWebhookQueue:
    """Keeps webhooks on the bus; see `WebhookQueue`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def add(self, task: WebhookTask) -> None:
        """Keeps a webhook until it was called."""
        try:
            payload = await self._bus.cipher.encrypt(task.encoded())
            await self._bus.publish_stored(subjects.webhook(task.job_id), payload, f"{task.job_id}.webhook")
        except PublishRefused as refused:
            if refused.err_code != STREAM_STORE_FAILED:
                raise bus_unavailable() from refused
            raise CallboardError(
                ErrorCode.QUEUE_FULL,
                "Too many webhooks wait to be called; try again later, or ask for the status instead.",
                retry_after_s=RETRY_AFTER_S,
            ) from refused
        except BusError as error:
            raise bus_unavailable() from error

    @asynccontextmanager
    async def news(self, job_id: str) -> AsyncGenerator[asyncio.Event]:
        """An event that is set whenever a result of a job was stored."""
        event = asyncio.Event()
        subscription = await self._bus.subscribe_now(subjects.result(job_id), lambda _message: event.set())
        try:
            yield event
        finally:
            await self._bus.unsubscribe(subscription)


class WebhookFeed(Feed):
    """Has each webhook called, and takes it out of the stream afterwards.

    It reports while it waits for the text, so that another edge calls the webhook if this one is lost.
    """

    def __init__(self, bus: Bus, call: Callable[[WebhookTask], Awaitable[None]], max_running: int) -> None:
        super().__init__(bus, WEBHOOKS, WEBHOOK_CONSUMER, self._handled, max_running=max_running)
        self._bus = bus
        self._call = call
        self._ends = asyncio.Event()

    async def drain(self, timeout_s: float) -> None:
        """Takes no more, lets the calls that are under way end, and hands the rest back for other edges."""
        self._ends.set()
        await super().drain(timeout_s)

    async def _handled(self, message: Msg) -> bytes:
        try:
            task = WebhookTask.model_validate_json(await self._bus.cipher.decrypt(message.data))
        except (ValueError, PayloadUnreadable):
            # Its key is erased, as the request is; or it is of another version.
            return TERM
        call, ends = asyncio.ensure_future(self._call(task)), asyncio.ensure_future(self._ends.wait())
        try:
            while not call.done() and not ends.done():
                await asyncio.wait({call, ends}, timeout=ACK_WAIT_S / 3, return_when=asyncio.FIRST_COMPLETED)
                if not call.done():
                    await self._report(message)
            await asyncio.wait({call}, timeout=STOP_WAIT_S)
            if not call.done():
                return NAK
            call.result()
            return ACK
        finally:
            for one in (call, ends):
                one.cancel()
            await asyncio.gather(call, ends, return_exceptions=True)

    async def _report(self, message: Msg) -> None:
        try:
            await self._bus.publish(message.reply, b"+WPI")
        except BusError:
            # While the bus is away, nothing is handed to others either.
            return

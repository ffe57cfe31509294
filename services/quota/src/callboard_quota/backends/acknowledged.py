"""Publishes many messages into streams at once and waits for all their acknowledgements together."""

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from callboard_kit.bus import RETRYABLE_ERROR_CODES, Bus, BusError
from callboard_quota.domain.ports import StoreUnavailable

log = logging.getLogger(__name__)

REPEAT_S = 0.75
"""A message that is not acknowledged for this long is sent again; every message here is safe to repeat."""
_RUNNING_OUT_S = 0.05


class Outgoing(NamedTuple):
    """A message for a stream."""

    subject: str
    payload: bytes
    headers: dict[str, str] | None


class Acknowledged(NamedTuple):
    """A stream's answer; `value` is the counter's new value where the stream counts and the message was new."""

    duplicate: bool
    value: int | None


class _Group:
    """Messages that are waited for together."""

    __slots__ = ("answers", "done", "messages", "missing")

    def __init__(self, messages: Sequence[Outgoing], done: asyncio.Future[None]) -> None:
        self.messages = messages
        self.answers: list[Acknowledged | None] = [None] * len(messages)
        self.missing = len(messages)
        self.done = done


class AcknowledgedPublisher:
    """One inbox for all acknowledgements; each group costs one future, however many messages it has."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._inbox = bus.connection.new_inbox()
        self._prefix = len(self._inbox) + 1
        self._waiting: dict[int, tuple[_Group, int]] = {}
        self._next = 0
        self._subscription: Subscription | None = None
        bus.on_reconnect(self._wake)
        self._reconnected = asyncio.Event()

    async def start(self) -> None:
        """Begins to listen for acknowledgements."""
        self._subscription = await self._bus.subscribe(f"{self._inbox}.*", self._arrived)

    async def publish(self, messages: Sequence[Outgoing], timeout_s: float) -> list[Acknowledged]:
        """Sends the messages in order and returns their acknowledgements.

        Raises:
            StoreUnavailable: not all were confirmed in time; those that were sent may still take effect.
        """
        loop = asyncio.get_running_loop()
        group = _Group(messages, loop.create_future())
        first = self._next
        self._next += len(messages)
        for n in range(len(messages)):
            self._waiting[first + n] = (group, n)
        until = loop.time() + timeout_s
        try:
            while not group.done.done():
                for n, message in enumerate(messages):
                    if group.answers[n] is None:
                        reply = f"{self._inbox}.{first + n}"
                        await self._bus.publish(message.subject, message.payload, message.headers, reply)
                left_s = until - loop.time()
                if left_s <= 0:
                    raise StoreUnavailable("no acknowledgement in time")
                try:
                    async with asyncio.timeout(min(REPEAT_S, max(_RUNNING_OUT_S, left_s))):
                        await asyncio.shield(group.done)
                except TimeoutError:
                    if loop.time() >= until:
                        raise StoreUnavailable("no acknowledgement in time") from None
        except BusError as error:
            raise StoreUnavailable(str(error)) from error
        finally:
            for n in range(len(messages)):
                self._waiting.pop(first + n, None)
            if not group.done.done():
                group.done.cancel()
        group.done.result()
        return [answer for answer in group.answers if answer is not None]

    def _wake(self) -> None:
        log.debug("acknowledgements_resumed", extra={"waiting": len(self._waiting)})

    async def _arrived(self, message: Msg) -> None:
        key = int(message.subject[self._prefix :])
        waiting = self._waiting.get(key)
        if waiting is None:
            return
        group, n = waiting
        if not message.data:
            return  # No stream answers at this moment; the message is sent again.
        answer: dict[str, Any] = json.loads(message.data)
        error = answer.get("error")
        if error is not None:
            if error.get("err_code") not in RETRYABLE_ERROR_CODES and not group.done.done():
                log.error("store_refused", extra={"err_code": error.get("err_code"), "subject": message.subject})
                group.done.set_exception(StoreUnavailable(f"refused with {error.get('err_code')}"))
            return
        if group.answers[n] is None:
            value = answer.get("val")
            group.answers[n] = Acknowledged(bool(answer.get("duplicate")), None if value is None else int(value))
            group.missing -= 1
            if group.missing == 0 and not group.done.done():
                group.done.set_result(None)

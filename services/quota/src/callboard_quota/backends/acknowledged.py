"""Publishes several messages into streams at once and waits for all their acknowledgements together."""

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from nats.aio.msg import Msg

from callboard_kit.bus import RETRYABLE_ERROR_CODES, Bus, BusError
from callboard_quota.domain.ports import StoreUnavailable

log = logging.getLogger(__name__)

REPEAT_S = 0.75
"""A message that is not acknowledged for this long is sent again; every message here is safe to repeat."""
TICK_S = 0.05
VALUE = b'"val":"'


class Outgoing(NamedTuple):
    """A message for a stream."""

    subject: str
    payload: bytes
    headers: dict[str, str] | None


class Acknowledged(NamedTuple):
    """A stream's answer; `value` is the counter's new value where the stream counts and the message was new.

    A duplicate that was not sent `again` was first sent by somebody else.
    """

    duplicate: bool
    value: int | None
    again: bool


@dataclass(slots=True, eq=False)
class _Group:
    """Messages that are published and acknowledged together."""

    messages: Sequence[Outgoing]
    first: int
    answers: list[Acknowledged | None]
    missing: int
    done: asyncio.Future[None]
    repeat_at: float
    give_up_at: float
    again: bool = False


class AcknowledgedPublisher:
    """One inbox for all acknowledgements, one future for each group and one timer for all of them."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._inbox = bus.connection.new_inbox()
        self._prefix = len(self._inbox) + 1
        self._waiting: dict[int, _Group] = {}
        self._groups: set[_Group] = set()
        self._next = 0

    async def start(self) -> None:
        """Begins to listen for acknowledgements."""
        await self._bus.subscribe_now(f"{self._inbox}.*", self._arrived)

    async def run(self) -> None:
        """Repeats what is not acknowledged and gives up what has waited too long, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_S)
            now = loop.time()
            for group in list(self._groups):
                if group.done.done():
                    continue
                if now >= group.give_up_at:
                    group.done.set_exception(StoreUnavailable("no acknowledgement in time"))
                elif now >= group.repeat_at:
                    group.repeat_at = now + REPEAT_S
                    group.again = True
                    try:
                        await self._send(group)
                    except BusError:
                        log.debug("repeat_failed")

    async def publish(
        self, messages: Sequence[Outgoing], timeout_s: float, *, flush: bool = False
    ) -> list[Acknowledged]:
        """Sends the messages in order and returns their acknowledgements.

        They go out with all others of this turn of the event loop, or else `flush`.

        Raises:
            StoreUnavailable: not all were confirmed in time; those that were sent may still take effect.
        """
        loop = asyncio.get_running_loop()
        count, now = len(messages), loop.time()
        group = _Group(
            messages, self._next, [None] * count, count, loop.create_future(), now + REPEAT_S, now + timeout_s
        )
        self._next += count
        numbers = range(group.first, self._next)
        for number in numbers:
            self._waiting[number] = group
        self._groups.add(group)
        try:
            await self._send(group, flush=flush)
            await group.done
        except BusError as error:
            raise StoreUnavailable(str(error)) from error
        finally:
            self._groups.discard(group)
            for number in numbers:
                self._waiting.pop(number, None)
        return [answer for answer in group.answers if answer is not None]

    async def _send(self, group: _Group, *, flush: bool = False) -> None:
        last = len(group.messages) - 1
        for n, message in enumerate(group.messages):
            if group.answers[n] is None:
                reply = f"{self._inbox}.{group.first + n}"
                now = flush and n == last
                await self._bus.publish(message.subject, message.payload, message.headers, reply, flush=now)

    def _arrived(self, message: Msg) -> None:
        number = int(message.subject[self._prefix :])
        group = self._waiting.get(number)
        data = message.data
        if group is None or not data:
            return  # Too late, or no stream answers now and the message is sent again.
        if b'"error"' in data:
            code = json.loads(data)["error"].get("err_code")
            if code not in RETRYABLE_ERROR_CODES and not group.done.done():
                log.error("store_refused", extra={"err_code": code})
                group.done.set_exception(StoreUnavailable(f"refused with {code}"))
            return
        n = number - group.first
        if group.answers[n] is None:
            # The server writes these answers in one form, and finding the value costs a third of parsing them as JSON.
            at = data.find(VALUE)
            value = None if at < 0 else int(data[at + len(VALUE) : data.index(b'"', at + len(VALUE))])
            group.answers[n] = Acknowledged(b'"duplicate"' in data, value, group.again)
            group.missing -= 1
            if group.missing == 0 and not group.done.done():
                group.done.set_result(None)

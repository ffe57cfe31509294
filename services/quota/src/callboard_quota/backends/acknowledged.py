"""Publishes several messages into streams at once and waits for all their acknowledgements together."""

import asyncio
import itertools
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from nats.aio.msg import Msg

from callboard_kit.bus import RETRYABLE_ERROR_CODES, Bus, BusError
from callboard_quota.domain.ports import Applied, StoreUnavailable

log = logging.getLogger(__name__)

REPEAT_S = 0.75
"""A message that is not acknowledged for this long is sent again; every message here is safe to repeat."""
TICK_S = 0.05
VALUE = b'"val":"'
Answer = tuple[bytes, bool]
"""What a stream said of a message, and whether the message had been sent again before."""
_NONE_YET: Answer = (b"", False)


@dataclass(slots=True)
class Outgoing:
    """A message for a stream."""

    subject: str
    payload: bytes
    headers: dict[str, str] | None


@dataclass(slots=True, eq=False)
class _Group:
    """Messages that are published and acknowledged together."""

    number: int
    messages: Sequence[Outgoing]
    answers: list[Answer]
    missing: int
    done: asyncio.Future[list[Answer]]
    repeat_at: float
    give_up_at: float
    again: bool = False


class AcknowledgedPublisher:
    """One inbox for all acknowledgements, one future for each group and one timer for all of them."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        self._inbox = bus.connection.new_inbox()
        self._prefix = len(self._inbox) + 1
        self._groups: dict[int, _Group] = {}
        """The groups that are not acknowledged."""
        self._waiting: dict[str, tuple[_Group, int]] = {}
        """Their messages that are not, and the place of each, by what stands last in the subject of its answer."""
        self._numbers = itertools.count(1)

    async def start(self) -> None:
        """Begins to listen for acknowledgements."""
        await self._bus.subscribe_now(f"{self._inbox}.*", self._arrived)
        # A server that was killed may have stored a part of a group; the sooner the rest follows, the less likely this
        # process ends before.
        self._bus.on_reconnect(self._repeat_all)

    async def run(self) -> None:
        """Repeats what is not acknowledged and gives up what has waited too long, until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            now = self._loop.time()
            for group in list(self._groups.values()):
                if group.done.done():
                    # Whoever waited was cancelled.
                    self._forget(group)
                elif now >= group.give_up_at:
                    self._fail(group, StoreUnavailable("no acknowledgement in time"))
                elif now >= group.repeat_at:
                    self._repeat(group)

    def publish(self, messages: Sequence[Outgoing], timeout_s: float) -> asyncio.Future[list[Answer]]:
        """Sends the messages in order and returns the answers to them, once all are there.

        They go out with all others of this turn of the event loop.

        Raises:
            StoreUnavailable: not all were confirmed in time; those that were sent may still take effect.
        """
        count, now = len(messages), self._loop.time()
        number = next(self._numbers)
        done: asyncio.Future[list[Answer]] = self._loop.create_future()
        group = _Group(number, messages, [_NONE_YET] * count, count, done, now + REPEAT_S, now + timeout_s)
        self._groups[number] = group
        for n in range(count):
            self._waiting[f"{number}-{n}"] = (group, n)
        try:
            self._send(group)
        except BusError as error:
            self._fail(group, StoreUnavailable(str(error)))
        return done

    def _repeat_all(self) -> None:
        for group in self._groups.values():
            if not group.done.done():
                self._repeat(group)

    def _repeat(self, group: _Group) -> None:
        group.repeat_at = self._loop.time() + REPEAT_S
        group.again = True
        try:
            self._send(group)
        except BusError:
            log.debug("repeat_failed")

    def _fail(self, group: _Group, error: StoreUnavailable) -> None:
        self._forget(group)
        if not group.done.done():
            group.done.set_exception(error)

    def _forget(self, group: _Group) -> None:
        del self._groups[group.number]
        for n in range(len(group.answers)):
            self._waiting.pop(f"{group.number}-{n}", None)

    def _send(self, group: _Group) -> None:
        answers, replies = group.answers, f"{self._inbox}.{group.number}"
        self._bus.send_all(
            [
                (message.subject, message.payload, f"{replies}-{n}", message.headers)
                for n, message in enumerate(group.messages)
                if answers[n] is _NONE_YET
            ]
        )

    def _arrived(self, message: Msg) -> None:
        of = message.subject[self._prefix :]
        waiting = self._waiting.get(of)
        data = message.data
        if waiting is None or not data:
            return  # Too late, or no stream answers now and the message is sent again.
        group, n = waiting
        if b'"error"' in data:
            code = json.loads(data)["error"].get("err_code")
            if code not in RETRYABLE_ERROR_CODES:
                log.error("store_refused", extra={"err_code": code})
                self._fail(group, StoreUnavailable(f"refused with {code}"))
            return
        del self._waiting[of]
        group.answers[n] = (data, group.again)
        group.missing -= 1
        if group.missing == 0:
            del self._groups[group.number]
            if not group.done.done():
                group.done.set_result(group.answers)


def is_duplicate(answer: Answer) -> bool:
    """Whether a message of that id was stored before."""
    return b'"duplicate"' in answer[0]


def applied_of(answer: Answer) -> Applied:
    """What a stream that counts says of a change."""
    data, again = answer
    # The server writes these answers in one form, and finding the value costs a third of parsing them as JSON.
    _, _, value = data.partition(VALUE)
    return Applied(int(value.partition(b'"')[0]) if value else None, b'"duplicate"' in data, again)

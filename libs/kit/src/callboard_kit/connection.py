"""nats-py's client with two short cuts, for messages that many short steps wait for one after another.

A message whose subscriber never waits is handed over where it is read, instead of through a queue and a task of its
subscription; what is published within one turn of the event loop is written at the end of that turn, instead of by a
flusher task; and a request waits on one future and one timer. All else is the client's own.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

log = logging.getLogger(__name__)


NO_RESPONDERS = "503"
MAX_UNSENT_BYTES = 1024 * 1024
"""With more than this in the socket's buffer, the client's own flusher waits until the server has read it."""

OnMessage = Callable[[Msg], None]


class Connection(Client):
    """A client for one connection to the bus."""

    def __init__(self) -> None:
        super().__init__()
        self._on_message: dict[int, OnMessage] = {}
        self._asked = 0
        self._write_due = False

    async def subscribe_now(self, subject: str, on_message: OnMessage, queue: str = "") -> Subscription:
        """Subscribes with a plain function, which is called where the message is read; raises as `subscribe` does."""
        subscription = await self.subscribe(subject, queue=queue)
        self._on_message[self._sid] = on_message
        return subscription

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self._on_message.pop(sid, None)
        super()._remove_sub(sid, max_msgs)

    async def _init_request_sub(self) -> None:
        await super()._init_request_sub()
        # The subscription for the answers to all requests, which was just made.
        self._on_message[self._sid] = self._answered

    def _answered(self, message: Msg) -> None:
        future = self._resp_map.get(message.subject.rpartition(".")[2])
        if future is not None and not future.done():
            future.set_result(message)

    async def ask(
        self,
        subject: str,
        payload: bytes,
        timeout_s: float,
        headers: dict[str, str] | None = None,
        on_late: OnMessage | None = None,
        late_s: float = 0.0,
    ) -> Msg:
        """Sends a request and returns the answer; one that comes up to `late_s` after the timeout goes to `on_late`.

        Raises:
            nats.errors.Error: as `request` does.
        """
        if not self._resp_sub_prefix:
            await self._init_request_sub()
        assert self._resp_sub_prefix
        # The prefix is this connection's own and cannot be guessed, so numbers are enough behind it.
        self._asked += 1
        token = f"{self._asked:x}"
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Msg] = loop.create_future()
        self._resp_map[token] = answer
        timer = loop.call_later(timeout_s, _time_out, answer)
        try:
            await self.publish(subject, payload, reply=self._resp_sub_prefix.decode() + token, headers=headers)
            message = await answer
        except nats.errors.TimeoutError:
            if on_late is not None:
                self._wait_on(token, on_late, late_s)
            raise
        finally:
            timer.cancel()
            if self._resp_map.get(token) is answer:
                del self._resp_map[token]
        if not message.data and message.headers and message.headers.get("Status") == NO_RESPONDERS:
            raise nats.errors.NoRespondersError
        return message

    def _wait_on(self, token: str, on_late: OnMessage, late_s: float) -> None:
        loop = asyncio.get_running_loop()
        late: asyncio.Future[Msg] = loop.create_future()
        self._resp_map[token] = late
        timer = loop.call_later(late_s, late.cancel)

        def ended(found: asyncio.Future[Msg]) -> None:
            timer.cancel()
            self._resp_map.pop(token, None)
            if not found.cancelled():
                on_late(found.result())

        late.add_done_callback(ended)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        on_message = self._on_message.get(sid)
        if on_message is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        try:
            found = await self._process_headers(headers) if headers else None
            on_message(self._build_message(sid, subject, reply, data, found))
        except Exception:
            log.exception("message_failed", extra={"subject": subject.decode()})

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        if force_flush or not self.is_connected or self._unsent_bytes() > MAX_UNSENT_BYTES:
            return await super()._flush_pending(force_flush)
        if not self._write_due:
            self._write_due = True
            asyncio.get_running_loop().call_soon(self.write)
        return None

    def write(self) -> None:
        """Hands what was published to the socket now, unless that has too much to send already."""
        self._write_due = False
        if (
            self._pending_data_size == 0
            or not self.is_connected
            or self._transport is None
            or self._unsent_bytes() > MAX_UNSENT_BYTES
        ):
            return
        try:
            self._transport.writelines(self._pending)
        except (OSError, RuntimeError):
            # The connection is lost, which its reading side is about to notice; this goes out after the reconnect.
            return
        self._pending = []
        self._pending_data_size = 0

    def _unsent_bytes(self) -> int:
        writer: asyncio.StreamWriter | None = getattr(self._transport, "_io_writer", None)
        return writer.transport.get_write_buffer_size() if writer else 0


def _time_out(answer: asyncio.Future[Msg]) -> None:
    if not answer.done():
        answer.set_exception(nats.errors.TimeoutError())

"""Jobs that used up their deliveries: told to the owner, kept in the dead-letter stream, taken out of the queue.

Without this such a job would stay in its work queue for ever and count against its tenant's bound.
"""

import base64
import json
import logging
from collections.abc import Awaitable, Callable

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from callboard_kit.bus import ApiError, Bus, BusError

log = logging.getLogger(__name__)

QUEUE_GROUP = "dead-letters"


class DeadLetters:
    """Listens for the server's advisory that a job was delivered too often; one process of a group handles each."""

    def __init__(self, bus: Bus, stream: str, on_dead: Callable[[bytes], Awaitable[None]]) -> None:
        self._bus = bus
        self._stream = stream
        self._on_dead = on_dead
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Begins to listen."""
        subject = f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{self._stream}.*"
        self._subscription = await self._bus.subscribe(subject, self._advised, queue=QUEUE_GROUP)

    async def close(self) -> None:
        """Stops listening."""
        if self._subscription:
            await self._bus.unsubscribe(self._subscription)

    async def _advised(self, message: Msg) -> None:
        try:
            advisory = json.loads(message.data)
            await self._bury(int(advisory["stream_seq"]))
        except (BusError, KeyError, ValueError):
            log.exception("dead_letter_failed", extra={"stream": self._stream})

    async def _bury(self, seq: int) -> None:
        try:
            found = (await self._bus.api(f"STREAM.MSG.GET.{self._stream}", {"seq": seq}))["message"]
        except ApiError:
            return
        data = base64.b64decode(found.get("data", ""))
        log.error("job_dead", extra={"stream": self._stream, "stream_seq": seq})
        try:
            await self._on_dead(data)
        finally:
            letter_id = f"{self._stream}.{seq}"
            await self._bus.publish_stored(f"dlq.{self._stream.lower()}", data, msg_id=letter_id)
            await self._bus.delete_message(self._stream, seq)

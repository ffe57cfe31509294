"""Jobs that are not handed out again: answered for, noted by their ids in the dead-letter stream, deleted.

Without this such a job would stay in its work queue for ever and count against its tenant's bound.
"""

import asyncio
import base64
import json
import logging
from collections.abc import Awaitable, Callable

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from callboard_contracts import subjects
from callboard_contracts.headers import MESSAGE_TTL, MSG_ID
from callboard_contracts.jobs import DeadLetter
from callboard_contracts.streams import DEAD_PAYLOAD_LIFE_S, DLQ
from callboard_kit.bus import ApiError, Bus, BusError, PublishRefused
from callboard_kit.payload_cipher import ENCRYPTED
from callboard_kit.stream_reads import first_seq, read_batches
from callboard_kit.wire import parse_headers

log = logging.getLogger(__name__)

QUEUE_GROUP = "dead-letters"
RETRY_PAUSES_S = (1.0, 2.0, 5.0, 10.0)
MISSED_S = 86_400.0
"""How far back a process that starts looks for dead jobs that were never handled."""


class DeadLetters:
    """Handles the server's advisories that a job was delivered too often; one process of a queue group takes each."""

    def __init__(self, bus: Bus, stream: str, on_dead: Callable[[bytes], Awaitable[None]]) -> None:
        self._bus = bus
        self._stream = stream
        self._advisories = f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{stream}.*"
        self._on_dead = on_dead
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Begins to listen."""
        self._subscription = await self._bus.subscribe(self._advisories, self._advised, queue=QUEUE_GROUP)

    async def recover(self) -> None:
        """Handles what was advised while no process listened, or was cut off."""
        try:
            seq = await first_seq(self._bus, DLQ, self._advisories, self._bus.clock.now() - MISSED_S)
            if seq is None:
                return
            async for batch in read_batches(self._bus, DLQ, self._advisories, seq):
                for stored in batch:
                    await self._take(stored.data)
        except BusError:
            log.warning("dead_letters_unread", extra={"stream": self._stream})

    async def close(self) -> None:
        """Stops listening."""
        if self._subscription:
            await self._bus.unsubscribe(self._subscription)

    async def _advised(self, message: Msg) -> None:
        await self._take(message.data)

    async def _take(self, data: bytes) -> None:
        """Handles one advisory, with retries; what still fails is left for the next process that starts."""
        try:
            advisory = json.loads(data)
            seq = int(advisory["stream_seq"])
        except (KeyError, ValueError):
            log.exception("advisory_unreadable", extra={"stream": self._stream})
            return
        for pause_s in (*RETRY_PAUSES_S, None):
            try:
                await self.set_aside(seq, advisory.get("deliveries", 0), self._on_dead)
            except Exception:
                log.exception("dead_letter_failed", extra={"stream": self._stream, "stream_seq": seq})
            else:
                return
            if pause_s is not None:
                await asyncio.sleep(pause_s)

    async def set_aside(self, seq: int, deliveries: int, answer: Callable[[bytes], Awaitable[None]]) -> None:
        """Has a job answered for, notes its ids as a dead letter and deletes it from its queue; raises BusError."""
        try:
            found = (await self._bus.api(f"STREAM.MSG.GET.{self._stream}", {"seq": seq}))["message"]
        except ApiError:
            return
        headers = parse_headers(base64.b64decode(found.get("hdrs", ""))) or {}
        letter = DeadLetter(
            request_id=headers.get(MSG_ID),
            stream=self._stream,
            stream_seq=seq,
            subject=found["subject"],
            deliveries=deliveries,
            queued_at=found["time"],
        )
        log.error("job_dead", extra=letter.model_dump())
        # Each step can be repeated, and the job is deleted last, so that a step that was cut off is done again.
        payload = base64.b64decode(found.get("data", ""))
        await answer(payload)
        await self._keep_payload(seq, payload)
        await self._bus.publish_stored(
            subjects.dead_letter(self._stream), letter.encoded(), msg_id=f"{self._stream}.{seq}"
        )
        await self._bus.delete_message(self._stream, seq)

    async def _keep_payload(self, seq: int, payload: bytes) -> None:
        """Keeps a payload as it is, so that it is unreadable once its key is erased; never one in plain text."""
        if not payload.startswith(ENCRYPTED):
            return
        subject, life = subjects.dead_payload(self._stream, seq), {MESSAGE_TTL: f"{DEAD_PAYLOAD_LIFE_S}s"}
        try:
            await self._bus.publish_stored(subject, payload, f"{self._stream}.{seq}.payload", headers=life)
        except PublishRefused as refused:
            # The stream is full, or as an earlier version declared it: the letter matters more.
            log.warning("dead_payload_refused", extra={"stream_seq": seq, "err_code": refused.err_code})

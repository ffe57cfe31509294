"""Dead letters, as operators list, show, retry and drop them.

A dead letter holds ids and times, and its payload only as long as the payload's key: some twenty minutes. A retry runs
the same request again, as a new one of the tenant `operator`: its client had an error for an answer and is not told,
and nothing is charged.
"""

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from callboard_contracts import subjects
from callboard_contracts.chat import ChatJob
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.jobs import DeadLetter, Job, Service
from callboard_contracts.quota import UsageEvent
from callboard_contracts.speech import SpeechJob
from callboard_contracts.streams import DLQ, JOB_STREAMS, USAGE
from callboard_kit.bus import Bus
from callboard_kit.jobs import enqueue
from callboard_kit.payload_cipher import PayloadUnreadable
from callboard_kit.stream_reads import read_batches, read_last, read_subject, subject_names

OPERATOR = "operator"
"""The tenant of retries, which quota does not know and so does not charge, and the edge that nobody is."""
POLL_S = 0.25
SERVICES: dict[str, Service] = {"CHAT": "chat", "TTS": "tts", "STT": "stt"}


@dataclass(frozen=True, slots=True)
class StoredLetter:
    """A dead letter, its number among the dead letters, and when it died in Unix time.

    `has_payload` says that its payload was kept; its key may be erased all the same.
    """

    seq: int
    died_at: float
    letter: DeadLetter
    has_payload: bool

    @property
    def pool(self) -> str:
        """The service and the pool of the job."""
        service, pool = self.letter.subject.split(".")[1:3]
        return f"{service}/{pool}"


@dataclass(frozen=True, slots=True)
class Retried:
    """A dead job that runs again under a new id."""

    stored: StoredLetter
    request_id: str
    deadline_at: float


class DeadLetterRecords:
    """Reads, retries and drops dead letters.

    Every method raises BusError when the bus fails, and CallboardError for what cannot be done.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def all(self) -> list[StoredLetter]:
        """Returns every dead letter, the oldest first."""
        payloads = set(await subject_names(self._bus, DLQ, "dlq.payload.>"))
        found: list[StoredLetter] = []
        for stream in JOB_STREAMS.values():
            async for batch in read_batches(self._bus, DLQ, subjects.dead_letter(stream)):
                for stored in batch:
                    try:
                        letter = DeadLetter.model_validate_json(stored.data)
                    except ValidationError:
                        continue
                    kept = subjects.dead_payload(letter.stream, letter.stream_seq) in payloads
                    found.append(StoredLetter(stored.seq, stored.stored_at, letter, kept))
        return sorted(found, key=lambda one: one.seq)

    async def find(self, names: Sequence[str]) -> list[StoredLetter]:
        """The dead letters of these numbers or request ids; raises CallboardError for a name that is none."""
        found: dict[int, StoredLetter] = {}
        letters = await self.all()
        for name in names:
            meant = [one for one in letters if name in {str(one.seq), one.letter.request_id}]
            if not meant:
                raise CallboardError(ErrorCode.NOT_FOUND, f"{name[:80]!r} is no dead letter's number or request id")
            found.update((one.seq, one) for one in meant)
        return list(found.values())

    async def content(self, stored: StoredLetter) -> bytes:
        """The job as its client sent it, in JSON; raises CallboardError where it is gone."""
        letter = stored.letter
        subject = subjects.dead_payload(letter.stream, letter.stream_seq)
        payload = await read_last(self._bus, DLQ, subject, stream_may_miss=False) if stored.has_payload else None
        if payload is None:
            raise _gone(stored)
        try:
            return await self._bus.cipher.decrypt(payload.data)
        except PayloadUnreadable:
            raise _gone(stored) from None

    async def retry(self, stored: StoredLetter, life_s: float) -> Retried:
        """Queues the same request again, as a new one that has `life_s` seconds."""
        service = SERVICES[stored.letter.stream]
        content, request_id, now = await self.content(stored), uuid.uuid4().hex, self._bus.clock.now()
        try:
            job = renewed(service, content, request_id, now, now + life_s)
        except ValidationError:
            raise CallboardError(ErrorCode.UNSUPPORTED, f"{stored.seq} is no job of this version") from None
        await enqueue(self._bus, job, service, stored.pool.partition("/")[2], "batch")
        return Retried(stored, request_id, job.deadline_at)

    async def outcome(self, retried: Retried, timeout_s: float) -> UsageEvent | None:
        """What a retry used and how it ended, or None where it has not ended in time."""
        until = time.monotonic() + timeout_s
        start_seq = 1
        while time.monotonic() < until:
            for stored in await read_subject(self._bus, USAGE, subjects.usage(OPERATOR), start_seq):
                start_seq = stored.seq + 1
                event = UsageEvent.model_validate_json(stored.data)
                if event.request_id == retried.request_id:
                    return event
            await asyncio.sleep(POLL_S)
        return None

    async def drop(self, stored: StoredLetter) -> None:
        """Deletes a dead letter, and its payload if that is still there."""
        letter = stored.letter
        subject = subjects.dead_payload(letter.stream, letter.stream_seq)
        payload = await read_last(self._bus, DLQ, subject, stream_may_miss=False) if stored.has_payload else None
        if payload is not None:
            await self._bus.delete_message(DLQ, payload.seq)
        await self._bus.delete_message(DLQ, stored.seq)


def renewed(service: Service, content: bytes, request_id: str, now: float, deadline_at: float) -> Job:
    """The same request as a job that nobody waits for, without a hold and outside of any room."""
    again = {
        "request_id": request_id,
        "edge": OPERATOR,
        "tenant": OPERATOR,
        "hold": None,
        "created_at": now,
        "deadline_at": deadline_at,
    }
    if service == "chat":
        chat = ChatJob.model_validate_json(content)
        request = chat.request.model_copy(update={"turn": None})
        return chat.model_copy(update={**again, "held": None, "request": request})
    speech = SpeechJob.model_validate_json(content)
    if speech.narrates is not None:
        raise CallboardError(ErrorCode.UNSUPPORTED, "it spoke a reply while that was written, which is over")
    return speech.model_copy(update={**again, "room": OPERATOR, "utterance": request_id, "in_room": False})


def _gone(stored: StoredLetter) -> CallboardError:
    return CallboardError(
        ErrorCode.NOT_FOUND, f"{stored.seq}: nothing of its content is left; its key lives for some twenty minutes"
    )

"""Plays an edge for the chat worker: posts jobs, receives frames, says what it waits for, and reads what is kept."""

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import Any

from nats.aio.msg import Msg

from callboard_contracts import subjects
from callboard_contracts.chat import (
    ChatFrame,
    ChatJob,
    ChatMessage,
    ChatRequest,
    ChatResult,
    order_of_frames,
)
from callboard_contracts.interest import HEARTBEAT_INTERVAL_S, EdgeHeartbeat, ResumeReply, ResumeRequest
from callboard_contracts.jobs import JOB_VERSION
from callboard_contracts.ordering import newest
from callboard_contracts.quota import Hold, HoldEntry, UsageEvent
from callboard_kit.bus import Bus
from callboard_kit.stream_reads import read_last, read_subject

EDGE = "e1"
POOL = "main"
MODEL = "owl"
WAIT_S = 15.0


class EdgeStub:
    """One edge's side of the bus."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.frames: dict[str, list[ChatFrame]] = {}
        self.closed: set[str] = set()
        self.resumes: list[ResumeRequest] = []
        self._waits_for: set[str] = set()
        self._heartbeats: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._subscriptions: list[Any] = []

    async def open(self) -> None:
        """Begins to receive frames, to answer for their number, and to say what it waits for."""
        self._subscriptions = [
            await self.bus.subscribe(subjects.out(EDGE, "*"), self._on_frame),
            await self.bus.subscribe(subjects.resume(EDGE, "*"), self._on_resume),
        ]
        await self.bus.connection.flush()
        self._heartbeats = asyncio.get_running_loop().create_task(self._say_what_is_open(), name="heartbeats")

    async def close(self) -> None:
        """Ends the heartbeats."""
        if self._heartbeats is not None:
            self._heartbeats.cancel()
            await asyncio.gather(self._heartbeats, return_exceptions=True)

    async def vanish(self) -> None:
        """Goes away as an edge that was killed."""
        await self.close()
        for subscription in self._subscriptions:
            await self.bus.unsubscribe(subscription)
        await self.bus.connection.flush()

    async def post(
        self,
        *,
        limit: int = 100,
        life_s: float = 30.0,
        job_class: subjects.JobClass = "live",
        held_tokens: int | None = None,
        **fields: Any,
    ) -> ChatJob:
        """Posts a job as an edge does; left out, `held_tokens` bound nothing."""
        request_id = uuid.uuid4().hex
        request = ChatRequest.model_validate(
            {
                "model": MODEL,
                "messages": (ChatMessage(role="user", content="Tell me a story."),),
                "max_output_tokens": limit,
                **fields,
            }
        )
        now = time.time()
        entries: tuple[HoldEntry, ...] = ()
        if held_tokens is not None:
            entries = (HoldEntry(tenant="t1", metric="units", bucket="h2026112103", amount=held_tokens * 1000),)
        hold = Hold(request_id=request_id, tenant="t1", kind="chat", model=MODEL, entries=entries, expires_at=now + 60)
        job = ChatJob(
            version=JOB_VERSION,
            request_id=request_id,
            edge=EDGE,
            tenant="t1",
            request=request,
            hold=hold,
            created_at=now,
            deadline_at=now + life_s,
        )
        if job_class == "live":
            self._waits_for.add(request_id)
        await self.post_raw(job.model_dump_json().encode(), request_id, job_class)
        return job

    def waits(self, request_id: str) -> None:
        """Says from now on that somebody waits for a request."""
        self._waits_for.add(request_id)

    async def post_raw(self, data: bytes, msg_id: str, job_class: subjects.JobClass = "live") -> int:
        """Posts any bytes to the pool's queue and returns their place in the stream."""
        return (await self.bus.publish_stored(subjects.job("chat", POOL, job_class, "t1"), data, msg_id)).seq

    async def cancel(self, job: ChatJob) -> None:
        """Says that nobody waits for a job any more."""
        self.closed.add(job.request_id)
        await self.bus.publish(subjects.cancel(job.request_id))

    def of(self, job: ChatJob) -> list[ChatFrame]:
        """The frames of a job so far, each number once, as a client would get them."""
        seen: dict[int, ChatFrame] = {}
        for frame in self.frames.get(job.request_id, []):
            seen.setdefault(frame.seq, frame)
        return [seen[seq] for seq in sorted(seen)]

    def got(self, request_id: str) -> list[ChatFrame]:
        """The frames of a job up to the first that is missing."""
        return newest(order_of_frames(), self.frames.get(request_id, []))

    def text(self, job: ChatJob) -> str:
        """What a client has read so far."""
        return "".join(frame.text for frame in self.of(job))

    async def until(self, condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
        """Waits until a condition on the frames holds."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def end(self, job: ChatJob, timeout_s: float = WAIT_S) -> ChatFrame:
        """Waits for a job's last frame, checks that no number is missing or repeated, and returns it."""
        await self.until(lambda: any(frame.end for frame in self.of(job)), timeout_s)
        frames = self.of(job)
        assert [frame.seq for frame in frames] == list(range(len(frames)))
        assert [frame for frame in frames if frame.end] == frames[-1:]
        return frames[-1]

    async def usage(self, job: ChatJob) -> UsageEvent:
        """The job's usage event; fails when there is none in time, or more than one."""
        async with asyncio.timeout(WAIT_S):
            while True:
                stored = await read_subject(self.bus, "USAGE", subjects.usage("t1"))
                events = [UsageEvent.model_validate_json(message.data) for message in stored]
                found = [event for event in events if event.request_id == job.request_id]
                if found:
                    assert len(found) == 1
                    assert found[0].hold == job.hold
                    return found[0]
                await asyncio.sleep(0.02)

    async def result(self, job: ChatJob) -> ChatResult | None:
        """The job's kept result, if there is one."""
        kept = await read_last(self.bus, "RESULT", subjects.result(job.request_id))
        return ChatResult.model_validate_json(await self.bus.cipher.decrypt(kept.data)) if kept else None

    async def queue_is_empty(self) -> None:
        """Waits until no job is left in the queue."""
        async with asyncio.timeout(WAIT_S):
            while (await self.bus.api("STREAM.INFO.CHAT", {}))["state"]["messages"]:
                await asyncio.sleep(0.02)

    async def _on_frame(self, message: Msg) -> None:
        request_id = message.subject.rsplit(".", 1)[-1]
        self.frames.setdefault(request_id, []).append(ChatFrame.model_validate_json(message.data))
        self._news.set()

    async def _on_resume(self, message: Msg) -> None:
        request_id = message.subject.rsplit(".", 1)[-1]
        self.resumes.append(ResumeRequest.model_validate_json(message.data))
        got = self.got(request_id)
        reply = ResumeReply(
            open=request_id in self._waits_for - self.closed,
            attempt=max((frame.attempt for frame in got), default=0),
            next_seq=len(got),
            text="".join(frame.text for frame in got),
            thinking="".join(frame.thinking for frame in got),
            tokens=sum(frame.tokens for frame in got),
        )
        await message.respond(reply.encoded())

    async def _say_what_is_open(self) -> None:
        while True:
            heartbeat = EdgeHeartbeat(edge=EDGE, open=tuple(self._waits_for - self.closed))
            await self.bus.publish(subjects.interest(EDGE), heartbeat.encoded())
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)

"""An edge without a bus: its real HTTP side over the fakes, and workers that a test scripts."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from prometheus_client import CollectorRegistry

from callboard_contracts.chat import ChatEnd, ChatFrame, ChatJob, TokenUsage
from callboard_contracts.config import Config
from callboard_contracts.embedding import EmbeddingEnd, EmbeddingFrame, EmbeddingJob, packed
from callboard_contracts.transcription import (
    TranscribedSegment,
    TranscribedWord,
    TranscriptionEnd,
    TranscriptionFrame,
    TranscriptionJob,
)
from callboard_edge.app import PROTOCOLS
from callboard_edge.backends.fake_job_queue import FakeJobQueue
from callboard_edge.backends.fake_model_inquiry import FakeModelInquiry
from callboard_edge.backends.fake_quota_client import FakeQuotaClient
from callboard_edge.backends.fake_reply_router import FakeReplyRouter
from callboard_edge.backends.fake_result_store import FakeResultStore
from callboard_edge.backends.fake_room_audio import FakeRoomAudio
from callboard_edge.backends.fake_rooms import FakeRooms
from callboard_edge.backends.fake_saved_slots import FakeSavedSlots
from callboard_edge.composition import edge_context
from callboard_edge.domain.administration import Administration
from callboard_edge.domain.characters import Characters
from callboard_edge.domain.submission import Dependencies
from callboard_edge.domain.volunteer_jobs import VolunteerWorkers
from callboard_edge.domain.volunteers import Volunteers
from callboard_edge.domain.webhooks import WebhookCaller, WebhookQueue, Webhooks
from callboard_edge.domain.workers import Workers
from callboard_edge.http.live_sessions import LiveSessions
from callboard_edge.http.protocol import Protocol
from callboard_edge.http.server import EdgeServer
from callboard_edge.media.encoder_pool import EncoderPool
from callboard_edge.media.room_streams import RoomStreams
from callboard_edge.metrics import EdgeMetrics
from callboard_kit.background_tasks import BackgroundTasks

CONFIG: dict[str, Any] = {
    "chat": {
        "pools": {"main": {"backend": "fake"}},
        "models": {
            "owl": {"pool": "main", "aliases": ["owl:latest"], "max_output_tokens": 100},
            "wren/tiny": {"pool": "main", "context_tokens": 128, "json_schema": False, "tools": "refuse"},
            "magpie": {"pool": "main", "context_tokens": 512, "embeddings": True, "chat": False},
        },
    },
    "tts": {"pools": {"booth": {"backend": "fake"}}, "models": {"parrot": {"pool": "booth", "voices": ["ann"]}}},
    "stt": {
        "pools": {"stalls": {"backend": "fake"}},
        "models": {"ear": {"pool": "stalls", "aliases": ["whisper-1"]}},
        "max_upload_bytes": 200_000,
    },
    "edge": {"request_timeout_s": 10.0, "body_timeout_s": 3.0, "max_body_bytes": 100_000},
}
USAGE = TokenUsage(prompt_tokens=7, completion_tokens=2)


def asking(**over: Any) -> dict[str, Any]:
    """A chat request."""
    return {"model": "owl", "messages": [{"role": "user", "content": "Hello."}], **over}


def frames(*texts: str, end: str | None = "stop", attempt: int = 1, first: int = 0) -> list[ChatFrame]:
    """Frames of one token each, and an end frame unless `end` is None."""
    found = [ChatFrame(seq=first + n, attempt=attempt, text=text, tokens=1) for n, text in enumerate(texts)]
    if end is not None:
        last = ChatEnd.model_validate({"reason": end, "usage": USAGE})
        found.append(ChatFrame(seq=first + len(texts), attempt=attempt, end=last))
    return found


def vectors(
    *values: Sequence[float], end: str | None = "stop", attempt: int = 1, first: int = 0
) -> list[EmbeddingFrame]:
    """Frames of one vector each, and an end frame unless `end` is None."""
    texts = [base64.b64encode(packed(each)).decode() for each in values]
    found = [EmbeddingFrame(seq=first + n, attempt=attempt, vectors=(one,), tokens=3) for n, one in enumerate(texts)]
    if end is not None:
        last = EmbeddingEnd.model_validate({"reason": end, "usage": {"prompt_tokens": 3 * (first + len(values))}})
        found.append(EmbeddingFrame(seq=first + len(values), attempt=attempt, end=last))
    return found


def heard(*texts: str, end: str | None = "stop", language: str = "en", attempt: int = 1) -> list[TranscriptionFrame]:
    """Frames of one segment of a second each, and an end frame unless `end` is None."""
    found: list[TranscriptionFrame] = []
    for n, text in enumerate(texts):
        words = tuple(
            TranscribedWord(word=f" {word}", start_s=n + 0.25 * at, end_s=n + 0.25 * (at + 1))
            for at, word in enumerate(text.split())
        )
        segment = TranscribedSegment(start_s=n, end_s=n + 1, text=f" {text}", words=words, avg_logprob=-0.25)
        found.append(TranscriptionFrame(seq=n, attempt=attempt, segments=(segment,), duration_ms=1000 * len(texts)))
    if end is not None:
        ms = 1000 * len(texts)
        last = TranscriptionEnd.model_validate({"reason": end, "language": language, "duration_ms": ms, "heard_ms": ms})
        found.append(TranscriptionFrame(seq=len(texts), attempt=attempt, end=last))
    return found


def read_events(body: bytes) -> list[Any]:
    """The events of a stream; checks the framing and takes the closing mark off."""
    assert b"\r" not in body
    blocks = body.decode().split("\n\n")
    assert blocks.pop() == ""
    assert blocks.pop() == "data: [DONE]"
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


def said(events: Sequence[Any]) -> str:
    """The text of a stream's events."""
    return "".join(
        choice.get("text", "") + (choice.get("delta", {}).get("content") or "")
        for event in events
        for choice in event.get("choices", ())
    )


@dataclass
class EdgeHarness:
    """A running edge and everything deps it."""

    url: str
    session: aiohttp.ClientSession
    server: EdgeServer
    quota: FakeQuotaClient
    jobs: FakeJobQueue
    replies: FakeReplyRouter
    registry: CollectorRegistry
    known: Workers
    rooms: FakeRooms
    audio: FakeRoomAudio
    streams: RoomStreams
    inquiry: FakeModelInquiry
    characters: Characters
    results: FakeResultStore
    live_sessions: LiveSessions
    webhooks: Webhooks | None
    workers: list[asyncio.Task[Any]] = field(default_factory=list[asyncio.Task[Any]])

    @property
    def port(self) -> int:
        """The port that the edge listens on."""
        return int(self.url.rpartition(":")[2])

    async def worker(self, sent: Sequence[ChatFrame], pause_s: float = 0.0) -> ChatJob:
        """Takes the next job, sends frames for it and acknowledges it at its end."""
        job = await self.jobs.next_chat()
        for frame in sent:
            await asyncio.sleep(pause_s)
            self.replies.send(job.request_id, frame)
        if sent and sent[-1].end is not None:
            self.jobs.finish(job.request_id)
        return job

    def plays(self, sent: Sequence[ChatFrame], pause_s: float = 0.0) -> "asyncio.Task[ChatJob]":
        """Runs a worker beside the test."""
        task = asyncio.ensure_future(self.worker(sent, pause_s))
        self.workers.append(task)
        return task

    async def embed(self, sent: Sequence[EmbeddingFrame]) -> EmbeddingJob:
        """Takes the next embedding job, sends frames for it and acknowledges it at its end."""
        job = await self.jobs.next_embedding()
        for frame in sent:
            self.replies.send_vectors(job.request_id, frame)
        if sent and sent[-1].end is not None:
            self.jobs.finish(job.request_id)
        return job

    def embeds(self, sent: Sequence[EmbeddingFrame]) -> "asyncio.Task[EmbeddingJob]":
        """Runs a worker that embeds beside the test."""
        task = asyncio.ensure_future(self.embed(sent))
        self.workers.append(task)
        return task

    async def hear(self, sent: Sequence[TranscriptionFrame]) -> TranscriptionJob:
        """Takes the next transcription job, sends frames for it and acknowledges it at its end."""
        job = await self.jobs.next_transcription()
        for frame in sent:
            self.replies.write_down(job.request_id, frame)
        if sent and sent[-1].end is not None:
            self.jobs.finish(job.request_id)
        return job

    def hears(self, sent: Sequence[TranscriptionFrame]) -> "asyncio.Task[TranscriptionJob]":
        """Runs a worker that writes down speech beside the test."""
        task = asyncio.ensure_future(self.hear(sent))
        self.workers.append(task)
        return task

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any, bytes]:
        """Posts JSON and returns the status, the headers and the body."""
        async with self.session.post(self.url + path, json=body, headers=headers) as reply:
            return reply.status, reply.headers, await reply.read()

    def figure(self, name: str, **labels: str) -> float:
        """One figure of the edge's metrics, 0 when it was never counted."""
        return self.registry.get_sample_value(name, labels) or 0.0

    async def all_closed(self) -> None:
        """Waits until no request is open."""
        async with asyncio.timeout(20):
            while self.replies.open_requests:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running(
    over: dict[str, Any] | None = None,
    *,
    most_queued: int = 64,
    admin: Administration | None = None,
    protocols: Sequence[Protocol] = (),
    idle_loop: bytes | None = None,
    volunteers: Volunteers | None = None,
    volunteer_workers: VolunteerWorkers | None = None,
    webhook_queue: WebhookQueue | None = None,
    webhook_caller: WebhookCaller | None = None,
) -> AsyncGenerator[EdgeHarness]:
    """Starts an edge on a free loopback port."""
    table = {key: {**value, **(over or {}).get(key, {})} for key, value in CONFIG.items()}
    config = Config.model_validate({**(over or {}), **table})
    quota, jobs, inboxes = FakeQuotaClient(), FakeJobQueue(most_queued), FakeReplyRouter()
    background, media, registry = BackgroundTasks(), EncoderPool(), CollectorRegistry()
    rooms, inquiry = FakeRooms(), FakeModelInquiry()
    deps = Dependencies(quota, jobs, inboxes, background, rooms, rooms, inquiry)
    workers = Workers()
    metrics, audio = EdgeMetrics(registry), FakeRoomAudio()
    streams = RoomStreams(audio, background, config.room_stream, metrics, time.time, idle_loop)
    results, characters = FakeResultStore(inboxes), Characters()
    context = edge_context(
        config,
        deps,
        results,
        workers,
        media,
        streams,
        metrics,
        lambda: None,
        admin,
        characters=characters,
        saved_slots=FakeSavedSlots(),
        volunteers=volunteers,
        volunteer_workers=volunteer_workers,
        webhook_queue=webhook_queue,
        webhook_caller=webhook_caller,
    )
    server = EdgeServer(context, (*PROTOCOLS, *protocols))
    port = await server.start("127.0.0.1", 0)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        url = f"http://127.0.0.1:{port}"
        mixing = asyncio.ensure_future(streams.run())
        harness = EdgeHarness(
            url,
            session,
            server,
            quota,
            jobs,
            inboxes,
            registry,
            workers,
            rooms,
            audio,
            streams,
            inquiry,
            characters,
            results,
            context.live_sessions,
            context.webhooks,
            [mixing],
        )
        try:
            yield harness
        finally:
            for task in harness.workers:
                task.cancel()
            await asyncio.gather(*harness.workers, return_exceptions=True)
            streams.close()
            await server.close()
            await background.close(5)
            media.close()

"""An edge without a jobs: its real HTTP side, with a quota desk and a speech worker that a test scripts."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from prometheus_client import CollectorRegistry

from callboard_contracts.chat import ChatFrame, ChatResult
from callboard_contracts.config import Config
from callboard_contracts.embedding import EmbeddingFrame, EmbeddingResult
from callboard_contracts.errors import CallboardError, ErrorInfo
from callboard_contracts.interest import ResumeReply
from callboard_contracts.jobs import Job, Service
from callboard_contracts.kept import JobTicket, KeptDialogue, KeptGroup
from callboard_contracts.kudos import KudosReply, KudosTransferRequest, KudosUptimeRequest
from callboard_contracts.quota import (
    Hold,
    IdentifyReply,
    IdentifyRequest,
    LimitState,
    Rates,
    ReserveReply,
    ReserveRequest,
    UsageReply,
    UsageRequest,
)
from callboard_contracts.speech import BYTES_PER_MS, AudioSegment, SegmentInfo, SpeechEnd, SpeechJob, SpokenWord
from callboard_contracts.subjects import JobClass
from callboard_contracts.transcription import TranscriptionFrame, TranscriptionResult
from callboard_contracts.voices import KOKORO_VOICES, kokoro_language
from callboard_contracts.workers import OfferedModel, OfferedVoice, WorkerInfo
from callboard_edge.backends.fake_model_inquiry import FakeModelInquiry
from callboard_edge.backends.fake_room_audio import FakeRoomAudio
from callboard_edge.backends.fake_rooms import FakeRooms
from callboard_edge.backends.inbox import RequestInbox
from callboard_edge.composition import edge_context
from callboard_edge.domain.ports import JobRef, QueueDepth, RequestState
from callboard_edge.domain.submission import Dependencies
from callboard_edge.domain.workers import Workers
from callboard_edge.http.server import EdgeServer
from callboard_edge.media.encoder_pool import EncoderPool
from callboard_edge.media.room_streams import RoomStreams
from callboard_edge.metrics import EdgeMetrics
from callboard_edge.protocols.openai.protocol import OpenAI
from callboard_kit.background_tasks import BackgroundTasks

CONFIG = {
    "tts": {
        "pools": {"booth": {"backend": "fake"}, "hall": {"backend": "kokoro_onnx"}},
        "models": {
            "voicebox": {
                "pool": "booth",
                "aliases": ["tts-1"],
                "voices": ["ann", "bob"],
                "voice_aliases": {"alloy": "ann", "both": "ann(2)+bob"},
                "default_voice": "ann",
            },
            "kokoro": {"pool": "hall"},
        },
    },
    "edge": {"request_timeout_s": 10.0, "body_timeout_s": 2.0, "max_body_bytes": 100_000},
}
KOKORO = WorkerInfo(
    id="w1",
    service="tts",
    pool="hall",
    backend="kokoro_onnx",
    models=(
        OfferedModel(
            name="kokoro",
            voices=tuple(OfferedVoice(name=name, language=kokoro_language(name)) for name in KOKORO_VOICES),
        ),
    ),
    slots=1,
    at=0,
)
STATE = LimitState(limit="tokens_per_day", allowed=1000, remaining=900, resets_in_s=60.0)


@dataclass
class HarnessQuota:
    """Grants every hold, unless it is given an error to answer with."""

    refusal: ErrorInfo | None = None
    reserved: list[ReserveRequest] = field(default_factory=list[ReserveRequest])
    released: list[Hold] = field(default_factory=list[Hold])

    async def reserve(self, request: ReserveRequest) -> ReserveReply:
        """Notes the request."""
        self.reserved.append(request)
        if self.refusal is not None:
            return ReserveReply(error=self.refusal, states=(STATE,))
        hold = Hold(
            request_id=request.request_id,
            tenant="t",
            kind="speech",
            model=request.model,
            entries=(),
            rates=Rates(audio_units_per_s=100_000),
            expires_at=0,
        )
        return ReserveReply(tenant="t", hold=hold, states=(STATE,))

    async def release(self, hold: Hold) -> None:
        """Notes the hold."""
        self.released.append(hold)

    async def usage(self, request: UsageRequest) -> UsageReply:
        """Says that nothing was used."""
        del request
        return UsageReply()

    async def check_caller(self, key_digest: str | None) -> ErrorInfo | None:
        """Lets everybody in."""
        del key_digest
        return None

    async def identify(self, request: IdentifyRequest) -> IdentifyReply:
        """Knows everybody."""
        del request
        return IdentifyReply(tenant="t")

    async def kudos(self, account: str) -> KudosReply:
        """Is no part of speech."""
        raise AssertionError(account)

    async def pay_uptime(self, request: KudosUptimeRequest) -> KudosReply:
        """Is no part of speech."""
        raise AssertionError(request)

    async def transfer_kudos(self, request: KudosTransferRequest) -> KudosReply:
        """Is no part of speech."""
        raise AssertionError(request)


class Worker:
    """What a script uses to speak: segments like a real worker's, through the same bounded inbox."""

    def __init__(self, job: SpeechJob, frames: "HarnessReplies") -> None:
        self.job = job
        self.cancelled = asyncio.Event()
        self._frames = frames
        self._n = 0
        self._piece = 0
        self._spoken_bytes = 0

    def say(self, pcm: bytes, *words: SpokenWord) -> None:
        """Sends one piece as one segment."""
        self._put(SegmentInfo(attempt=1, piece=self._piece, offset_bytes=0, piece_done=True, words=words), pcm)
        self._piece += 1
        self._spoken_bytes += len(pcm)

    def end(self, reason: str = "stop", error: ErrorInfo | None = None) -> None:
        """Sends the end."""
        end = SpeechEnd.model_validate(
            {"reason": reason, "audio_ms": self._spoken_bytes // BYTES_PER_MS, "error": error}
        )
        self._put(SegmentInfo(attempt=1, piece=self._piece, offset_bytes=0, end=end), b"")

    def resume(self) -> ResumeReply:
        """Asks the edge how far the utterance has come."""
        return self._frames.states[self.job.request_id].resume(1)

    def _put(self, info: SegmentInfo, pcm: bytes) -> None:
        self._frames.put(self.job.request_id, AudioSegment(self._n, info, pcm))
        self._n += 1


Script = Callable[[Worker], Awaitable[None]]


class HarnessReplies:
    """The way back from the worker, which keeps everything for a reader that was too slow."""

    edge = "main"

    def __init__(self) -> None:
        self.inboxes: dict[str, RequestInbox[AudioSegment, AudioSegment]] = {}
        self.states: dict[str, RequestState] = {}
        self.kept: dict[str, list[AudioSegment]] = {}
        self.full = asyncio.Event()

    def put(self, request_id: str, segment: AudioSegment) -> None:
        """Delivers a segment as the bus would."""
        self.kept.setdefault(request_id, []).append(segment)
        inbox = self.inboxes.get(request_id)
        if inbox is not None and not inbox.put_nowait(segment, len(segment.pcm)):
            self.full.set()

    def open_audio(self, request_id: str, state: RequestState) -> RequestInbox[AudioSegment, AudioSegment]:
        """Opens an inbox of the real size."""
        inbox = RequestInbox[AudioSegment, AudioSegment](lambda segment: segment, 64, 2 * 1024 * 1024)
        self.inboxes[request_id] = inbox
        self.states[request_id] = state
        return inbox

    def open_text(self, request_id: str, state: RequestState) -> RequestInbox[ChatFrame, ChatFrame]:
        """Is no part of speech."""
        raise AssertionError(request_id, state)

    def open_embedding(self, request_id: str, state: RequestState) -> RequestInbox[EmbeddingFrame, EmbeddingFrame]:
        """Is no part of speech."""
        raise AssertionError(request_id, state)

    def open_transcription(
        self, request_id: str, state: RequestState
    ) -> RequestInbox[TranscriptionFrame, TranscriptionFrame]:
        """Is no part of speech."""
        raise AssertionError(request_id, state)

    def close_request(self, request_id: str) -> None:
        """Forgets a request."""
        self.inboxes.pop(request_id, None)

    async def replay_text(self, request_id: str) -> list[ChatFrame]:
        """Is no part of speech."""
        raise AssertionError(request_id)

    async def replay_embedding(self, request_id: str) -> list[EmbeddingFrame]:
        """Is no part of speech."""
        raise AssertionError(request_id)

    async def replay_transcription(self, request_id: str) -> list[TranscriptionFrame]:
        """Is no part of speech."""
        raise AssertionError(request_id)

    async def transcription_result(self, request_id: str) -> TranscriptionResult | None:
        """Is no part of speech."""
        raise AssertionError(request_id)

    async def replay_audio(self, request_id: str, from_n: int) -> list[AudioSegment]:
        """Reads back a few segments."""
        return self.kept.get(request_id, [])[from_n : from_n + 32]

    async def result(self, request_id: str) -> ChatResult | None:
        """Is no part of speech."""
        raise AssertionError(request_id)

    async def embedding_result(self, request_id: str) -> EmbeddingResult | None:
        """Is no part of speech."""
        raise AssertionError(request_id)


class HarnessJobs:
    """Gives each job to the script at once."""

    def __init__(self, frames: HarnessReplies) -> None:
        self.script: Script = silent
        self.refusal: CallboardError | None = None
        self.jobs: list[SpeechJob] = []
        self.enqueued = asyncio.Event()
        self.pools: list[str] = []
        self.max_request_bytes = 1_000_000
        self.workers: dict[str, Worker] = {}
        self._frames = frames
        self._tasks: list[asyncio.Future[None]] = []

    async def enqueue(self, job: Job, service: Service, pool: str, job_class: JobClass) -> JobRef:
        """Starts the script."""
        assert isinstance(job, SpeechJob)
        assert (service, job_class) == ("tts", "live")
        if self.refusal is not None:
            raise self.refusal
        self.jobs.append(job)
        self.enqueued.set()
        self.pools.append(pool)
        worker = self.workers[job.request_id] = Worker(job, self._frames)
        self._tasks.append(asyncio.ensure_future(self.script(worker)))
        return JobRef("TTS", len(self.jobs))

    async def store_sound(self, edge: str, request_id: str, sound: bytes | bytearray) -> int:
        """Is no part of speech."""
        raise AssertionError(edge, request_id, sound)

    async def delete_sound(self, edge: str, request_id: str) -> None:
        """Is no part of speech."""
        raise AssertionError(edge, request_id)

    async def depth(self, service: Service, pool: str, job_class: JobClass) -> QueueDepth:
        """Is no part of speech."""
        raise AssertionError(service, pool, job_class)

    async def cancel(self, request_id: str) -> None:
        """Tells the worker."""
        self.workers[request_id].cancelled.set()

    async def remove(self, job_ref: JobRef) -> bool:
        """Comes too late: the script has begun."""
        del job_ref
        return False

    async def close(self) -> None:
        """Ends the scripts, and shows what went wrong in one."""
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome


class NoResults:
    """Nothing is polled here."""

    async def put_ticket(self, ticket: JobTicket) -> None:
        """Is no part of speech."""
        raise AssertionError(ticket)

    async def ticket(self, request_id: str) -> JobTicket | None:
        """Is no part of speech."""
        raise AssertionError(request_id)

    async def put_result(self, result: ChatResult) -> None:
        """Is no part of speech."""
        raise AssertionError(result)

    async def result(self, request_id: str) -> ChatResult | None:
        """Is no part of speech."""
        raise AssertionError(request_id)

    async def put_group(self, name: str, group: KeptGroup) -> None:
        """Is no part of speech."""
        raise AssertionError(name, group)

    async def group(self, name: str) -> KeptGroup | None:
        """Is no part of speech."""
        raise AssertionError(name)

    async def embedding_result(self, request_id: str) -> EmbeddingResult | None:
        """Is no part of speech."""
        raise AssertionError(request_id)

    async def frames(self, request_id: str) -> list[ChatFrame]:
        """Is no part of speech."""
        raise AssertionError(request_id)

    async def put_name(self, name: str, request_id: str) -> None:
        """Is no part of speech."""
        raise AssertionError(name, request_id)

    async def named(self, name: str) -> str | None:
        """Is no part of speech."""
        raise AssertionError(name)

    async def put_dialogue(self, name: str, dialogue: KeptDialogue) -> None:
        """Is no part of speech."""
        raise AssertionError(name, dialogue)

    async def dialogue(self, name: str) -> KeptDialogue | None:
        """Is no part of speech."""
        raise AssertionError(name)


async def silent(worker: Worker) -> None:
    """A worker that never says anything."""
    await worker.cancelled.wait()


@dataclass
class EdgeHarness:
    """A running edge and the fakes deps it."""

    quota: HarnessQuota
    jobs: HarnessJobs
    replies: HarnessReplies
    media: EncoderPool
    port: int
    client: aiohttp.ClientSession
    known: Workers

    def url(self, path: str = "/v1/audio/speech") -> str:
        """The address of a path."""
        return f"http://127.0.0.1:{self.port}{path}"


@asynccontextmanager
async def running() -> AsyncGenerator[EdgeHarness]:
    """Runs an edge on a free port of the loopback."""
    config = Config.model_validate(CONFIG)
    frames = HarnessReplies()
    jobs = HarnessJobs(frames)
    quota = HarnessQuota()
    background = BackgroundTasks()
    media = EncoderPool()
    workers = Workers()
    workers.announce(KOKORO)
    rooms = FakeRooms()
    deps = Dependencies(quota, jobs, frames, background, rooms, rooms, FakeModelInquiry())
    metrics = EdgeMetrics(CollectorRegistry())
    streams = RoomStreams(FakeRoomAudio(), background, config.room_stream, metrics, time.time)
    context = edge_context(config, deps, NoResults(), workers, media, streams, metrics, lambda: None)
    server = EdgeServer(context, (OpenAI(),))
    port = await server.start("127.0.0.1", 0)
    timeout = aiohttp.ClientTimeout(total=10)
    # A connection that is kept open keeps a task on the server's side, which would count as left behind.
    connector = aiohttp.TCPConnector(force_close=True)
    try:
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as client:
            yield EdgeHarness(quota, jobs, frames, media, port, client, workers)
    finally:
        await server.stop_listening()
        await server.close()
        await background.close(2.0)
        await jobs.close()
        media.close()

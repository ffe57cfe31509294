"""An edge without a board: its real HTTP side, with a quota desk and a speech worker that a test scripts."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from prometheus_client import CollectorRegistry

from callboard_contracts.chat import ChatFrame, ChatJob, ChatResult, CreditReply, CreditRequest
from callboard_contracts.config import Config
from callboard_contracts.errors import CallboardError, ErrorInfo
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
from callboard_contracts.speech import BYTES_PER_MS, SegmentInfo, SpeechEnd, SpeechJob
from callboard_edge.app import EdgeServer
from callboard_edge.backends.inbox import RequestInbox
from callboard_edge.domain.admission import Admission
from callboard_edge.domain.catalogue import chat_catalogue, speech_catalogue
from callboard_edge.domain.chores import Chores
from callboard_edge.domain.errand import Surroundings
from callboard_edge.domain.ports import OnCredit, Posted, Segment
from callboard_edge.handlers import openai_speech, openai_voices
from callboard_edge.handlers.context import EdgeContext
from callboard_edge.media.room import MediaRoom
from callboard_edge.metrics import EdgeMetrics
from callboard_edge.settings import edge_settings

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
STATE = LimitState(limit="tokens_per_day", allowed=1000, remaining=900, resets_in_s=60.0)


@dataclass
class StageDesk:
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

    async def identify(self, request: IdentifyRequest) -> IdentifyReply:
        """Knows everybody."""
        del request
        return IdentifyReply(tenant="t")


class Worker:
    """What a script uses to speak: segments like a real worker's, through the same bounded inbox."""

    def __init__(self, job: SpeechJob, frames: "StageFrames") -> None:
        self.job = job
        self.cancelled = asyncio.Event()
        self._frames = frames
        self._n = 0
        self._piece = 0
        self._spoken_bytes = 0

    def say(self, pcm: bytes) -> None:
        """Sends one piece as one segment."""
        self._put(SegmentInfo(attempt=1, piece=self._piece, offset_bytes=0, piece_done=True), pcm)
        self._piece += 1
        self._spoken_bytes += len(pcm)

    def end(self, reason: str = "stop", error: ErrorInfo | None = None) -> None:
        """Sends the end."""
        end = SpeechEnd.model_validate(
            {"reason": reason, "audio_ms": self._spoken_bytes // BYTES_PER_MS, "error": error}
        )
        self._put(SegmentInfo(attempt=1, piece=self._piece, offset_bytes=0, end=end), b"")

    def credit(self) -> CreditReply:
        """Asks the edge whether anybody still listens."""
        return self._frames.credits[self.job.request_id](CreditRequest(attempt=1))

    def _put(self, info: SegmentInfo, pcm: bytes) -> None:
        self._frames.put(self.job.request_id, Segment(self._n, info, pcm))
        self._n += 1


Script = Callable[[Worker], Awaitable[None]]


class StageFrames:
    """The way back from the worker, which keeps everything for a reader that was too slow."""

    edge = "stage"

    def __init__(self) -> None:
        self.inboxes: dict[str, RequestInbox[Segment, Segment]] = {}
        self.credits: dict[str, OnCredit] = {}
        self.kept: dict[str, list[Segment]] = {}
        self.full = asyncio.Event()

    def put(self, request_id: str, segment: Segment) -> None:
        """Delivers a segment as the bus would."""
        self.kept.setdefault(request_id, []).append(segment)
        inbox = self.inboxes.get(request_id)
        if inbox is not None and not inbox.put_nowait(segment, len(segment.pcm)):
            self.full.set()

    def open_audio(self, request_id: str, on_credit: OnCredit) -> RequestInbox[Segment, Segment]:
        """Opens an inbox of the real size."""
        inbox = RequestInbox[Segment, Segment](lambda segment: segment, 64, 2 * 1024 * 1024)
        self.inboxes[request_id] = inbox
        self.credits[request_id] = on_credit
        return inbox

    def open_chat(self, request_id: str, on_credit: OnCredit) -> RequestInbox[ChatFrame, ChatFrame]:
        """Is no part of speech."""
        raise AssertionError(request_id, on_credit)

    def close_request(self, request_id: str) -> None:
        """Forgets a request."""
        self.inboxes.pop(request_id, None)

    async def replay_chat(self, request_id: str) -> list[ChatFrame]:
        """Is no part of speech."""
        raise AssertionError(request_id)

    async def replay_audio(self, request_id: str, from_n: int) -> list[Segment]:
        """Reads back a few segments."""
        return self.kept.get(request_id, [])[from_n : from_n + 32]

    async def result(self, request_id: str) -> ChatResult | None:
        """Is no part of speech."""
        raise AssertionError(request_id)


class StageBoard:
    """Gives each job to the script at once."""

    def __init__(self, frames: StageFrames) -> None:
        self.script: Script = silent
        self.refusal: CallboardError | None = None
        self.jobs: list[SpeechJob] = []
        self.posted = asyncio.Event()
        self.pools: list[str] = []
        self.workers: dict[str, Worker] = {}
        self._frames = frames
        self._tasks: list[asyncio.Future[None]] = []

    async def post_speech(self, job: SpeechJob, pool: str) -> Posted:
        """Starts the script."""
        if self.refusal is not None:
            raise self.refusal
        self.jobs.append(job)
        self.posted.set()
        self.pools.append(pool)
        worker = self.workers[job.request_id] = Worker(job, self._frames)
        self._tasks.append(asyncio.ensure_future(self.script(worker)))
        return Posted("TTS", len(self.jobs))

    async def post_chat(self, job: ChatJob, pool: str) -> Posted:
        """Is no part of speech."""
        raise AssertionError(job.request_id, pool)

    async def cancel(self, request_id: str) -> None:
        """Tells the worker."""
        self.workers[request_id].cancelled.set()

    async def withdraw(self, posted: Posted) -> bool:
        """Comes too late: the script has begun."""
        del posted
        return False

    async def close(self) -> None:
        """Ends the scripts, and shows what went wrong in one."""
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome


async def silent(worker: Worker) -> None:
    """A worker that never says anything."""
    await worker.cancelled.wait()


@dataclass
class Stage:
    """A running edge and the fakes around it."""

    desk: StageDesk
    board: StageBoard
    frames: StageFrames
    media: MediaRoom
    port: int
    client: aiohttp.ClientSession

    def url(self, path: str = "/v1/audio/speech") -> str:
        """The address of a path."""
        return f"http://127.0.0.1:{self.port}{path}"


@asynccontextmanager
async def running() -> AsyncGenerator[Stage]:
    """Runs an edge on a free port of the loopback."""
    config = Config.model_validate(CONFIG)
    frames = StageFrames()
    board = StageBoard(frames)
    desk = StageDesk()
    chores = Chores()
    media = MediaRoom()
    context = EdgeContext(
        settings=edge_settings(config),
        chat_models=chat_catalogue(config.chat),
        speech_models=speech_catalogue(config.tts),
        admission=Admission(Surroundings(desk, board, frames, chores), config.edge.request_timeout_s),
        media=media,
        metrics=EdgeMetrics(CollectorRegistry()),
        ready=lambda: None,
    )
    server = EdgeServer(context, [*openai_speech.routes(context), *openai_voices.routes(context)])
    port = await server.start("127.0.0.1", 0)
    timeout = aiohttp.ClientTimeout(total=10)
    # A connection that is kept open keeps a task on the server's side, which would count as left behind.
    connector = aiohttp.TCPConnector(force_close=True)
    try:
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as client:
            yield Stage(desk, board, frames, media, port, client)
    finally:
        await server.stop_listening()
        await server.close()
        await chores.close(2.0)
        await board.close()
        media.close()

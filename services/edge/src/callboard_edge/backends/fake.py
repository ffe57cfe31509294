"""The edge's surroundings in memory: the same behaviour as the bus, and its faults on demand."""

import asyncio
from collections import Counter

from callboard_contracts.chat import ChatFrame, ChatJob, ChatResult, InterestReply, InterestRequest
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.quota import (
    Hold,
    IdentifyReply,
    IdentifyRequest,
    LimitState,
    ReserveReply,
    ReserveRequest,
    UsageReply,
    UsageRequest,
)
from callboard_contracts.speech import SegmentInfo, SpeechJob
from callboard_contracts.streams import CHAT, TTS
from callboard_edge.backends.inbox import RequestInbox
from callboard_edge.domain.ports import JobRef, OnInterest, Segment

TENANT = "anonymous"
LEASE_MARGIN_S = 30.0


class FakeQuotaClient:
    """Grants every hold, unless told to refuse or to be away; keeps count of what is held."""

    def __init__(self) -> None:
        self.refusal: ErrorInfo | None = None
        self.states: tuple[LimitState, ...] = ()
        self.delay_s = 0.0
        self.asked: list[ReserveRequest] = []
        self.identified: list[IdentifyRequest] = []
        self.held: dict[str, Hold] = {}
        self.released: list[str] = []

    async def reserve(self, request: ReserveRequest) -> ReserveReply:
        """Takes a hold, or says why not."""
        self.asked.append(request)
        await asyncio.sleep(self.delay_s)
        if self.refusal is not None:
            return ReserveReply(error=self.refusal, states=self.states)
        hold = Hold(
            id=request.request_id,
            request_id=request.request_id,
            tenant=TENANT,
            kind=request.kind,
            model=request.model,
            entries=(),
            expires_at=request.life_s + LEASE_MARGIN_S,
        )
        self.held[request.request_id] = hold
        return ReserveReply(tenant=TENANT, hold=hold, states=self.states)

    async def release(self, hold: Hold) -> None:
        """Gives a hold back."""
        if self.held.pop(hold.request_id, None) is not None:
            self.released.append(hold.request_id)

    async def usage(self, request: UsageRequest) -> UsageReply:
        """Says that as many tokens were used as requests were granted."""
        self.identified.append(IdentifyRequest(key_digest=request.key_digest, address=request.address))
        used = len(self.asked)
        return UsageReply(
            tenant=TENANT,
            tier="standard",
            tokens_last_day=used,
            tokens_this_month=used,
            limits=self.states,
            error=self.refusal,
        )

    async def identify(self, request: IdentifyRequest) -> IdentifyReply:
        """Says who a caller is."""
        self.identified.append(request)
        return IdentifyReply(tenant=TENANT, tier="standard", error=self.refusal)


class FakeJobQueue:
    """A board in memory; `next_chat` and `next_speech` are the worker's side."""

    def __init__(self, max_queued_per_tenant: int = 64) -> None:
        self.failure: CallboardError | None = None
        self.delay_s = 0.0
        self.cancelled: list[str] = []
        self.removed: list[str] = []
        self._most = max_queued_per_tenant
        self._seq = 0
        self._posted: dict[str, JobRef] = {}
        self._queued: dict[int, ChatJob | SpeechJob] = {}
        self._chats: asyncio.Queue[ChatJob] = asyncio.Queue()
        self._speeches: asyncio.Queue[SpeechJob] = asyncio.Queue()

    @property
    def queued(self) -> int:
        """How many jobs lie on the board, taken by a worker or not."""
        return len(self._queued)

    async def enqueue_chat(self, job: ChatJob, pool: str) -> JobRef:
        """Posts a chat job."""
        job_ref, new = await self._post(job, CHAT, pool)
        if new:
            self._chats.put_nowait(job)
        return job_ref

    async def enqueue_speech(self, job: SpeechJob, pool: str) -> JobRef:
        """Posts a speech job."""
        job_ref, new = await self._post(job, TTS, pool)
        if new:
            self._speeches.put_nowait(job)
        return job_ref

    async def cancel(self, request_id: str) -> None:
        """Notes the cancellation."""
        self.cancelled.append(request_id)

    async def remove(self, job_ref: JobRef) -> bool:
        """Takes a job off the board; a worker that has it already is not told."""
        job = self._queued.pop(job_ref.seq, None)
        if job is None:
            return False
        self.removed.append(job.request_id)
        return True

    async def next_chat(self) -> ChatJob:
        """Waits for a chat job and takes it."""
        return await asyncio.wait_for(self._chats.get(), 5)

    async def next_speech(self) -> SpeechJob:
        """Waits for a speech job and takes it."""
        return await asyncio.wait_for(self._speeches.get(), 5)

    def finish(self, request_id: str) -> None:
        """Acknowledges a job, as a worker does at its end."""
        self._queued = {seq: job for seq, job in self._queued.items() if job.request_id != request_id}

    async def _post(self, job: ChatJob | SpeechJob, stream: str, _pool: str) -> tuple[JobRef, bool]:
        await asyncio.sleep(self.delay_s)
        if self.failure is not None:
            raise self.failure
        if job.request_id in self._posted:
            return self._posted[job.request_id], False
        if Counter(queued.tenant for queued in self._queued.values())[job.tenant] >= self._most:
            raise CallboardError(ErrorCode.QUEUE_FULL, "Too many requests wait.", retry_after_s=2.0)
        self._seq += 1
        self._queued[self._seq] = job
        job_ref = self._posted[job.request_id] = JobRef(stream, self._seq)
        return job_ref, True


class FakeReplyRouter:
    """Frames and segments in memory; `send`, `say` and `ask` are the worker's side."""

    edge = "edge0"

    def __init__(self, max_messages: int = 1024, max_bytes: int = 1024 * 1024) -> None:
        self.lose_next = 0
        """How many of the next messages are stored but never delivered."""
        self.results: dict[str, ChatResult] = {}
        self.stored: dict[str, list[ChatFrame]] = {}
        self.stored_audio: dict[str, list[Segment]] = {}
        self.replays = 0
        self._limits = (max_messages, max_bytes)
        self._chats: dict[str, RequestInbox[ChatFrame, ChatFrame]] = {}
        self._audio: dict[str, RequestInbox[Segment, Segment]] = {}
        self._credits: dict[str, OnInterest] = {}

    @property
    def open_requests(self) -> int:
        """How many requests are open."""
        return len(self._credits)

    def open_chat(self, request_id: str, on_interest: OnInterest) -> RequestInbox[ChatFrame, ChatFrame]:
        """Starts to collect the frames of a chat request."""
        inbox = self._chats[request_id] = RequestInbox[ChatFrame, ChatFrame](lambda frame: frame, *self._limits)
        self._credits[request_id] = on_interest
        return inbox

    def open_audio(self, request_id: str, on_interest: OnInterest) -> RequestInbox[Segment, Segment]:
        """Starts to collect the segments of a speech request."""
        inbox = self._audio[request_id] = RequestInbox[Segment, Segment](lambda segment: segment, *self._limits)
        self._credits[request_id] = on_interest
        return inbox

    def close_request(self, request_id: str) -> None:
        """Forgets a request."""
        self._chats.pop(request_id, None)
        self._audio.pop(request_id, None)
        self._credits.pop(request_id, None)

    async def replay_chat(self, request_id: str) -> list[ChatFrame]:
        """Reads all frames of a request back."""
        self.replays += 1
        return list(self.stored.get(request_id, ()))

    async def replay_audio(self, request_id: str, from_n: int) -> list[Segment]:
        """Reads the next few segments back."""
        self.replays += 1
        return [segment for segment in self.stored_audio.get(request_id, ()) if segment.n >= from_n][:32]

    async def result(self, request_id: str) -> ChatResult | None:
        """The finished reply, if it is there."""
        return self.results.get(request_id)

    def send(self, request_id: str, frame: ChatFrame) -> None:
        """Publishes a frame."""
        self.stored.setdefault(request_id, []).append(frame)
        if self.lose_next:
            self.lose_next -= 1
        elif request_id in self._chats:
            self._chats[request_id].put_nowait(frame, len(frame.text) + len(frame.thinking))

    def say(self, request_id: str, n: int, info: SegmentInfo, pcm: bytes) -> None:
        """Publishes a segment."""
        segment = Segment(n, info, pcm)
        self.stored_audio.setdefault(request_id, []).append(segment)
        if self.lose_next:
            self.lose_next -= 1
        elif request_id in self._audio:
            self._audio[request_id].put_nowait(segment, len(pcm))

    def ask(self, request_id: str, request: InterestRequest) -> InterestReply:
        """Asks whether a request is still wanted."""
        on_interest = self._credits.get(request_id)
        return on_interest(request) if on_interest else InterestReply(open=False, attempt=request.attempt)

    def forget(self) -> None:
        """Loses everything that was stored, as a memory stream does when the server restarts."""
        self.stored.clear()
        self.stored_audio.clear()

    def reconnect(self) -> None:
        """Tells every request that messages may have passed unseen."""
        for inbox in (*self._chats.values(), *self._audio.values()):
            inbox.mark_lost()

    def fail_all(self, error: ErrorInfo) -> None:
        """Ends every open request's waiting with an error."""
        for inbox in (*self._chats.values(), *self._audio.values()):
            inbox.fail(error)

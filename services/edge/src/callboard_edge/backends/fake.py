"""The edge's backends in memory: they behave as the ones on the bus, and fail on demand."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from callboard_contracts.chat import ChatFrame, ChatJob, ChatResult
from callboard_contracts.embedding import EmbeddingFrame, EmbeddingJob, EmbeddingResult
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.interest import EdgeHeartbeat, ResumeReply
from callboard_contracts.jobs import Job, Service
from callboard_contracts.kept import JobTicket, KeptDialogue, KeptGroup
from callboard_contracts.kudos import KudosReply, KudosTransferRequest
from callboard_contracts.quota import (
    Hold,
    IdentifyReply,
    IdentifyRequest,
    LimitState,
    ReserveReply,
    ReserveRequest,
    UsageReply,
    UsageRequest,
    WorkKind,
)
from callboard_contracts.speech import AudioSegment, SegmentInfo, SpeechJob
from callboard_contracts.streams import JOB_STREAMS
from callboard_contracts.subjects import JobClass
from callboard_contracts.transcription import (
    SOUND_PART_BYTES,
    TranscriptionFrame,
    TranscriptionJob,
    TranscriptionResult,
)
from callboard_edge.backends.inbox import RequestInbox
from callboard_edge.domain.ports import JobRef, QueueDepth, RequestState

TENANT = "anonymous"
LEASE_MARGIN_S = 30.0
KEY_REQUIRED = ErrorInfo(code=ErrorCode.INVALID_API_KEY, message="An API key is required.")


class FakeQuotaClient:
    """Grants every hold, unless told to refuse or to be away; keeps count of what is held."""

    def __init__(self) -> None:
        self.refusal: ErrorInfo | None = None
        self.refused_kind: WorkKind | None = None
        """The one kind of work that is refused, or None for all."""
        self.states: tuple[LimitState, ...] = ()
        self.require_key = False
        self.delay_s = 0.0
        self.asked: list[ReserveRequest] = []
        self.identified: list[IdentifyRequest] = []
        self.held: dict[str, Hold] = {}
        self.released: list[str] = []
        self.accounts: dict[str, str] = {}
        """The accounts of keys, by the keys' digests; all other callers are one tenant."""
        self.balances: dict[str, int] = {}
        self.transfers: dict[str, KudosTransferRequest] = {}

    async def reserve(self, request: ReserveRequest) -> ReserveReply:
        """Takes a hold, or says why not."""
        self.asked.append(request)
        await asyncio.sleep(self.delay_s)
        if self.refusal is not None and self.refused_kind in (None, request.kind):
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

    async def kudos(self, account: str) -> KudosReply:
        """Says what an account has."""
        if account not in self.balances:
            error = ErrorInfo(code=ErrorCode.INVALID_REQUEST, message="account: no such account", param="account")
            return KudosReply(error=error)
        return KudosReply(account=account, name="ada", balance=self.balances[account])

    async def transfer_kudos(self, request: KudosTransferRequest) -> KudosReply:
        """Moves kudos, once for each id."""
        repeated = request.id in self.transfers
        if not repeated:
            if request.target not in self.balances:
                error = ErrorInfo(code=ErrorCode.INVALID_REQUEST, message="target: no such account", param="target")
                return KudosReply(error=error)
            if self.balances.get(request.source, 0) < request.amount:
                error = ErrorInfo(code=ErrorCode.QUOTA_EXCEEDED, message="The account has fewer kudos.", limit="kudos")
                return KudosReply(error=error)
            self.balances[request.source] -= request.amount
            self.balances[request.target] += request.amount
            self.transfers[request.id] = request
        return KudosReply(account=request.source, balance=self.balances[request.source], repeated=repeated)

    async def check_caller(self, key_digest: str | None) -> ErrorInfo | None:
        """Lets everybody in, unless keys are required."""
        return KEY_REQUIRED if self.require_key and key_digest is None else None

    async def identify(self, request: IdentifyRequest) -> IdentifyReply:
        """Says who a caller is."""
        self.identified.append(request)
        tenant = self.accounts.get(request.key_digest or "", TENANT)
        return IdentifyReply(tenant=tenant, tier="standard", error=self.refusal)


class FakeJobQueue:
    """Work queues in memory; `next_chat`, `next_embedding` and their like are the worker's side."""

    def __init__(self, max_queued_per_tenant: int = 64) -> None:
        self.failure: CallboardError | None = None
        self.delay_s = 0.0
        self.cancelled: list[str] = []
        self.removed: list[str] = []
        self.classes: list[JobClass] = []
        self.depths: dict[JobClass, QueueDepth] = {}
        self.max_request_bytes = 64 * 1024 * 1024
        self._most = max_queued_per_tenant
        self._seq = 0
        self._refs: dict[str, JobRef] = {}
        self._queued: dict[int, Job] = {}
        self._chats: asyncio.Queue[ChatJob] = asyncio.Queue()
        self._embeddings: asyncio.Queue[EmbeddingJob] = asyncio.Queue()
        self._speeches: asyncio.Queue[SpeechJob] = asyncio.Queue()
        self._transcriptions: asyncio.Queue[TranscriptionJob] = asyncio.Queue()
        self.sounds: dict[str, bytes] = {}
        self.sound_failure: CallboardError | None = None

    @property
    def queued(self) -> int:
        """How many jobs lie in the queues, taken by a worker or not."""
        return len(self._queued)

    async def enqueue(self, job: Job, service: Service, pool: str, job_class: JobClass) -> JobRef:
        """Stores a job."""
        del pool
        await asyncio.sleep(self.delay_s)
        if self.failure is not None:
            raise self.failure
        if job.request_id in self._refs:
            return self._refs[job.request_id]
        if Counter(queued.tenant for queued in self._queued.values())[job.tenant] >= self._most:
            raise CallboardError(ErrorCode.QUEUE_FULL, "Too many requests wait.", retry_after_s=2.0)
        self._seq += 1
        self._queued[self._seq] = job
        self.classes.append(job_class)
        if isinstance(job, ChatJob):
            self._chats.put_nowait(job)
        elif isinstance(job, EmbeddingJob):
            self._embeddings.put_nowait(job)
        elif isinstance(job, SpeechJob):
            self._speeches.put_nowait(job)
        elif isinstance(job, TranscriptionJob):
            self._transcriptions.put_nowait(job)
        ref = self._refs[job.request_id] = JobRef(JOB_STREAMS[service], self._seq)
        return ref

    async def store_sound(self, edge: str, request_id: str, sound: bytes | bytearray) -> int:
        """Stores a sound."""
        del edge
        await asyncio.sleep(self.delay_s)
        if self.sound_failure is not None:
            raise self.sound_failure
        self.sounds[request_id] = bytes(sound)
        return -(-len(sound) // SOUND_PART_BYTES)

    async def delete_sound(self, edge: str, request_id: str) -> None:
        """Forgets a sound."""
        del edge
        self.sounds.pop(request_id, None)

    async def cancel(self, request_id: str) -> None:
        """Notes the cancellation."""
        self.cancelled.append(request_id)

    async def remove(self, job_ref: JobRef) -> bool:
        """Takes a job out of its queue; a worker that has it already is not told."""
        job = self._queued.pop(job_ref.seq, None)
        if job is None:
            return False
        self.removed.append(job.request_id)
        return True

    async def depth(self, service: Service, pool: str, job_class: JobClass) -> QueueDepth:
        """How long a queue is, as a test has it."""
        del service, pool
        return self.depths.get(job_class, QueueDepth())

    async def next_chat(self) -> ChatJob:
        """Waits for a chat job and takes it."""
        return await asyncio.wait_for(self._chats.get(), 5)

    async def next_embedding(self) -> EmbeddingJob:
        """Waits for an embedding job and takes it."""
        return await asyncio.wait_for(self._embeddings.get(), 5)

    async def next_speech(self) -> SpeechJob:
        """Waits for a speech job and takes it."""
        return await asyncio.wait_for(self._speeches.get(), 5)

    async def next_transcription(self) -> TranscriptionJob:
        """Waits for a transcription job and takes it."""
        return await asyncio.wait_for(self._transcriptions.get(), 5)

    def finish(self, request_id: str) -> None:
        """Acknowledges a job, as a worker does at its end."""
        self._queued = {seq: job for seq, job in self._queued.items() if job.request_id != request_id}


class FakeReplyRouter:
    """Frames and segments in memory; `send`, `send_vectors`, `write_down`, `say` and `resume` are the worker's side."""

    edge = "edge0"

    def __init__(self, max_messages: int = 1024, max_bytes: int = 1024 * 1024) -> None:
        self.lose_next = 0
        """How many of the next messages are stored but never delivered."""
        self.results: dict[str, ChatResult] = {}
        self.embedding_results: dict[str, EmbeddingResult] = {}
        self.transcription_results: dict[str, TranscriptionResult] = {}
        self.stored: dict[str, list[ChatFrame]] = {}
        self.stored_vectors: dict[str, list[EmbeddingFrame]] = {}
        self.stored_transcripts: dict[str, list[TranscriptionFrame]] = {}
        self.stored_audio: dict[str, list[AudioSegment]] = {}
        self.replays = 0
        self._limits = (max_messages, max_bytes)
        self._chats: dict[str, RequestInbox[ChatFrame, ChatFrame]] = {}
        self._embeddings: dict[str, RequestInbox[EmbeddingFrame, EmbeddingFrame]] = {}
        self._transcripts: dict[str, RequestInbox[TranscriptionFrame, TranscriptionFrame]] = {}
        self._audio: dict[str, RequestInbox[AudioSegment, AudioSegment]] = {}
        self._states: dict[str, RequestState] = {}

    @property
    def open_requests(self) -> int:
        """How many requests are open."""
        return len(self._states)

    def open_text(self, request_id: str, state: RequestState) -> RequestInbox[ChatFrame, ChatFrame]:
        """Starts to collect the frames of a chat request."""
        inbox = self._chats[request_id] = RequestInbox[ChatFrame, ChatFrame](lambda frame: frame, *self._limits)
        self._states[request_id] = state
        return inbox

    def open_embedding(self, request_id: str, state: RequestState) -> RequestInbox[EmbeddingFrame, EmbeddingFrame]:
        """Starts to collect the frames of an embedding request."""
        inbox = self._embeddings[request_id] = RequestInbox[EmbeddingFrame, EmbeddingFrame](
            lambda frame: frame, *self._limits
        )
        self._states[request_id] = state
        return inbox

    def open_transcription(
        self, request_id: str, state: RequestState
    ) -> RequestInbox[TranscriptionFrame, TranscriptionFrame]:
        """Starts to collect the frames of a transcription request."""
        inbox = self._transcripts[request_id] = RequestInbox[TranscriptionFrame, TranscriptionFrame](
            lambda frame: frame, *self._limits
        )
        self._states[request_id] = state
        return inbox

    def open_audio(self, request_id: str, state: RequestState) -> RequestInbox[AudioSegment, AudioSegment]:
        """Starts to collect the segments of a speech request."""
        inbox = self._audio[request_id] = RequestInbox[AudioSegment, AudioSegment](
            lambda segment: segment, *self._limits
        )
        self._states[request_id] = state
        return inbox

    def close_request(self, request_id: str) -> None:
        """Forgets a request."""
        self._chats.pop(request_id, None)
        self._embeddings.pop(request_id, None)
        self._transcripts.pop(request_id, None)
        self._audio.pop(request_id, None)
        self._states.pop(request_id, None)

    async def replay_text(self, request_id: str) -> list[ChatFrame]:
        """Reads all frames of a request back."""
        self.replays += 1
        return list(self.stored.get(request_id, ()))

    async def replay_embedding(self, request_id: str) -> list[EmbeddingFrame]:
        """Reads all frames of an embedding request back."""
        self.replays += 1
        return list(self.stored_vectors.get(request_id, ()))

    async def replay_audio(self, request_id: str, from_n: int) -> list[AudioSegment]:
        """Reads the next few segments back."""
        self.replays += 1
        return [segment for segment in self.stored_audio.get(request_id, ()) if segment.n >= from_n][:32]

    async def replay_transcription(self, request_id: str) -> list[TranscriptionFrame]:
        """Reads all frames of a transcription request back."""
        self.replays += 1
        return list(self.stored_transcripts.get(request_id, ()))

    async def transcription_result(self, request_id: str) -> TranscriptionResult | None:
        """The finished transcript, if it is there."""
        return self.transcription_results.get(request_id)

    async def result(self, request_id: str) -> ChatResult | None:
        """The finished reply, if it is there."""
        return self.results.get(request_id)

    async def embedding_result(self, request_id: str) -> EmbeddingResult | None:
        """The finished vectors, if they are there."""
        return self.embedding_results.get(request_id)

    def send(self, request_id: str, frame: ChatFrame) -> None:
        """Publishes a frame."""
        self.stored.setdefault(request_id, []).append(frame)
        if self.lose_next:
            self.lose_next -= 1
        elif request_id in self._chats:
            self._chats[request_id].put_nowait(frame, len(frame.text) + len(frame.thinking))

    def send_vectors(self, request_id: str, frame: EmbeddingFrame) -> None:
        """Publishes a frame of vectors."""
        self.stored_vectors.setdefault(request_id, []).append(frame)
        if self.lose_next:
            self.lose_next -= 1
        elif request_id in self._embeddings:
            self._embeddings[request_id].put_nowait(frame, sum(map(len, frame.vectors)))

    def write_down(self, request_id: str, frame: TranscriptionFrame) -> None:
        """Publishes a frame of a transcript."""
        self.stored_transcripts.setdefault(request_id, []).append(frame)
        if self.lose_next:
            self.lose_next -= 1
        elif request_id in self._transcripts:
            self._transcripts[request_id].put_nowait(frame, sum(len(segment.text) for segment in frame.segments))

    def say(self, request_id: str, n: int, info: SegmentInfo, pcm: bytes) -> None:
        """Publishes a segment."""
        segment = AudioSegment(n, info, pcm)
        self.stored_audio.setdefault(request_id, []).append(segment)
        if self.lose_next:
            self.lose_next -= 1
        elif request_id in self._audio:
            self._audio[request_id].put_nowait(segment, len(pcm))

    def heartbeat(self) -> EdgeHeartbeat:
        """What a heartbeat would say now."""
        attempts = {request_id: state.attempt() for request_id, state in self._states.items()}
        repeated = {request_id: attempt for request_id, attempt in attempts.items() if attempt > 1}
        return EdgeHeartbeat(edge=self.edge, open=tuple(attempts), attempts=repeated)

    def resume(self, request_id: str, attempt: int) -> ResumeReply:
        """Asks how far a reply has come, as a worker that takes it over does."""
        state = self._states.get(request_id)
        return state.resume(attempt) if state else ResumeReply(open=False, attempt=attempt)

    def forget(self) -> None:
        """Loses everything that was stored, as a memory stream does when the server restarts."""
        self.stored.clear()
        self.stored_vectors.clear()
        self.stored_transcripts.clear()
        self.stored_audio.clear()

    def reconnect(self) -> None:
        """Tells every request that messages may have passed unseen."""
        for inbox in self._inboxes:
            inbox.mark_lost()

    def fail_all(self, error: ErrorInfo) -> None:
        """Ends every open request's waiting with an error."""
        for inbox in self._inboxes:
            inbox.fail(error)

    @property
    def _inboxes(self) -> Sequence[RequestInbox[Any, Any]]:
        by_kind = self._chats, self._embeddings, self._transcripts, self._audio
        return [inbox for inboxes in by_kind for inbox in inboxes.values()]


class FakeResultStore:
    """Kept results in memory; the frames are those of a router."""

    def __init__(self, replies: FakeReplyRouter) -> None:
        self.failure: CallboardError | None = None
        self.tickets: dict[str, JobTicket] = {}
        self.names: dict[str, str] = {}
        self.dialogues: dict[str, KeptDialogue] = {}
        self.groups: dict[str, KeptGroup] = {}
        self._replies = replies

    async def put_name(self, name: str, request_id: str) -> None:
        """Keeps the name of a request."""
        self._fail()
        self.names[name] = request_id

    async def named(self, name: str) -> str | None:
        """The request of a name."""
        self._fail()
        return self.names.get(name)

    async def put_group(self, name: str, group: KeptGroup) -> None:
        """Keeps the jobs of a request."""
        self._fail()
        self.groups[name] = group

    async def group(self, name: str) -> KeptGroup | None:
        """The jobs of a request."""
        self._fail()
        return self.groups.get(name)

    async def put_dialogue(self, name: str, dialogue: KeptDialogue) -> None:
        """Keeps a dialogue."""
        self._fail()
        self.dialogues[name] = dialogue

    async def dialogue(self, name: str) -> KeptDialogue | None:
        """The dialogue of a name."""
        self._fail()
        return self.dialogues.get(name)

    async def put_ticket(self, ticket: JobTicket) -> None:
        """Keeps a ticket."""
        self._fail()
        self.tickets[ticket.request_id] = ticket

    async def ticket(self, request_id: str) -> JobTicket | None:
        """The ticket of a polled job."""
        self._fail()
        return self.tickets.get(request_id)

    async def put_result(self, result: ChatResult) -> None:
        """Keeps a result."""
        self._fail()
        self._replies.results[result.request_id] = result

    async def result(self, request_id: str) -> ChatResult | None:
        """The kept result."""
        self._fail()
        return self._replies.results.get(request_id)

    async def frames(self, request_id: str) -> list[ChatFrame]:
        """All frames sent so far."""
        self._fail()
        return list(self._replies.stored.get(request_id, ()))

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure

"""The way in for every protocol: who asks, what it may cost, and then the job in its queue."""

from dataclasses import dataclass
from uuid import uuid4

from callboard_contracts.chat import ChatJob, ChatRequest
from callboard_contracts.embedding import EmbeddingJob, EmbeddingRequest
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.jobs import JOB_VERSION, Service
from callboard_contracts.prompt_size import embedding_tokens, prompt_size, prompt_tokens_bound, usual_prompt_tokens
from callboard_contracts.quota import (
    IdentifyReply,
    IdentifyRequest,
    ReserveReply,
    ReserveRequest,
    UsageReply,
    UsageRequest,
    Work,
    WorkKind,
)
from callboard_contracts.speech import NarratedReply, SpeechJob, SpeechRequest
from callboard_contracts.transcription import TranscriptionJob, TranscriptionRequest
from callboard_edge.domain.caller import Caller
from callboard_edge.domain.catalogue import ChatModel, RecognitionModel, SpeechModel
from callboard_edge.domain.embedding_stream import EmbeddingSource, EmbeddingStream
from callboard_edge.domain.kept_jobs import KeptJobs
from callboard_edge.domain.kudos_price import KudosPrice
from callboard_edge.domain.narrated_stream import NarratedStream
from callboard_edge.domain.prompt_bound import check_context, check_inputs
from callboard_edge.domain.prompt_cache import with_preferred_worker
from callboard_edge.domain.sounds import Sound
from callboard_edge.domain.speech_stream import SpeechSource, SpeechStream
from callboard_edge.domain.submission import Dependencies, Route, submit
from callboard_edge.domain.text_stream import TextSource, TextStream
from callboard_edge.domain.transcription_stream import TranscriptionSource, TranscriptionStream
from callboard_edge.domain.workers import Served, Workers, WorkerWait, check_pool


@dataclass(frozen=True, slots=True)
class Admission:
    """Turns a neutral request into a job, whatever protocol it came in.

    A job is either streamed to a listener, or kept: then its text so far and its result are read by its id, from any
    edge. `request_id` must be fresh and unguessable, since it names the request on the bus; left out, one is made.
    """

    deps: Dependencies
    workers: Workers
    kept: KeptJobs
    request_timeout_s: float
    hold_slice_tokens: int = 256

    @property
    def max_request_bytes(self) -> int:
        """How large the request in a job may be, as JSON."""
        return self.deps.jobs.max_request_bytes

    def check_size(self, request: ChatRequest | EmbeddingRequest) -> None:
        """Refuses a request that no job can carry, before anything is held for it.

        Raises:
            CallboardError: `body_too_large`.
        """
        if len(request.compact()) > self.max_request_bytes:
            raise CallboardError(
                ErrorCode.BODY_TOO_LARGE, f"The request is larger than the {self.max_request_bytes} bytes of a job."
            )

    async def chat(
        self, caller: Caller, request: ChatRequest, model: ChatModel, request_id: str | None = None
    ) -> TextStream:
        """Holds what a chat request may cost and enqueues it; use the stream as an async context manager.

        Where the model's workers extend holds, that is a usual prompt and the first slice of the reply, else the most
        that the request can cost.

        Raises:
            QuotaRefused: quota refused the hold.
            CallboardError: the prompt cannot fit, no worker is expected, or the queue did not take the job.
        """
        return await (await self.begin_chat(caller, request, model, request_id)).accepted()

    async def begin_chat(
        self, caller: Caller, request: ChatRequest, model: ChatModel, request_id: str | None = None
    ) -> TextStream:
        """The same, without waiting for quota and the queue: the stream raises what they refuse when it is read."""
        if self.workers.announcing:
            await self.wait_announced("chat", model)
        wait = WorkerWait(self.workers, "chat", model)
        reserve, held = self.chat_reserve(caller, request, model, request_id, wait=wait)
        source = TextSource(self.deps.replies, reserve.request_id)
        stream = TextStream(self.deps, reserve.request_id, self.request_timeout_s, source, wait)
        route = Route("chat", model.pool)

        def job(reply: ReserveReply) -> ChatJob:
            return self._chat_job(reserve, reply, request, model, held)

        return stream.begin(submit(self.deps, reserve, job, route), route)

    async def chat_kept(
        self,
        caller: Caller,
        request: ChatRequest,
        model: ChatModel,
        request_id: str | None = None,
        name: str | None = None,
        kudos: KudosPrice | None = None,
    ) -> str:
        """Holds what a chat request may cost, enqueues it as a batch job and returns its id; raises as `chat`.

        `kudos` are what it costs an account beside that.
        """
        await self.wait_announced("chat", model)
        reserve, held = self.chat_reserve(caller, request, model, request_id)
        if kudos is not None:
            reserve = reserve.model_copy(update={"kudos": kudos.amount, "kudos_if_any": not kudos.upfront})
        await self.kept.submit(
            reserve,
            lambda reply: self._chat_job(reserve, reply, request, model, held, kudos),
            Route("chat", model.pool, "batch"),
            name,
        )
        return reserve.request_id

    async def embeddings(
        self, caller: Caller, request: EmbeddingRequest, model: ChatModel, request_id: str | None = None
    ) -> EmbeddingStream:
        """Holds what texts usually have in tokens and enqueues them; the worker has held what is missing.

        Use the stream as an async context manager. Raises as `chat`.
        """
        check_inputs(request, model)
        await self.wait_announced("chat", model)
        wait = check_pool(self.workers, "chat", model)
        tokens_per_byte = self.workers.tokens_per_byte("chat", model.pool, model.name) or 1.0
        work = Work(prompt_tokens=embedding_tokens(request.inputs, tokens_per_byte, model.context_tokens))
        reserve = self.reserve_request(caller, "embedding", model.name, work, request_id)
        source = EmbeddingSource(self.deps.replies, reserve.request_id)
        count = len(request.inputs)
        stream = EmbeddingStream(self.deps, reserve.request_id, self.request_timeout_s, source, wait, count)

        def job(reply: ReserveReply) -> EmbeddingJob:
            now = self.deps.now()
            return EmbeddingJob(
                version=JOB_VERSION,
                request_id=reserve.request_id,
                edge=self.deps.replies.edge,
                tenant=reply.tenant,
                hold=reply.hold,
                created_at=now,
                deadline_at=now + self.request_timeout_s,
                request=request,
            )

        return await stream.submit(reserve, job, Route("chat", model.pool))

    async def speech(
        self,
        caller: Caller,
        request: SpeechRequest,
        model: SpeechModel,
        audio_ms: int,
        request_id: str | None = None,
        narrates: NarratedReply | None = None,
    ) -> SpeechStream:
        """Holds the beginning of an utterance, `audio_ms` long, and enqueues the request.

        The worker extends the hold while it speaks. With `narrates`, the text is that of a chat reply. Use the stream
        as an async context manager.

        Raises:
            QuotaRefused: quota refused the hold.
            CallboardError: no worker is expected, or the queue did not take the job.
        """
        await self.wait_announced("tts", model)
        wait = check_pool(self.workers, "tts", model)
        reserve = self.reserve_request(caller, "speech", model.name, Work(audio_ms=audio_ms), request_id)
        source = SpeechSource(self.deps.replies, reserve.request_id)
        stream = SpeechStream(self.deps, reserve.request_id, self.request_timeout_s, source, wait)

        def job(reply: ReserveReply) -> SpeechJob:
            now, edge = self.deps.now(), self.deps.replies.edge
            return SpeechJob(
                version=JOB_VERSION,
                request_id=reserve.request_id,
                edge=edge,
                tenant=reply.tenant,
                hold=reply.hold,
                created_at=now,
                deadline_at=now + self.request_timeout_s,
                room=edge,
                utterance=reserve.request_id,
                request=request,
                narrates=narrates,
            )

        return await stream.submit(reserve, job, Route("tts", model.pool))

    async def transcription(
        self,
        caller: Caller,
        request: TranscriptionRequest,
        model: RecognitionModel,
        sound: Sound,
        audio_ms: int,
        request_id: str | None = None,
    ) -> TranscriptionStream:
        """Holds the beginning of a sound, `audio_ms` long, stores the sound, releases it here and enqueues the request.

        The worker extends the hold once it knows how long the sound is. Use the stream as an async context manager.

        Raises:
            QuotaRefused: quota refused the hold.
            CallboardError: no worker is expected, the sound was not stored, or the queue did not take the job.
        """
        await self.wait_announced("stt", model)
        wait = check_pool(self.workers, "stt", model)
        reserve = self.reserve_request(caller, "transcription", model.name, Work(audio_ms=audio_ms), request_id)
        source = TranscriptionSource(self.deps.replies, reserve.request_id)
        stream = TranscriptionStream(self.deps, reserve.request_id, self.request_timeout_s, source, wait)
        edge, parts = self.deps.replies.edge, 0

        async def store() -> None:
            nonlocal parts
            try:
                parts = await self.deps.jobs.store_sound(edge, reserve.request_id, sound.content)
            finally:
                sound.release()

        def job(reply: ReserveReply) -> TranscriptionJob:
            now = self.deps.now()
            return TranscriptionJob(
                version=JOB_VERSION,
                request_id=reserve.request_id,
                edge=edge,
                tenant=reply.tenant,
                hold=reply.hold,
                created_at=now,
                deadline_at=now + self.request_timeout_s,
                request=request,
                parts=parts,
                sound_bytes=sound.size_bytes,
            )

        return await stream.submit(reserve, job, Route("stt", model.pool), store)

    async def narrated(
        self,
        caller: Caller,
        request: ChatRequest,
        model: ChatModel,
        speech_request: SpeechRequest,
        speech_model: SpeechModel,
        audio_ms: int,
        request_id: str,
    ) -> NarratedStream:
        """Holds what a chat request and the beginning of its speech may cost, and enqueues both or none.

        The speech is enqueued first, since it costs nothing before the reply begins. Raises as `chat` and `speech`.
        """
        await self.wait_announced("chat", model)
        self.chat_reserve(caller, request, model, request_id)
        narrates = NarratedReply(edge=self.deps.replies.edge, request_id=request_id)
        speech = await self.speech(caller, speech_request, speech_model, audio_ms, narrates=narrates)
        try:
            text = await self.chat(caller, request, model, request_id)
        except BaseException:
            speech.close()
            raise
        return NarratedStream(text, speech)

    async def wait_announced(self, service: Service, model: Served) -> None:
        """Waits while the first announcement of a model's pool may still be on its way; nothing is held for that."""
        if self.workers.announcing and not model.may_sleep:
            await self.workers.wait_announced(service, model.pool)

    async def check_caller(self, caller: Caller) -> None:
        """Refuses a caller who has to show a key and has none, or one that quota does not know.

        Raises:
            CallboardError: `invalid_api_key`, or quota is away and the site refuses then.
        """
        if (error := await self.deps.quota.check_caller(caller.key_digest)) is not None:
            raise CallboardError.of(error)

    async def usage(self, caller: Caller) -> UsageReply:
        """Says what a caller has used and where each of the caller's limits stands.

        Raises:
            CallboardError: the key is unknown, expired or revoked, or quota is away.
        """
        reply = await self.deps.quota.usage(UsageRequest(key_digest=caller.key_digest, address=caller.address))
        if reply.error is not None:
            raise CallboardError.of(reply.error)
        return reply

    async def identify(self, caller: Caller) -> IdentifyReply:
        """Says who a caller is, for paths that cost nothing.

        Raises:
            CallboardError: the key is unknown, expired or revoked, or quota is away and the site refuses then.
        """
        request = IdentifyRequest(key_digest=caller.key_digest, address=caller.address)
        reply = await self.deps.quota.identify(request)
        if reply.error is not None:
            raise CallboardError.of(reply.error)
        return reply

    def chat_reserve(
        self,
        caller: Caller,
        request: ChatRequest,
        model: ChatModel,
        request_id: str | None,
        *,
        joins_dialogue: bool = False,
        wait: WorkerWait | None = None,
    ) -> tuple[ReserveRequest, Work | None]:
        """The request for the hold, and what it was reckoned for where the worker is to extend it.

        `wait` is the request's own for a worker, where it has one. A prompt that joins a dialogue which is not known
        yet may fill the context.

        Raises:
            CallboardError: the prompt cannot fit, or no worker is expected.
        """
        size = prompt_size(request)
        check_context(request, model, size)
        (wait or WorkerWait(self.workers, "chat", model)).until()
        tokens_per_byte = self.workers.tokens_per_byte("chat", model.pool, model.name)
        if tokens_per_byte is None:
            output_tokens = request.max_output_tokens
            prompt_tokens = max(1, model.context_tokens - output_tokens)
            if not joins_dialogue:
                prompt_tokens = prompt_tokens_bound(request, model.context_tokens, size)
        else:
            prompt_tokens = usual_prompt_tokens(request, tokens_per_byte, model.context_tokens, size)
            output_tokens = min(request.max_output_tokens, self.hold_slice_tokens)
        work = Work(prompt_tokens=prompt_tokens, completion_tokens=output_tokens)
        reserve = self.reserve_request(caller, "chat", model.name, work, request_id)
        return reserve, None if tokens_per_byte is None else work

    def reserve_request(
        self, caller: Caller, kind: WorkKind, model: str, work: Work, request_id: str | None
    ) -> ReserveRequest:
        """The request for a hold; `request_id` is fresh where none is given."""
        return ReserveRequest(
            request_id=request_id or uuid4().hex,
            kind=kind,
            model=model,
            work=work,
            key_digest=caller.key_digest,
            address=caller.address,
            life_s=self.request_timeout_s,
        )

    def _chat_job(
        self,
        reserve: ReserveRequest,
        reply: ReserveReply,
        request: ChatRequest,
        model: ChatModel,
        held: Work | None,
        kudos: KudosPrice | None = None,
    ) -> ChatJob:
        now = self.deps.now()
        return ChatJob(
            version=JOB_VERSION,
            request_id=reserve.request_id,
            edge=self.deps.replies.edge,
            tenant=reply.tenant,
            hold=reply.hold,
            created_at=now,
            deadline_at=now + self.request_timeout_s,
            request=with_preferred_worker(request, model, self.workers),
            held=held if reply.hold else None,
            kudos=kudos.terms if kudos and reply.hold and reply.hold.kudos else None,
        )

"""The way in for every protocol: who asks, what it may cost, and then the job on the board."""

from dataclasses import dataclass
from uuid import uuid4

from callboard_contracts.chat import ChatRequest
from callboard_contracts.errors import CallboardError
from callboard_contracts.quota import (
    IdentifyReply,
    IdentifyRequest,
    ReserveRequest,
    UsageReply,
    UsageRequest,
    Work,
)
from callboard_contracts.speech import SpeechRequest
from callboard_edge.domain.caller import Caller
from callboard_edge.domain.catalogue import ChatModel, SpeechModel
from callboard_edge.domain.job_stream import Dependencies
from callboard_edge.domain.prompt_bound import check_context, prompt_tokens_bound
from callboard_edge.domain.speech_stream import Utterance
from callboard_edge.domain.text_stream import Reply


@dataclass(frozen=True, slots=True)
class Admission:
    """Turns a neutral request into a job that runs, whatever protocol it came in."""

    deps: Dependencies
    request_timeout_s: float

    async def chat(
        self, caller: Caller, request: ChatRequest, model: ChatModel, request_id: str | None = None
    ) -> Reply:
        """Holds the most a chat request can cost and posts it.

        Use the reply as a context manager and take its frames until one has the end. `request_id` must be fresh and
        unguessable, since it names the request on the bus; left out, one is made.

        Raises:
            Refused: quota said no.
            CallboardError: the prompt cannot fit, or the board did not take the job.
        """
        check_context(request, model)
        work = Work(
            prompt_tokens=prompt_tokens_bound(request, model.context_tokens),
            completion_tokens=request.max_output_tokens,
        )
        request_id = request_id or uuid4().hex
        reply = Reply(self.deps, request_id, self.request_timeout_s, request, model.pool)
        await reply.begin(
            ReserveRequest(
                request_id=request_id,
                kind="chat",
                model=model.name,
                work=work,
                key_digest=caller.key_digest,
                address=caller.address,
                life_s=self.request_timeout_s,
            )
        )
        return reply

    async def speech(
        self,
        caller: Caller,
        request: SpeechRequest,
        model: SpeechModel,
        audio_ms: int,
        request_id: str | None = None,
    ) -> Utterance:
        """Holds the beginning of an utterance, `audio_ms` long, and posts a speech request.

        The worker holds what follows while it speaks.

        Use the utterance as a context manager and take its segments until one has the end. `request_id` is as for
        `chat`.

        Raises:
            Refused: quota said no.
            CallboardError: the board did not take the job.
        """
        request_id = request_id or uuid4().hex
        utterance = Utterance(self.deps, request_id, self.request_timeout_s, request, model.pool)
        await utterance.begin(
            ReserveRequest(
                request_id=request_id,
                kind="speech",
                model=model.name,
                work=Work(audio_ms=audio_ms),
                key_digest=caller.key_digest,
                address=caller.address,
                life_s=self.request_timeout_s,
            )
        )
        return utterance

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

"""Volunteers as an engine: each reply is a job that waits until one of them takes it and submits its text."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from callboard_chat.domain.control_tokens import ControlTokens
from callboard_chat.domain.models import estimated_prompt_tokens, no_tokens
from callboard_chat.domain.pending_jobs import PendingJobs, TooManyPending
from callboard_chat.domain.ports import Chunk, Continuation, Embedded, PromptTokens
from callboard_chat.domain.posted_job import PostedJob, estimated_tokens
from callboard_chat.domain.prompt_formats import FORMATS, OwnTurns
from callboard_chat.domain.volunteer_matching import WaitingJob
from callboard_chat.domain.volunteer_models import VolunteerModels
from callboard_contracts.chat import KOBOLD_SAMPLERS, ChatJob, ChatRequest, Sampling
from callboard_contracts.tokens import DescribeModelReply
from callboard_contracts.volunteer_conditions import Conditions
from callboard_contracts.volunteers import VolunteerOffer, VolunteerTerms
from callboard_contracts.workers import Ability
from callboard_worker.engine import EngineFailed, EngineUnavailable

ABILITIES: frozenset[Ability] = frozenset({"completion", "chat", "prefill"})
_PARAMS: dict[str, str] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "top_a": "top_a",
    "tfs": "tfs",
    "typical_p": "typical",
    "min_p": "min_p",
    "repetition_penalty": "rep_pen",
    "repetition_range": "rep_pen_range",
    "repetition_slope": "rep_pen_slope",
    "smoothing_factor": "smoothing_factor",
    "dynatemp_range": "dynatemp_range",
    "dynatemp_exponent": "dynatemp_exponent",
}
"""The Horde's names of the sampling fields that its workers take."""
SAMPLING = frozenset({*_PARAMS, "sampler_order", "stop"})
KEEP_ALIVE_S = 10.0
_BYTES_PER_TOKEN = 3
"""Fewer than usual, so that a prompt fits where it is said to."""


class VolunteerEngine:
    """Writes replies with whoever volunteers.

    `time_s` is the time that every job has beside that for its length; a reply that waits or is written says so every
    `keep_alive_s`. `names` are those by which volunteers offer a model, where it has others than the engine's own.
    `now` tells the Unix time.
    """

    abilities = ABILITIES
    sampling = SAMPLING
    in_process = False
    honours_prefill = True

    def __init__(
        self,
        pending: PendingJobs,
        models: VolunteerModels,
        time_s: float,
        keep_alive_s: float = KEEP_ALIVE_S,
        names: Mapping[str, Sequence[str]] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.pending = pending
        self.models = models
        self.keep_alive_s = keep_alive_s
        self._time_s = time_s
        self._names = names or {}
        self._now = now
        self._control_tokens = ControlTokens()

    async def load(self) -> None:
        """Nothing is loaded."""

    async def ready(self) -> str | None:
        """Always ready: jobs wait until somebody volunteers."""
        return None

    def broken(self) -> str | None:
        """Never."""
        return None

    async def close(self) -> None:
        """There is nothing to close."""

    def stream(self, request: ChatRequest, continuation: Continuation | None = None) -> AsyncGenerator[Chunk, None]:
        """Writes a reply that belongs to no job; see `ChatEngine`."""
        return self._stream("", "", request, continuation, 0.0, math.inf)

    def stream_job(
        self,
        job: ChatJob,
        request: ChatRequest,
        continuation: Continuation | None,
        *,
        batch: bool = False,
        left_s: float = math.inf,
    ) -> AsyncGenerator[Chunk, None]:
        """Writes the reply of a job; volunteers are not told whose it is, but its owner's kudos say when it is due.

        `left_s` is the time until the job's deadline, which no volunteer is given more than.
        """
        del batch
        return self._stream(job.request_id, job.tenant, request, continuation, self.age_s(job), left_s)

    def age_s(self, job: ChatJob) -> float:
        """How old a job is, whether it waited in the queue or with a worker that was lost."""
        return max(0.0, self._now() - job.created_at)

    async def _stream(
        self,
        request_id: str,
        requester: str,
        request: ChatRequest,
        continuation: Continuation | None,
        age_s: float,
        left_s: float,
    ) -> AsyncGenerator[Chunk, None]:
        reply = self.post(request_id, requester, request, continuation, age_s, left_s)
        try:
            while True:
                await reply.wait(self.keep_alive_s)
                chunk = reply.chunk()
                yield chunk
                if chunk.finish is not None:
                    return
        finally:
            self.pending.withdraw(reply.job)

    def post(
        self,
        request_id: str,
        requester: str,
        request: ChatRequest,
        continuation: Continuation | None,
        age_s: float,
        left_s: float = math.inf,
    ) -> "VolunteerReply":
        """Lets a reply wait for volunteers, until it is withdrawn; raises EngineUnavailable.

        `age_s` is how long its job has waited already, and `left_s` the time until its deadline.
        """
        start = continuation or Continuation()
        left = max(1, request.max_output_tokens - start.tokens)
        try:
            job = self.pending.post(
                request_id,
                self._waiting(request, requester, left, age_s),
                lambda offer, said: payload(request, offer, said, left - estimated_tokens(said[len(start.text) :])),
                left,
                self._time_s,
                start.text,
                left_s,
            )
        except TooManyPending:
            raise EngineUnavailable("too many jobs wait for volunteers") from None
        return VolunteerReply(self.pending, job, request, len(start.text), left)

    def broken_up(self, request: ChatRequest) -> ChatRequest:
        """Breaks up all control tokens that are well known."""
        return self._control_tokens.broken_up(request)

    def own_turns(self, model: str) -> OwnTurns:
        """What the pool's prompt format writes, since the models' own templates are with the volunteers."""
        form = self.models[model].prompt_format
        return OwnTurns(FORMATS["alpaca" if form == "own" else form].texts, "alpaca" if form == "own" else form)

    async def tokenize(self, request: ChatRequest, *, special: bool = True) -> PromptTokens:
        """Volunteers tell no tokens."""
        raise no_tokens()

    async def detokenize(self, model: str, ids: Sequence[int], *, special: bool = True) -> str:
        """Volunteers tell no tokens."""
        raise no_tokens()

    async def describe(self, model: str) -> DescribeModelReply:
        """How much volunteers read at once."""
        lengths = self.models.lengths(model)
        return DescribeModelReply(context_tokens=None if lengths is None else lengths[1])

    async def embed(self, model: str, inputs: Sequence[str], context_tokens: int, *, truncate: bool) -> Embedded:
        """Volunteers make no embeddings."""
        raise EngineFailed("volunteers make no embeddings")

    def names_of(self, engine_model: str) -> Sequence[str]:
        """The names by which volunteers offer a model."""
        return self._names.get(engine_model, (engine_model,))

    def _waiting(self, request: ChatRequest, requester: str, left: int, age_s: float) -> WaitingJob:
        terms = request.volunteers or VolunteerTerms()
        context = request.context_tokens
        if context is None or request.volunteers is None:
            context = len(request.prompt.encode("utf-8", "surrogatepass")) // _BYTES_PER_TOKEN + left
        asked = (request.model, *(self.models[name].engine_model for name in terms.models))
        models = tuple(dict.fromkeys(name for model in asked for name in self.names_of(model)))
        return WaitingJob(
            Conditions.of(terms, left, context),
            () if terms.any_model else models,
            request.prompt,
            asyncio.get_running_loop().time() - age_s,
            requester,
            terms.kudos,
            frozenset(terms.workers),
            terms.excludes,
            terms.disable_batching,
        )


class VolunteerReply:
    """A reply that waits for volunteers or is written by one; whoever posted its `job` withdraws it."""

    def __init__(self, pending: PendingJobs, job: PostedJob, request: ChatRequest, begin: int, left: int) -> None:
        self.job = job
        self._pending = pending
        self._request = request
        self._begin = begin
        self._left = left
        self._told = 0

    async def wait(self, timeout_s: float) -> None:
        """Waits until there is something new, or for the time given; a volunteer that ran out of time loses the job."""
        until_s = min(timeout_s, self._pending.expire(self.job))
        if self.job.state == "open":
            await self.job.wait(until_s)

    def chunk(self) -> Chunk:
        """What has come since the last call; raises EngineFailed where volunteers failed and nothing more came."""
        job = self.job
        text = job.read()
        made = min(self._left, estimated_tokens(job.said[self._begin :]))
        tokens, self._told = max(0, made - self._told), max(self._told, made)
        worked_s = self._pending.worked_s(job)
        if job.state == "failed" and not text:
            raise EngineFailed("volunteers failed on the job")
        if job.state != "done":
            return Chunk(text=text, tokens=tokens, served_by=job.served_by, restarts=job.faults, worked_s=worked_s)
        return Chunk(
            text=text,
            tokens=tokens,
            finish="length" if made >= self._left else "stop",
            prompt_tokens=estimated_prompt_tokens(self._request),
            completion_tokens=made,
            served_by=job.served_by,
            restarts=job.faults,
            worked_s=worked_s,
        )


def payload(request: ChatRequest, offer: VolunteerOffer, said: str, max_length: int) -> dict[str, Any]:
    """What a volunteer gets of a request, in the Horde's words; it writes on after what was said."""
    sampling: Sampling = request.sampling
    context = request.context_tokens if request.volunteers is not None else None
    found: dict[str, Any] = {
        "prompt": request.prompt + said,
        "n": 1,
        "max_length": max(1, max_length),
        "max_context_length": min(context or offer.max_context_length, offer.max_context_length),
    }
    for name, param in _PARAMS.items():
        value = getattr(sampling, name)
        if value is not None:
            found[param] = value
    if sampling.sampler_order:
        found["sampler_order"] = [KOBOLD_SAMPLERS.index(name) for name in sampling.sampler_order]
    if sampling.stop:
        found["stop_sequence"] = list(sampling.stop)
    if request.volunteers is not None:
        found.update(dict.fromkeys(request.volunteers.formatting, True))
    return found

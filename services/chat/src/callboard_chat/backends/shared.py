"""An engine of the site that shares its jobs with volunteers: each job goes to whoever has room, by the pool's rule.

A job waits for both where both may have it, and whoever takes it first writes it: a slot of the own engine, or a pop. A
volunteer that drops a job leaves it to the own engine, and one whose text was partly told breaks the run off, so that
the reply goes on as after any engine that broke off.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence, Set
from contextlib import aclosing
from dataclasses import replace

from callboard_chat import metrics
from callboard_chat.backends.shared_job import SharedJob
from callboard_chat.backends.volunteers import ABILITIES, VolunteerEngine
from callboard_chat.domain.models import ContextExceeded, ServedModel, refusal
from callboard_chat.domain.pending_jobs import PendingJobs
from callboard_chat.domain.ports import ChatEngine, Chunk, Continuation, Embedded, PromptTokens
from callboard_chat.domain.prompt_formats import OwnTurns
from callboard_chat.domain.prompt_rendering import TextFit, rendered
from callboard_chat.domain.shared_jobs import OwnSlots, SharingRule, Turn
from callboard_chat.domain.volunteer_models import VolunteerModels
from callboard_contracts.chat import ChatJob, ChatRequest
from callboard_contracts.tokens import DescribeModelReply
from callboard_contracts.volunteers import VolunteerTerms
from callboard_contracts.workers import Ability
from callboard_worker.engine import EngineFailed, EngineUnavailable

AWAY_S = 3.0
"""So long after it was away the own engine is not asked for jobs that volunteers can write."""
LOOK_INTERVAL_S = 0.25
"""How often it is looked whether a job that waits may go to those who come second."""
TOKENS_PER_BYTE = 1 / 3
"""Reckoned with where a prompt is cut for volunteers, who tell no tokens."""


class SharedEngine:
    """Writes each reply with the own engine or with volunteers.

    `models` are the pool's by the names that clients use. `slots` are the own engine's.
    """

    def __init__(
        self,
        own: ChatEngine,
        volunteers: VolunteerEngine,
        models: Mapping[str, ServedModel],
        rule: SharingRule,
        slots: int,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._own = own
        self._volunteers = volunteers
        self._pool_models = models
        self._rule = rule
        self._slots = OwnSlots(slots)
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._own_reason: str | None = None
        self._away_until = 0.0

    @property
    def pending(self) -> PendingJobs:
        """The jobs that volunteers may pop."""
        return self._volunteers.pending

    @property
    def models(self) -> VolunteerModels:
        """What volunteers offer."""
        return self._volunteers.models

    @property
    def abilities(self) -> Set[Ability]:
        """The own engine's; what volunteers lack goes to it alone."""
        return self._own.abilities

    @property
    def sampling(self) -> Set[str]:
        """The fields that the own engine honours."""
        return self._own.sampling

    @property
    def in_process(self) -> bool:
        """Whether the own engine is."""
        return self._own.in_process

    @property
    def honours_prefill(self) -> bool:
        """Whether the own engine does; volunteers write on in any case."""
        return self._own.honours_prefill

    async def load(self) -> None:
        """Loads the own engine."""
        await self._own.load()

    async def ready(self) -> str | None:
        """None where either of both can take work."""
        self._own_reason = await self._own.ready()
        return None if self._some_volunteer else self._own_reason

    def broken(self) -> str | None:
        """Why the own engine can do no more work."""
        return self._own.broken()

    async def close(self) -> None:
        """Ends the own engine."""
        await self._own.close()

    def room(self) -> int:
        """How many more jobs are welcome: one for each free slot, and one that waits where volunteers are there."""
        own = self._slots.free
        if not self._some_volunteer:
            return own
        return max(1, 0 if self._own_is_away else own)

    def stream(self, request: ChatRequest, continuation: Continuation | None = None) -> AsyncGenerator[Chunk, None]:
        """Writes a reply that belongs to no job; see `ChatEngine`."""
        return self._own.stream(request, continuation)

    async def stream_job(
        self,
        job: ChatJob,
        request: ChatRequest,
        continuation: Continuation | None,
        *,
        batch: bool = False,
        left_s: float = math.inf,
    ) -> AsyncGenerator[Chunk, None]:
        """Writes the reply of a job with whoever has room for it first."""
        terms = request.volunteers or VolunteerTerms()
        shown = None if terms.own_engine == "must" else self._for_volunteers(job, request, continuation)
        own_may = terms.own_engine != "may_not"
        if shown is None and not own_may:
            raise EngineFailed("the volunteers that are asked for cannot write the reply")
        came_at = self._clock()
        deadline = came_at + left_s
        waiting = SharedJob(
            self._slots,
            self._volunteers,
            job,
            shown,
            continuation,
            lambda: deadline - self._clock(),
            own_may=own_may,
        )
        told_faults = 0
        try:
            while True:
                both = self._offer(waiting, self._clock() - came_at, batch=batch)
                if waiting.faults > told_faults:
                    # Those who poll are told at once; nothing is expected of an engine by it.
                    told_faults = waiting.faults
                    yield Chunk(restarts=told_faults, read_prompt_tokens=0)
                if waiting.has_slot:
                    break
                await waiting.wait(self._volunteers.keep_alive_s if both else LOOK_INTERVAL_S)
                chunk = waiting.chunk()
                if chunk is not None:
                    yield chunk
                    if chunk.finish is not None:
                        metrics.SHARED_JOBS.labels("volunteers").inc()
                        return
            metrics.SHARED_JOBS.labels("own").inc()
            began_at = self._clock()
            try:
                async with aclosing(self._own.stream(request, continuation)) as chunks:
                    async for one in chunks:
                        one.restarts = waiting.faults
                        one.worked_s = self._clock() - began_at
                        yield one
            except EngineUnavailable:
                self._away_until = self._clock() + AWAY_S
                raise
        finally:
            waiting.end()

    def broken_up(self, request: ChatRequest) -> ChatRequest:
        """Breaks up the control tokens of the own engine."""
        return self._own.broken_up(request)

    def own_turns(self, model: str) -> OwnTurns:
        """What the model's own chat template writes around turns."""
        return self._own.own_turns(model)

    async def tokenize(self, request: ChatRequest, *, special: bool = True) -> PromptTokens:
        """The own engine's tokens."""
        return await self._own.tokenize(request, special=special)

    async def detokenize(self, model: str, ids: Sequence[int], *, special: bool = True) -> str:
        """The text of the own engine's tokens."""
        return await self._own.detokenize(model, ids, special=special)

    async def describe(self, model: str) -> DescribeModelReply:
        """What the own engine tells of a model."""
        return await self._own.describe(model)

    async def embed(self, model: str, inputs: Sequence[str], context_tokens: int, *, truncate: bool) -> Embedded:
        """Makes vectors with the own engine, for which volunteers are no help."""
        given = asyncio.Event()
        turn = Turn(lambda: True, given.set)
        self._slots.enter(turn, batch=False)
        try:
            await given.wait()
            return await self._own.embed(model, inputs, context_tokens, truncate=truncate)
        finally:
            self._slots.leave(turn)

    @property
    def _some_volunteer(self) -> bool:
        return any(self._is_offered(name) for name in self._pool_models)

    @property
    def _own_is_away(self) -> bool:
        return self._own_reason is not None or self._clock() < self._away_until

    def _is_offered(self, model: str) -> bool:
        served = self._pool_models.get(model)
        return served is not None and any(map(self.models.lengths, self._volunteers.names_of(served.name)))

    def _offer(self, waiting: SharedJob, waited_s: float, *, batch: bool) -> bool:
        """Lets a job wait for whoever may have it now; returns whether that is all who ever may."""
        rule, offered, away = self._rule, self._is_offered(waiting.model), self._own_is_away

        def second_may(line: int, *, first_is_there: bool) -> bool:
            return waiting.dropped or rule.second_may(first_is_there=first_is_there, waiting=line, waited_s=waited_s)

        if waiting.shown is None:
            waiting.line_up(batch=batch)
            return True
        if not waiting.own_may:
            waiting.post()
            return True
        if rule.own_first:
            own = not (away and offered)
            if own:
                waiting.line_up(batch=batch)
            others = offered and not waiting.has_slot and second_may(waiting.place, first_is_there=not away)
            if others:
                waiting.post()
        else:
            others = offered
            if others:
                waiting.post()
            own = second_may(self.pending.waiting, first_is_there=offered) and not (away and offered)
            if own:
                waiting.line_up(batch=batch)
        return own and others

    def _for_volunteers(
        self, job: ChatJob, request: ChatRequest, continuation: Continuation | None
    ) -> ChatRequest | None:
        """The request as volunteers get it; None for one that only the own engine can serve."""
        asked = request.model_copy(update={"model": job.request.model})
        thinks = bool(continuation and continuation.thinking and not continuation.text)
        if request.top_logprobs is not None or request.output_format.kind != "text" or thinks:
            return None
        pool_model = self._pool_models.get(asked.model)
        if pool_model is None or refusal(asked, self.models, ABILITIES) is not None:
            return None
        model = replace(self.models[pool_model.name], name=pool_model.name)
        try:
            shown = rendered(asked, model, self._volunteers)
        except ContextExceeded:
            return None
        written = shown.continued(has_text=bool(continuation and continuation.text))
        return TextFit(TOKENS_PER_BYTE).cut(written.model_copy(update={"model": pool_model.name}))

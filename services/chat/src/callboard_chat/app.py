"""The composition root of a chat worker: the only place that knows all its parts."""

import argparse
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from callboard_chat import metrics
from callboard_chat.domain.models import ServedModel
from callboard_chat.domain.pending_jobs import PendingJobs
from callboard_chat.domain.per_model import PerModel
from callboard_chat.domain.ports import ChatEngine, Chunk, Continuation
from callboard_chat.domain.prompt_statistics import PromptStatistics
from callboard_chat.domain.reply_statistics import ReplyStatistics
from callboard_chat.domain.volunteer_rewards import reward_by
from callboard_chat.handlers.chat_jobs import ChatJobs
from callboard_chat.handlers.embedding_jobs import EmbeddingJobs
from callboard_chat.handlers.model_inquiries import answering
from callboard_chat.handlers.pool_jobs import PoolJobs
from callboard_chat.handlers.volunteer_calls import TakesVolunteers, serving_volunteers
from callboard_chat.settings import PoolSettings, pool_settings
from callboard_contracts.chat import ChatJob, ChatRequest
from callboard_contracts.config import Config
from callboard_contracts.workers import OfferedModel
from callboard_kit.bus import Bus
from callboard_kit.lifecycle import Shutdown, StartError
from callboard_kit.memory_limit import give_memory_back, limit_memory
from callboard_kit.openmp import let_waiting_threads_sleep
from callboard_worker.hold_extensions import HoldExtensions
from callboard_worker.running import RunningJob
from callboard_worker.runtime import Worker

if TYPE_CHECKING:
    from callboard_chat.backends.volunteers import VolunteerEngine


@runtime_checkable
class LimitsItself(Protocol):
    """An engine that does not always have work for all slots of its pool."""

    def room(self) -> int:
        """How many more jobs are welcome."""
        ...


def build_engine(pool: PoolSettings, worker_id: str = "") -> ChatEngine:
    """Makes the engine that the pool names, for a worker; each backend's libraries are loaded only here."""
    if pool.sharing is not None:
        from callboard_chat.backends.shared import SharedEngine

        metrics.watch_shared()
        volunteers = _volunteer_engine(pool, worker_id)
        return SharedEngine(_own_engine(pool), volunteers, pool.models, pool.sharing, pool.own_slots)
    return _volunteer_engine(pool, worker_id) if pool.backend == "volunteers" else _own_engine(pool)


def _volunteer_engine(pool: PoolSettings, worker_id: str) -> "VolunteerEngine":
    from callboard_chat.backends.volunteers import KEEP_ALIVE_S, VolunteerEngine

    assert pool.volunteer_models is not None
    pending = PendingJobs(worker_id, pool.slots, reward=reward_by(pool.kudos))
    keep_alive_s = min(KEEP_ALIVE_S, pool.stall_timeout_s / 4)
    return VolunteerEngine(pending, pool.volunteer_models, pool.volunteer_time_s, keep_alive_s, pool.volunteer_names)


def _own_engine(pool: PoolSettings) -> ChatEngine:
    match pool.backend:
        case "openai":
            from callboard_chat.backends.openai import OpenAIEngine

            assert pool.url is not None
            try:
                return OpenAIEngine(pool.url, pool.api_key, pool.connect_timeout_s, parse_special=pool.parse_special)
            except ValueError as error:
                raise StartError(f"chat.pools.{pool.name}: {error}") from None
        case "ollama":
            from callboard_chat.backends.ollama import OllamaEngine

            assert pool.url is not None
            contexts = {model.engine_model: model.context_tokens for model in pool.models.values()}
            return OllamaEngine(
                pool.url, pool.api_key, pool.connect_timeout_s, contexts, parse_special=pool.parse_special
            )
        case "llamacpp":
            let_waiting_threads_sleep()
            from callboard_chat.backends.llamacpp import LlamaCppEngine

            return LlamaCppEngine(
                pool.model_path,
                pool.own_slots,
                pool.context_tokens,
                pool.threads,
                pool.watchdog_timeout_s,
                prompt_cache_mib=pool.prompt_cache_mib,
                parse_special=pool.parse_special,
                embeddings=pool.makes_embeddings,
            )
        case _:
            from callboard_chat.backends.fake import FakeEngine

            return FakeEngine()


async def run(config: Config, shutdown: Shutdown, arguments: argparse.Namespace) -> None:
    """Runs one worker of the pool `arguments.pool` until told to stop, then drains it."""
    pool = pool_settings(config, arguments.pool)
    give_memory_back()
    limit_memory(pool.memory_limit_mib)
    worker_id = uuid.uuid4().hex
    await run_worker(config, pool, build_engine(pool, worker_id), shutdown, worker_id)


async def run_worker(
    config: Config, pool: PoolSettings, engine: ChatEngine, shutdown: Shutdown, worker_id: str | None = None
) -> None:
    """Runs one worker on a given engine; raises as `Worker.run` does."""
    volunteers = engine if isinstance(engine, TakesVolunteers) else None
    statistics = PerModel(PromptStatistics)
    replies = PerModel(ReplyStatistics)

    def make_jobs(bus: Bus) -> PoolJobs:
        extensions = HoldExtensions(bus, pool.decision_timeout_s, admits_unheld=pool.admits_unheld)
        parts = (bus, engine, pool, extensions, statistics)

        def stream_job(
            running: RunningJob[ChatJob], request: ChatRequest, said: Continuation | None
        ) -> AsyncGenerator[Chunk, None]:
            assert volunteers is not None
            return volunteers.stream_job(running.job, request, said, batch=running.is_batch, left_s=running.left_s)

        return PoolJobs(ChatJobs(*parts, replies, None if volunteers is None else stream_job), EmbeddingJobs(*parts))

    @asynccontextmanager
    async def beside(bus: Bus) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(answering(bus, engine, pool))
            if volunteers is not None and worker_id is not None:
                calls = serving_volunteers(bus, worker_id, volunteers, worker.announce)
                await stack.enter_async_context(calls)
            yield

    worker = Worker(
        pool,
        engine,
        metrics.WORKER,
        lambda: offered_models(pool, engine, statistics, replies),
        make_jobs,
        shutdown,
        beside,
        worker_id,
        engine.room if isinstance(engine, LimitsItself) else None,
        # Hundreds of jobs wait here at once, and are written elsewhere.
        counts_deaths=pool.backend != "volunteers",
    )
    await worker.run(config)


def offered_models(
    pool: PoolSettings,
    engine: ChatEngine,
    statistics: Mapping[str, PromptStatistics],
    replies: Mapping[str, ReplyStatistics],
) -> list[OfferedModel]:
    """What a worker announces: each model by its public name, with what it can do here."""
    return [
        OfferedModel(
            name=model.name,
            context_tokens=model.context_tokens,
            abilities=tuple(sorted(model.abilities(engine.abilities) - (set() if pool.can_continue else {"prefill"}))),
            sampling=tuple(sorted(engine.sampling)),
            tokens_per_byte=statistics[model.name].tokens_per_byte,
            throughput=replies[model.name].throughput,
            max_output_tokens=_max_output_tokens(pool, model),
        )
        for model in dict.fromkeys(pool.models.values())
    ]


def _max_output_tokens(pool: PoolSettings, model: ServedModel) -> int | None:
    if pool.sharing is not None or pool.volunteer_models is None:
        return None
    lengths = pool.volunteer_models.lengths(model.engine_model)
    return None if lengths is None else lengths[0]

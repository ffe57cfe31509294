"""What a Horde says of itself: its models, its load, and that it is there."""

from importlib.metadata import version
from typing import Any

from aiohttp import web

from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.http.bodies import parse_query
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.horde.bodies import (
    HeartbeatAnswer,
    ModelsAnswer,
    ModelsQuery,
    PerformanceAnswer,
)
from callboard_edge.protocols.horde.errors import ANSWERS
from callboard_edge.protocols.horde.generation import TAG
from callboard_edge.protocols.horde.pools import (
    Pool,
    is_pool_of_volunteers,
    model_speeds,
    pools_for,
    waiting,
    worker_count,
)
from callboard_edge.protocols.horde.rate_limits import RateLimits

TEXT = "text"


def routes(context: EdgeContext, limits: RateLimits) -> list[Route]:
    """The routes of this module."""

    async def queued(pool: Pool) -> int:
        batch, live = await waiting(context, pool.name)
        return batch.waiting + live.waiting + pool.held_back

    async def models(call: Call) -> web.StreamResponse:
        limits.other(call)
        shown: list[Any] = []
        wanted = parse_query(ModelsQuery, call.request.query)
        if wanted.type == TEXT:
            for pool in pools_for(context, (await context.offers.to(call.caller)).chat_models.models):
                jobs = await queued(pool)
                speeds = model_speeds(pool)
                shown += [
                    {
                        "name": model.name,
                        "count": count,
                        "performance": speeds.get(model.served_name, 0.0),
                        "queued": round(jobs * pool.tokens_per_reply),
                        "jobs": jobs,
                        "eta": pool.wait_s(jobs, 0) if jobs else 0,
                        "type": TEXT,
                    }
                    for model in pool.models
                    if (count := worker_count(context, pool, model)) and _is_wanted(context, wanted, model, count)
                ]
        return call.answer(shown)

    async def performance(call: Call) -> web.StreamResponse:
        limits.other(call)
        pools = pools_for(context, context.chat_models.models)
        waits = [await queued(pool) for pool in pools]
        tokens = sum(jobs * pool.tokens_per_reply for jobs, pool in zip(waits, pools, strict=True))
        own = [pool for pool in pools if not is_pool_of_volunteers(context, pool.name)]
        online = context.volunteers.online()
        workers = sum(bool(pool.workers) for pool in own) + len(online)
        threads = sum(pool.own_slots for pool in own) + sum(one.threads for one in online)
        return call.answer(
            {
                "queued_requests": sum(waits),
                "queued_text_requests": sum(waits),
                "worker_count": workers,
                "text_worker_count": workers,
                "thread_count": threads,
                "text_thread_count": threads,
                "queued_megapixelsteps": 0,
                "past_minute_megapixelsteps": 0,
                "queued_forms": 0,
                "queued_tokens": round(tokens),
                "past_minute_tokens": sum(pool.tokens_last_minute for pool in pools),
                "interrogator_count": 0,
                "interrogator_thread_count": 0,
            }
        )

    async def heartbeat(call: Call) -> web.StreamResponse:
        return call.answer({"message": "OK", "version": version("callboard-edge")})

    return [
        Route(
            "GET",
            "/api/v2/status/models",
            models,
            "horde_models",
            "List the models that have a worker",
            TAG,
            security="none",
            query=ModelsQuery,
            answers={200: Answer("A list of models, where `type` is `text`; else none.", ModelsAnswer), **ANSWERS},
        ),
        Route(
            "GET",
            "/api/v2/status/performance",
            performance,
            "horde_performance",
            "Say what waits, and what was written lately",
            TAG,
            security="none",
            answers={200: Answer("Figures of the whole site.", PerformanceAnswer), **ANSWERS},
        ),
        Route(
            "GET",
            "/api/v2/status/heartbeat",
            heartbeat,
            "horde_heartbeat",
            "Say that the site is there",
            TAG,
            security="none",
            answers={200: Answer("A sign of life.", HeartbeatAnswer)},
        ),
    ]


def _is_wanted(context: EdgeContext, wanted: ModelsQuery, model: ChatModel, count: int) -> bool:
    known = model.character is not None or model.name in context.settings.chat_models
    if wanted.model_state != "all" and known != (wanted.model_state == "known"):
        return False
    return (wanted.min_count or 0) <= count and (wanted.max_count is None or count <= wanted.max_count)

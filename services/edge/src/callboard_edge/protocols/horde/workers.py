"""The workers of the site: its own pools, by name and id only."""

from aiohttp import web

from callboard_edge.http.bodies import parse_query
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.horde.bodies import TypeQuery, WorkerAnswer, WorkerBody, WorkersAnswer
from callboard_edge.protocols.horde.errors import ANSWERS, Refusal
from callboard_edge.protocols.horde.generation import TAG
from callboard_edge.protocols.horde.pools import Pool, pools_for
from callboard_edge.protocols.horde.rate_limits import RateLimits
from callboard_edge.protocols.horde.requesters import account_of

AGENT = "Callboard:1:unknown"


def routes(context: EdgeContext, limits: RateLimits) -> list[Route]:
    """The routes of this module."""

    async def pools(call: Call) -> list[Pool]:
        return pools_for(context, (await context.offers.to(call.caller)).chat_models.models)

    async def found(call: Call) -> Pool:
        worker = next((pool for pool in await pools(call) if pool.id == call.params["id"].lower()), None)
        if worker is None:
            raise Refusal(404, "WorkerNotFound", "This site has no worker of that id.")
        return worker

    def shown(pool: Pool) -> dict[str, object]:
        started_at = context.workers.started_at("chat", pool.name) if pool.workers else None
        uptime_s = 0 if started_at is None else max(0, int(context.admission.deps.now() - started_at))
        return _worker(pool, uptime_s)

    async def listed(call: Call) -> web.StreamResponse:
        limits.other(call)
        wanted = parse_query(TypeQuery, call.request.query).type in (None, "text")
        return call.answer([shown(pool) for pool in await pools(call)] if wanted else [])

    async def one(call: Call) -> web.StreamResponse:
        limits.other(call)
        return call.answer(shown(await found(call)))

    async def refused(call: Call) -> web.StreamResponse:
        limits.other(call)
        account = await account_of(context, call)
        await found(call)
        if account is None:
            raise Refusal(403, "AnonForbidden", "The anonymous key changes no workers.")
        raise Refusal(403, "NotOwner", "This worker belongs to the site; only its operators change it.")

    async def changed(call: Call) -> web.StreamResponse:
        await call.json(WorkerBody)
        return await refused(call)

    path = "/api/v2/workers/{id}"
    return [
        Route(
            "GET",
            "/api/v2/workers",
            listed,
            "horde_workers",
            "List the workers",
            TAG,
            security="none",
            query=TypeQuery,
            answers={200: Answer("A list of workers.", WorkersAnswer), **ANSWERS},
        ),
        Route(
            "GET",
            path,
            one,
            "horde_worker",
            "Show a worker",
            TAG,
            security="none",
            answers={200: Answer("The worker.", WorkerAnswer), **ANSWERS},
        ),
        Route("PUT", path, changed, "horde_worker_change", "Change a worker", TAG, body=WorkerBody, answers=ANSWERS),
        Route("DELETE", path, refused, "horde_worker_delete", "Delete a worker", TAG, answers=ANSWERS),
    ]


def _worker(pool: Pool, uptime_s: int) -> dict[str, object]:
    return {
        "type": "text",
        "name": pool.name,
        "id": pool.id,
        "online": bool(pool.workers),
        "requests_fulfilled": 0,
        "uncompleted_jobs": 0,
        "kudos_rewards": 0,
        "kudos_details": {"generated": 0, "uptime": 0},
        "performance": f"{pool.tokens_per_s:.1f} tokens per second",
        "threads": pool.slots,
        "uptime": uptime_s,
        "maintenance_mode": pool.draining,
        "paused": False,
        "info": None,
        "nsfw": True,
        "trusted": True,
        "flagged": False,
        "models": [model.name for model in pool.models],
        "team": {"name": None, "id": None},
        "bridge_agent": AGENT,
        "max_length": max(model.max_output_tokens for model in pool.models),
        "max_context_length": max(model.context_tokens for model in pool.models),
    }

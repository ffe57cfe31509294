"""The workers of the site: its own pools and volunteers, by name and id only."""

import uuid
from typing import Any

from aiohttp import web

from callboard_contracts.kudos import KUDOS_SCALE
from callboard_contracts.volunteers import VolunteerRecord
from callboard_edge.http.bodies import parse_query
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.horde.bodies import TypeQuery
from callboard_edge.protocols.horde.errors import ANSWERS, Refusal
from callboard_edge.protocols.horde.generation import TAG
from callboard_edge.protocols.horde.pools import Pool, is_pool_of_volunteers, pools_for
from callboard_edge.protocols.horde.rate_limits import RateLimits
from callboard_edge.protocols.horde.requesters import account_of
from callboard_edge.protocols.horde.worker_bodies import (
    ChangedWorkerAnswer,
    DeletedWorkerAnswer,
    WorkerAnswer,
    WorkerBody,
    WorkerMessagesAnswer,
    WorkersAnswer,
)

MAX_INFO = 1000
AGENT = "Callboard:1:unknown"


def routes(context: EdgeContext, limits: RateLimits) -> list[Route]:
    """The routes of this module."""
    handlers = _Handlers(context, limits)
    path = "/api/v2/workers/{id}"
    return [
        Route(
            "GET",
            "/api/v2/workers",
            handlers.listed,
            "horde_workers",
            "List the workers",
            TAG,
            security="none",
            query=TypeQuery,
            answers={200: Answer("A list of workers.", WorkersAnswer), **ANSWERS},
        ),
        Route(
            "GET",
            "/api/v2/workers/messages",
            handlers.messages,
            "horde_worker_messages",
            "List what an owner should know of workers of one's own",
            TAG,
            answers={200: Answer("What is to be known.", WorkerMessagesAnswer), **ANSWERS},
        ),
        Route(
            "GET",
            path,
            handlers.one,
            "horde_worker",
            "Show a worker",
            TAG,
            security="none",
            answers={200: Answer("The worker.", WorkerAnswer), **ANSWERS},
        ),
        Route(
            "PUT",
            path,
            handlers.changed,
            "horde_worker_change",
            "Change a worker of one's own",
            TAG,
            body=WorkerBody,
            answers={200: Answer("What was changed.", ChangedWorkerAnswer), **ANSWERS},
        ),
        Route(
            "DELETE",
            path,
            handlers.deleted,
            "horde_worker_delete",
            "Delete a worker of one's own",
            TAG,
            answers={200: Answer("The worker that is gone.", DeletedWorkerAnswer), **ANSWERS},
        ),
    ]


class _Handlers:
    """What is asked of workers."""

    def __init__(self, context: EdgeContext, limits: RateLimits) -> None:
        self._context = context
        self._limits = limits

    async def _pools(self, call: Call) -> list[Pool]:
        found = pools_for(self._context, (await self._context.offers.to(call.caller)).chat_models.models)
        return [pool for pool in found if not is_pool_of_volunteers(self._context, pool.name)]

    async def _found(self, call: Call) -> Pool | VolunteerRecord:
        wanted = call.params["id"].lower()
        if (volunteer := self._context.volunteers.get(wanted)) is not None:
            return volunteer
        worker = next((pool for pool in await self._pools(call) if pool.id == wanted), None)
        if worker is None:
            raise Refusal(404, "WorkerNotFound", "This site has no worker of that id.")
        return worker

    def _shown(self, pool: Pool | VolunteerRecord) -> dict[str, object]:
        if isinstance(pool, VolunteerRecord):
            return _volunteer(pool, self._context.admission.deps.now())
        started_at = self._context.workers.started_at("chat", pool.name) if pool.workers else None
        uptime_s = 0 if started_at is None else max(0, int(self._context.admission.deps.now() - started_at))
        return _worker(pool, uptime_s)

    async def listed(self, call: Call) -> web.StreamResponse:
        """Lists those that are there."""
        self._limits.other(call)
        wanted = parse_query(TypeQuery, call.request.query).type in (None, "text")
        workers = (*await self._pools(call), *sorted(self._context.volunteers.online(), key=lambda one: one.name))
        return call.answer([self._shown(one) for one in workers] if wanted else [])

    async def one(self, call: Call) -> web.StreamResponse:
        """Shows one."""
        self._limits.other(call)
        return call.answer(self._shown(await self._found(call)))

    async def messages(self, call: Call) -> web.StreamResponse:
        """Says why workers of the caller get no jobs of others."""
        self._limits.other(call)
        account = await account_of(self._context, call)
        own = self._context.volunteers.of_account(account) if account is not None else []
        return call.answer([_message(one) for one in own if one.maintenance or one.paused])

    async def _own(self, call: Call) -> VolunteerRecord:
        self._limits.other(call)
        account = await account_of(self._context, call)
        worker = await self._found(call)
        if account is None:
            raise Refusal(403, "AnonForbidden", "The anonymous key changes no workers.")
        if not isinstance(worker, VolunteerRecord):
            raise Refusal(403, "NotOwner", "This worker belongs to the site; only its operators change it.")
        if worker.account != account:
            raise Refusal(403, "NotOwner", "This worker belongs to another user.")
        return worker

    async def changed(self, call: Call) -> web.StreamResponse:
        """Changes one of the caller's own."""
        body = await call.json(WorkerBody)
        worker = await self._own(call)
        if body.info is not None and len(body.info) > MAX_INFO:
            raise Refusal(400, "BadRequest", f"'info' has more than {MAX_INFO} characters.", "info")
        if body.name not in (None, worker.name):
            raise Refusal(400, "BadRequest", "A worker's name is its id; pop under another name instead.", "name")
        fields: dict[str, Any] = {}
        if body.maintenance is not None:
            fields |= {"maintenance": body.maintenance, "maintenance_message": None}
            if body.maintenance and body.maintenance_msg:
                fields["maintenance_message"] = body.maintenance_msg[:MAX_INFO]
        if body.info is not None:
            fields["info"] = body.info
        record = await self._context.volunteers.change(worker.id, lambda one: one.model_copy(update=fields))
        told = {"maintenance": record.maintenance, "info": record.info}
        return call.answer({name: told[name] for name in told if name in fields})

    async def deleted(self, call: Call) -> web.StreamResponse:
        """Forgets one of the caller's own."""
        worker = await self._own(call)
        if worker.paused:
            raise Refusal(403, "WorkerFlaggedMaintenance", "This worker was paused by the site, which removes it.")
        await self._context.volunteers.remove(worker.id)
        return call.answer({"deleted_id": worker.id, "deleted_name": worker.name})


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
        "threads": pool.own_slots,
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


def _message(one: VolunteerRecord) -> dict[str, object]:
    text = "The site has paused this worker." if one.paused else one.maintenance_message or "It is in maintenance."
    return {
        "id": str(uuid.uuid5(uuid.UUID(one.id), text)),
        "worker_id": one.id,
        "worker_name": one.name,
        "message": text,
        "origin": AGENT.partition(":")[0],
    }


def _volunteer(one: VolunteerRecord, now: float) -> dict[str, object]:
    generated, uptime = one.reward / KUDOS_SCALE, one.uptime_reward / KUDOS_SCALE
    return {
        "type": "text",
        "name": one.name,
        "id": one.id,
        "online": one.is_online(now),
        "requests_fulfilled": one.fulfilled,
        "uncompleted_jobs": one.dropped,
        "kudos_rewards": generated + uptime,
        # The Horde's own library takes whole kudos only for having been there.
        "kudos_details": {"generated": generated, "uptime": int(uptime)},
        "performance": f"{one.tokens_per_s or 0.0:.1f} tokens per second",
        "threads": one.threads,
        "uptime": int(one.uptime_s),
        "maintenance_mode": one.maintenance,
        "paused": one.paused,
        "info": one.info,
        "nsfw": one.nsfw,
        "trusted": one.trusted,
        "flagged": False,
        "models": list(one.models),
        "team": {"name": None, "id": None},
        "bridge_agent": one.bridge_agent,
        "max_length": one.max_length,
        "max_context_length": one.max_context_length,
    }

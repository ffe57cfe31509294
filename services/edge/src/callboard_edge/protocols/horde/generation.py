"""Texts that are asked for once and fetched later."""

import uuid
from typing import Any

from aiohttp import web

from callboard_contracts.chat import ChatRequest
from callboard_contracts.errors import CallboardError
from callboard_contracts.kept import KeptGroup
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.domain.job_groups import GroupJob, GroupState
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.horde.bodies import AsyncAnswer, AsyncBody, KudosAnswer, Params, StatusAnswer
from callboard_edge.protocols.horde.errors import ANSWERS
from callboard_edge.protocols.horde.generations import generation
from callboard_edge.protocols.horde.pools import pool_of, waiting
from callboard_edge.protocols.horde.possible import is_possible, why_not
from callboard_edge.protocols.horde.prices import check_upfront, downgraded, explained, kudos_shown, quote
from callboard_edge.protocols.horde.rate_limits import RateLimits
from callboard_edge.protocols.horde.requesters import account_of, check_key
from callboard_edge.protocols.horde.requests import chat_request, check_body, chosen_model, lengths_of, volunteer_terms
from callboard_edge.protocols.horde.webhooks import check_webhook, posted

TAG = "AI Horde"


def routes(context: EdgeContext, limits: RateLimits) -> list[Route]:
    """The routes of this module."""
    groups, webhooks = context.groups, context.webhooks
    if webhooks is not None:
        webhooks.shown_by("horde", posted)

    async def submit(call: Call) -> web.StreamResponse:
        check_key(call)
        limits.submit(call)
        body = await call.json(AsyncBody)
        check_body(body)
        check_webhook(webhooks, body)
        models = (await context.offers.to(call.caller)).chat_models
        kudos = await _kudos_of(context, call) if context.volunteer_jobs is not None else 0
        model = chosen_model(context, models, body, kudos)
        terms = volunteer_terms(context, body, model, models, kudos)
        request = await context.text.checked(call, chat_request(body, model, terms), model, frozenset())
        count = (body.params and body.params.n) or 1
        quoted = await quote(context, body, request, model, count)
        if body.allow_downgrade and quoted.upfront:
            shorter = downgraded(body, request, quoted, await _kudos_of(context, call))
            if shorter is not None:
                request = shorter
                quoted = await quote(context, body, request, model, count)
        if body.dry_run:
            await context.admission.identify(call.caller)
            return call.answer({"kudos": quoted.kudos})
        check_upfront(call, quoted)
        request_id = str(uuid.uuid4())
        group = KeptGroup(
            request_id=request_id,
            job_ids=(call.fresh_id, *(uuid.uuid4().hex for _ in range(count - 1))),
            model=model.name,
            pool=model.pool,
            max_output_tokens=request.max_output_tokens,
            stops=tuple((body.params or Params()).stop_sequence or ()),
            volunteers=request.volunteers,
            context_tokens=request.context_tokens,
            webhook=body.webhook or None,
            created_at=context.admission.deps.now(),
        )

        async def enter(job_id: str) -> None:
            price = quoted.of(group.job_ids.index(job_id))
            await context.admission.chat_kept(call.caller, request, model, job_id, kudos=price)
            if webhooks is not None and group.webhook is not None:
                await webhooks.add("horde", _name(request_id), job_id)

        try:
            await groups.submit(_name(request_id), group, enter)
        except CallboardError as error:
            raise explained(error) from error
        return call.answer({"id": request_id, "kudos": quoted.kudos, **_remarks(context, body, request, model)}, 202)

    async def status(call: Call) -> web.StreamResponse:
        limits.poll(call, call.params["id"])
        return call.answer(await _status(context, await groups.find(_name(call.params["id"]))))

    async def cancel(call: Call) -> web.StreamResponse:
        limits.poll(call, call.params["id"])
        return call.answer(await _status(context, await groups.cancel(_name(call.params["id"]))))

    return [
        Route(
            "POST",
            "/api/v2/generate/text/async",
            submit,
            "horde_submit",
            "Ask for a text that is fetched later",
            TAG,
            body=AsyncBody,
            answers={
                200: Answer("What it would cost, where `dry_run` is set.", KudosAnswer),
                202: Answer("The request is queued.", AsyncAnswer),
                **ANSWERS,
            },
        ),
        Route(
            "GET",
            "/api/v2/generate/text/status/{id}",
            status,
            "horde_status",
            "Fetch a text, or how its request stands",
            TAG,
            security="none",
            answers={200: Answer("The request as it stands.", StatusAnswer), **ANSWERS},
        ),
        Route(
            "DELETE",
            "/api/v2/generate/text/status/{id}",
            cancel,
            "horde_cancel",
            "Cancel a request, and fetch what was written",
            TAG,
            security="none",
            answers={200: Answer("The request as it stands.", StatusAnswer), **ANSWERS},
        ),
    ]


def _name(request_id: str) -> str:
    return f"horde {request_id}"


def _remarks(context: EdgeContext, body: AsyncBody, request: ChatRequest, model: ChatModel) -> dict[str, Any]:
    """What the requester should know of a request that was accepted."""
    remarks: dict[str, Any] = {}
    max_length, context_length = lengths_of(body)
    awake = context.workers.state("chat", model.pool) == "awake"
    facts = request.volunteers, request.max_output_tokens, request.context_tokens or context_length
    if not (awake and is_possible(context, model.pool, model.name, *facts)):
        remarks["message"] = why_not(context, model, *facts)
    if request.max_output_tokens < max_length or (request.context_tokens or context_length) < context_length:
        text = (
            f"The model writes at most {request.max_output_tokens} tokens here, and reads at most "
            f"{request.context_tokens or model.context_tokens} together with them."
        )
        remarks["warnings"] = [{"code": "LengthsReduced", "message": text}]
    return remarks


async def _status(context: EdgeContext, state: GroupState) -> dict[str, Any]:
    group, jobs = state.group, [job for job in state.jobs if not job.ended]
    processing, position, wait_s = 0, 0, 0
    facts = group.volunteers, group.max_output_tokens, group.context_tokens or 0
    possible = is_possible(context, group.pool, group.model, *facts)
    if jobs:
        pool = pool_of(context, group.pool)
        batch, live = await waiting(context, group.pool)
        for job in jobs:
            # A worker that was given the job may still read its prompt.
            given = job.place <= batch.delivered_seq
            begun = job.begun or (given and possible and not pool.held_back)
            queued = 0 if given else live.waiting + max(1, min(batch.waiting, job.place - batch.delivered_seq))
            ahead = 0 if begun else max(1, queued + pool.held_back)
            left = max(1, group.max_output_tokens - job.tokens)
            processing += begun
            position = max(position, ahead)
            wait_s = max(wait_s, pool.wait_s(ahead, min(left, pool.tokens_per_reply) if ahead else left))
    generations = [shown for job in state.jobs if (shown := generation(group, job.result)) is not None]
    return {
        "finished": len(generations),
        "processing": processing,
        "restarted": sum(job.restarts for job in state.jobs),
        "waiting": len(jobs) - processing,
        "done": state.ended,
        "faulted": state.ended and any(_failed(job) for job in state.jobs),
        "wait_time": wait_s,
        "queue_position": position,
        "kudos": kudos_shown(sum(job.result.kudos for job in state.jobs if job.result is not None)),
        "is_possible": state.ended or processing > 0 or possible,
        "generations": generations,
    }


async def _kudos_of(context: EdgeContext, call: Call) -> int:
    """What a requester has in kudos, in thousandths, by which volunteers serve it sooner; 0 where nobody knows."""
    account = await account_of(context, call)
    return 0 if account is None else (await context.admission.deps.quota.kudos(account)).balance


def _failed(job: GroupJob) -> bool:
    return job.result is None or job.result.end.error is not None

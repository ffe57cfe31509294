"""Is the edge alive, can it take work."""

from aiohttp import web

from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Route


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""

    async def healthz(call: Call) -> web.StreamResponse:
        return call.answer({"status": "ok"})

    async def readyz(call: Call) -> web.StreamResponse:
        processes = context.workers.processes()
        detail: dict[str, object] = {"pools": _pools(context)}
        if processes:
            detail["processes"] = {one.name: {"state": one.state, "restarts": one.restarts} for one in processes}
        reason = context.ready()
        if reason is not None:
            return call.answer({"status": "not ready", "reason": reason, **detail}, status=503)
        whole = all(one.state == "running" for one in processes)
        return call.answer({"status": "ready" if whole else "degraded", **detail})

    return [
        Route(
            "GET",
            "/healthz",
            healthz,
            name="healthz",
            summary="Whether the process is alive",
            security="none",
            tag="Health",
            answers={200: Answer("It is.")},
        ),
        Route(
            "GET",
            "/readyz",
            readyz,
            name="readyz",
            summary="Whether the process can take work",
            security="none",
            tag="Health",
            answers={
                200: Answer("It can; `degraded` where a process of the site is down."),
                503: Answer("It cannot, for the reason given."),
            },
        ),
    ]


def _pools(context: EdgeContext) -> dict[str, str]:
    """Whether each pool is awake, asleep, was never seen, or is not started again."""
    chat = {model.pool for model in (*context.chat_models.models, *context.embedding_models.models)}
    tts = {model.pool for model in context.speech_models.models}
    states = {f"chat/{pool}": context.workers.state("chat", pool) for pool in sorted(chat)}
    return states | {f"tts/{pool}": context.workers.state("tts", pool) for pool in sorted(tts)}

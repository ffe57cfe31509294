"""A reply so far, its end on demand, and its log probabilities, by the key that a client gave it."""

from aiohttp import web

from callboard_contracts.running import RunningAction, RunningReply, RunningReplyRequest
from callboard_edge.domain.running_replies import reply_name
from callboard_edge.http.bodies import parse
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Handler, Method, Route
from callboard_edge.protocols.kobold.bodies import AbortAnswer, KeyBody, LogprobsAnswer, TextResults
from callboard_edge.protocols.kobold.callers import known_caller
from callboard_edge.protocols.kobold.errors import ANSWERS
from callboard_edge.protocols.kobold.info import TAG
from callboard_edge.protocols.kobold.writer import logprobs_object

READ = {401: ANSWERS[401], 503: ANSWERS[503]}
KEY = "genkey"


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""

    async def asked(call: Call, key: str, action: RunningAction) -> RunningReply:
        return await context.running.ask(RunningReplyRequest(name=reply_name(call.caller, key), action=action))

    async def check(call: Call) -> web.StreamResponse:
        reply = await asked(call, await key_of(call), "read")
        return call.answer({"results": [{"text": reply.text if reply.running else ""}]})

    async def abort(call: Call) -> web.StreamResponse:
        key = await key_of(call)
        # Without a key nothing is stopped that has not begun: the next request could be anybody's.
        reply = await asked(call, key, "stop" if key else "read")
        if reply.running and not key:
            reply = await asked(call, key, "stop")
        word = "true" if reply.stopped else "false"
        return call.answer({"success": word, "done": word})

    async def last_logprobs(call: Call) -> web.StreamResponse:
        reply = await asked(call, await key_of(call), "read")
        return call.answer({"logprobs": logprobs_object(reply.logprobs)})

    def route(method: Method, path: str, handler: Handler, name: str, summary: str, answer: Answer) -> Route:
        return Route(
            method,
            path,
            known_caller(context, handler),
            name,
            summary,
            TAG,
            body=KeyBody if method == "POST" else None,
            query=None if method == "POST" else KeyBody,
            answers={200: answer, **READ},
        )

    text = Answer("The text so far; none where the reply is not being written.", TextResults)
    logprobs = Answer("The log probabilities, where they were asked for.", LogprobsAnswer)
    stopped = Answer("Whether a reply was stopped.", AbortAnswer)
    found = [route("POST", "/api/extra/abort", abort, "kobold_abort", "End a reply where it stands", stopped)]
    methods: tuple[Method, ...] = ("POST", "GET")
    for method in methods:
        found += [
            route(method, "/api/extra/generate/check", check, "kobold_check", "Show a reply so far", text),
            route(
                method,
                "/api/extra/last_logprobs",
                last_logprobs,
                "kobold_last_logprobs",
                "Show the log probabilities of the last reply with a key",
                logprobs,
            ),
        ]
    return found


async def key_of(call: Call) -> str:
    """A client's key for its reply: in the body, the query or a header; empty where it has none.

    Raises:
        CallboardError: the body is no JSON object.
    """
    if call.request.method == "POST" and (raw := await call.read()).strip():
        return parse(KeyBody, raw).genkey or ""
    return call.request.query.get(KEY) or call.request.headers.get(KEY, "")

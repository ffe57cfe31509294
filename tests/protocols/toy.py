"""A protocol of plain lines, made up for the tests: all that a client protocol has to bring, streamed and polled.

The first line of a request is `say <model> [max=<tokens>] [stop=<word>] [stream]`, with `-` for the default model; the
prompt follows. A stream has a line `+ <json text>` for each piece of text, `~` in a silence, and ends with `= <reason>`
or `! <code> <message>`, which is also the form of every error.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web

from callboard_contracts.chat import ChatEnd, ChatFrame, ChatMessage, ChatRequest, Sampling
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.domain.text_stream import TextReply
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Route

_ORDER = re.compile(r"say (\S+)(?: max=([1-9]\d{0,5}))?(?: stop=(\S+))?( stream)?\n(.+)", re.DOTALL | re.ASCII)
STATUSES = {ErrorCode.INVALID_REQUEST: 422, ErrorCode.QUOTA_EXCEEDED: 420}
"""Where this protocol answers with another status than the catalogue."""


@dataclass(frozen=True, slots=True)
class Order:
    """A request as its lines say it."""

    model: str | None
    prompt: str
    max_tokens: int | None
    stops: tuple[str, ...]
    stream: bool


async def read_order(call: Call) -> Order:
    """The order in a request's body; raises CallboardError."""
    body = await call.read()
    if body and call.request.content_type != "text/plain":
        raise CallboardError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "The body must be text/plain.")
    try:
        found = _ORDER.fullmatch(body.decode())
    except UnicodeDecodeError:
        raise CallboardError(ErrorCode.INVALID_REQUEST, "The body is not UTF-8.") from None
    if found is None:
        raise CallboardError(ErrorCode.INVALID_REQUEST, "The body must be 'say <model>' and a prompt below it.")
    model, limit, stop, stream, prompt = found.groups()
    stops = (stop,) if stop else ()
    return Order(None if model == "-" else model, prompt, int(limit) if limit else None, stops, stream=bool(stream))


def error_line(info: ErrorInfo) -> str:
    """An error as a line."""
    return f"! {info.code} {' '.join(info.message.split())}\n"


class LineWriter:
    """Writes a reply."""

    content_type = "text/plain; charset=utf-8"
    keep_alive = b"~\n"

    def whole(self, reply: TextReply) -> bytes:
        """The whole reply, as JSON."""
        return json.dumps({"text": reply.text, "reason": reply.end.reason}).encode()

    def opening(self) -> bytes:
        """Nothing."""
        return b""

    def deltas(self, frames: Sequence[ChatFrame]) -> bytes:
        """A line of text."""
        text = "".join(frame.text for frame in frames)
        return f"+ {json.dumps(text)}\n".encode() if text else b""

    def closing(self, end: ChatEnd) -> bytes:
        """The last line."""
        return f"= {end.reason}\n".encode()

    def failure(self, error: ErrorInfo) -> bytes:
        """The last line of a reply that failed."""
        return error_line(error).encode()


@dataclass(frozen=True, slots=True)
class Toy:
    """The protocol."""

    name: str = "toy"
    prefixes: Sequence[str] = ("/toy",)
    browsers: bool = False

    def credentials(self, headers: Mapping[str, str]) -> str:
        """The key."""
        return headers.get("X-Toy-Key", "")

    def render_error(self, error: CallboardError) -> web.Response:
        """A line."""
        status = STATUSES.get(error.info.code, error.info.kind.status)
        return web.Response(text=error_line(error.info), status=status)

    def routes(self, context: EdgeContext) -> Sequence[Route]:
        """One route that answers at once, and three for jobs that are polled."""
        kept = context.admission.kept

        async def read(call: Call) -> tuple[Order, ChatModel, ChatRequest]:
            order = await read_order(call)
            model = (await context.offers.to(call.caller)).chat_models.resolve(order.model)
            request = ChatRequest(
                model=model.name,
                messages=(ChatMessage(role="user", content=order.prompt),),
                sampling=Sampling(stop=order.stops),
                max_output_tokens=model.output_limit(order.max_tokens),
            )
            return order, model, request

        async def say(call: Call) -> web.StreamResponse:
            order, model, request = await read(call)
            return await context.text.respond(call, "toy_say", request, model, LineWriter(), stream=order.stream)

        async def submit(call: Call) -> web.StreamResponse:
            _order, model, request = await read(call)
            return web.Response(text=await context.text.keep(call, request, model), status=202)

        async def poll(call: Call) -> web.StreamResponse:
            job = await kept.find(call.params["id"])
            reason = job.state if job.result is None else job.result.end.reason
            if job.result is not None and job.result.end.error is not None:
                raise CallboardError.of(job.result.end.error)
            return web.Response(text=f"{reason}\n{job.text}")

        async def cancel(call: Call) -> web.StreamResponse:
            await kept.cancel(call.params["id"])
            return web.Response(status=204)

        return [
            Route("POST", "/toy/say", say, "toy_say", "Answer", documented=False),
            Route("POST", "/toy/jobs", submit, "toy_submit", "Answer later", documented=False),
            Route("GET", "/toy/jobs/{id}", poll, "toy_poll", "Show an answer so far", documented=False),
            Route("DELETE", "/toy/jobs/{id}", cancel, "toy_cancel", "Cancel an answer", documented=False),
        ]

"""Answers a request for text, streamed or whole, in whatever form a protocol's writer gives it."""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol

from aiohttp import web

from callboard_contracts.chat import ChatEnd, ChatFrame, ChatRequest
from callboard_contracts.errors import CallboardError, ErrorInfo
from callboard_edge.domain.abilities import (
    check_abilities,
    with_honoured_sampling,
    with_usable_tools,
)
from callboard_edge.domain.admission import Admission
from callboard_edge.domain.caller import Caller
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.domain.conversation import with_usual_end
from callboard_edge.domain.job_stream import KEEP_ALIVE_S
from callboard_edge.domain.prompt_bound import within_bounds
from callboard_edge.domain.schema_validator import SchemaValidator
from callboard_edge.domain.text_stream import TextReply, TextStream, failure
from callboard_edge.domain.workers import Workers
from callboard_edge.http.call import Call
from callboard_edge.metrics import EdgeMetrics

FIRST_WAIT_S = 0.5
"""How long a stream waits for its first frame before it begins with a keep-alive; until then an error still has its
own status."""

MAX_GROWTH = 8
"""A neutral request is never so many times as large as its body, so that the size of a small one is not looked at."""


class TextWriter(Protocol):
    """Writes one reply in a protocol's form.

    A streamed reply is `opening`, then `deltas` for frames that arrived together, then `closing` or `failure`; an
    opening goes out with the first frames. `keep_alive` is sent in a silence, and nothing where it is empty.
    """

    @property
    def content_type(self) -> str:
        """The type of a streamed reply."""
        ...

    @property
    def keep_alive(self) -> bytes:
        """What shows a waiting client that the stream still lives."""
        ...

    def whole(self, reply: TextReply) -> bytes:
        """A whole reply, as JSON."""
        ...

    def opening(self) -> bytes:
        """What comes before the text."""
        ...

    def deltas(self, frames: Sequence[ChatFrame]) -> bytes:
        """The text, thinking and tool calls of some frames; nothing where the client needs to see nothing."""
        ...

    def closing(self, end: ChatEnd) -> bytes:
        """The end of a reply that is complete."""
        ...

    def failure(self, error: ErrorInfo) -> bytes:
        """The end of a reply that failed after the stream had begun."""
        ...


@dataclass(frozen=True, slots=True)
class TextResponder:
    """What all text protocols share between their bodies and their writers."""

    admission: Admission
    workers: Workers
    metrics: EdgeMetrics
    schemas: SchemaValidator = field(default_factory=SchemaValidator)

    async def respond(
        self,
        call: Call,
        route: str,
        request: ChatRequest,
        model: ChatModel,
        writer: TextWriter,
        *,
        stream: bool,
        refused_sampling: Set[str] = frozenset(),
        follow: Callable[[TextStream], None] | None = None,
    ) -> web.StreamResponse:
        """Checks a request against the model, admits it and answers it; `route` is its name in metrics.

        Sampling fields that the model's engine does not honour are ignored, except for `refused_sampling`. `follow`
        is given the reply's stream once its job is queued and before it is read.

        Raises:
            CallboardError: it was refused, or failed before anything was sent.
        """
        request = await self.checked(call, request, model, refused_sampling)
        reply = await self.admission.begin_chat(call.caller, request, model, call.fresh_id)
        try:
            reply.tell_limits(call.tell_limits)
            if follow is not None:
                follow(await reply.accepted())
            if not stream:
                return await call.answer_whole(writer.whole(await self._collected(call, reply)))
            call.mode = "stream"
            with self.metrics.streaming(route):
                return await self._streamed(call, route, reply, writer)
        finally:
            reply.close()

    async def keep(
        self,
        call: Call,
        request: ChatRequest,
        model: ChatModel,
        *,
        caller: Caller | None = None,
        name: str | None = None,
        refused_sampling: Set[str] = frozenset(),
    ) -> str:
        """Checks a request whose result is polled, admits it and returns the id to poll by; raises as `respond`.

        `caller` stands for the call's own; under `name` the job is found too.
        """
        request = await self.checked(call, request, model, refused_sampling)
        return await self.admission.chat_kept(caller or call.caller, request, model, call.fresh_id, name)

    async def checked(
        self, call: Call, request: ChatRequest, model: ChatModel, refused_sampling: Set[str]
    ) -> ChatRequest:
        """The request as its model's workers take it; raises CallboardError where they do not."""
        if model.character is not None:
            said = {"speaker": call.speaker or request.speaker, "message_id": call.message_id or request.message_id}
            request = request.model_copy(update=said)
        request = await self.prepared(request, model, refused_sampling)
        if call.body_bytes * MAX_GROWTH > self.admission.max_request_bytes:
            self.admission.check_size(request)
        return request

    async def prepared(
        self, request: ChatRequest, model: ChatModel, refused_sampling: Set[str] = frozenset()
    ) -> ChatRequest:
        """The same for a request that comes with no call of its own, and whose size is not looked at."""
        offered = self.workers.model("chat", model.pool, model.served_name)
        if request.overflow == "drop_front":
            request = within_bounds(request, model, self.admission.max_request_bytes)
        request = with_usual_end(request)
        if request.tools:
            request = with_usable_tools(request, model, offered)
        check_abilities(request, model)
        request = with_honoured_sampling(request, offered, refused_sampling)
        if request.tools or request.output_format.json_schema is not None:
            request = await self.schemas.enforceable(request)
        return request

    async def _collected(self, call: Call, reply: TextStream) -> TextReply:
        async def on_silence() -> None:
            # While a worker is there an error keeps its own status.
            if reply.waking or call.response is not None:
                await call.hold_open()

        return await reply.collect(on_silence)

    async def _streamed(self, call: Call, route: str, reply: TextStream, writer: TextWriter) -> web.StreamResponse:
        frames = await reply.take(FIRST_WAIT_S)
        if frames and (end := frames[0].end) is not None and (error := failure(end)) is not None:
            raise CallboardError.of(error)
        await call.stream(writer.content_type)
        if not frames and writer.keep_alive:
            await call.write(writer.keep_alive, content=False)
        written_at = monotonic()
        opening = writer.opening()
        while True:
            try:
                content = writer.deltas(frames) if frames else b""
                if frames:
                    content, opening = opening + content, b""
                end = frames[-1].end if frames else None
                if end is not None:
                    break
                # Not every frame has something for the client, which must hear something now and then all the same.
                if content or monotonic() - written_at >= KEEP_ALIVE_S:
                    await call.write(content or writer.keep_alive, content=bool(content))
                    written_at = monotonic()
                frames = await reply.take(written_at + KEEP_ALIVE_S - monotonic())
            except CallboardError as error:
                end, content = ChatEnd(reason="error", error=error.info), opening
                break
        error = failure(end)
        if error is not None:
            self.metrics.errors.labels(route, error.code.value).inc()
        return await call.finish(content + (writer.failure(error) if error else writer.closing(end)))

"""Answers several requests for text in one answer: all of them, or none."""

import asyncio
from collections.abc import Callable, Sequence, Set
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web

from callboard_contracts.chat import ChatEnd, ChatFrame, ChatRequest
from callboard_contracts.errors import CallboardError, ErrorInfo
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.domain.job_stream import KEEP_ALIVE_S
from callboard_edge.domain.text_stream import TextReply, TextStream, failure
from callboard_edge.http.call import Call
from callboard_edge.http.text_responder import FIRST_WAIT_S, TextResponder

Part = tuple[int, Sequence[ChatFrame] | CallboardError]
"""The number of a reply, and what came of it."""


class BatchWriter(Protocol):
    """Writes several replies in a protocol's form; see `TextWriter`. Replies are told apart by their numbers."""

    @property
    def content_type(self) -> str:
        """The type of a streamed answer."""
        ...

    @property
    def keep_alive(self) -> bytes:
        """What shows a waiting client that the stream still lives."""
        ...

    def whole(self, replies: Sequence[TextReply]) -> bytes:
        """All replies, as JSON."""
        ...

    def deltas(self, index: int, frames: Sequence[ChatFrame]) -> bytes:
        """The text of some frames of one reply; the last frame has its end."""
        ...

    def closing(self, ends: Sequence[ChatEnd]) -> bytes:
        """The end of the answer."""
        ...

    def failure(self, error: ErrorInfo) -> bytes:
        """The end of an answer that failed after it had begun."""
        ...


@dataclass(frozen=True, slots=True)
class TextBatchResponder:
    """Runs each request as a job of its own, with a hold of its own; the first failure ends all of them."""

    text: TextResponder

    async def respond(
        self,
        call: Call,
        route: str,
        requests: Sequence[ChatRequest],
        model: ChatModel,
        writer: BatchWriter,
        *,
        stream: bool,
        refused_sampling: Set[str] = frozenset(),
        follow: Callable[[TextStream], None] | None = None,
    ) -> web.StreamResponse:
        """Checks and admits all requests and answers them; raises as `TextResponder.respond` does.

        `follow` is given the stream of each reply before it is read.
        """
        checked = [await self.text.checked(call, request, model, refused_sampling) for request in requests]
        # An id of the client's is for all of them.
        ids = [f"{request.message_id}.{n}" if request.message_id else "" for n, request in enumerate(checked)]
        checked = [request.model_copy(update={"message_id": own}) for request, own in zip(checked, ids, strict=True)]
        async with AsyncExitStack() as stack:
            replies: list[TextStream] = []
            for request in checked:
                request_id = None if replies else call.fresh_id
                reply = await self.text.admission.chat(call.caller, request, model, request_id)
                replies.append(await stack.enter_async_context(reply))
            if follow is not None:
                for reply in replies:
                    follow(reply)
            call.tell_limits(replies[-1].states)
            try:
                if stream:
                    with self.text.metrics.streaming(route):
                        return await self._streamed(call, route, replies, writer)
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(reply.collect()) for reply in replies]
                    while (await asyncio.wait(tasks, timeout=KEEP_ALIVE_S))[1]:
                        if call.response is not None or any(reply.waking for reply in replies):
                            await call.hold_open()
                return await call.answer_whole(writer.whole([task.result() for task in tasks]))
            except ExceptionGroup as failed:
                # The first failure has cancelled the rest.
                raise failed.exceptions[0] from None

    async def _streamed(
        self, call: Call, route: str, replies: Sequence[TextStream], writer: BatchWriter
    ) -> web.StreamResponse:
        parts: asyncio.Queue[Part] = asyncio.Queue(len(replies))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_forward(n, reply, parts)) for n, reply in enumerate(replies)]
            try:
                return await self._written(call, route, parts, writer, len(replies))
            finally:
                for task in tasks:
                    task.cancel()

    async def _written(
        self, call: Call, route: str, parts: asyncio.Queue[Part], writer: BatchWriter, count: int
    ) -> web.StreamResponse:
        ends: dict[int, ChatEnd] = {}
        loop = asyncio.get_running_loop()
        silent_until = loop.time() + FIRST_WAIT_S
        while True:
            content = writer.keep_alive
            error: ErrorInfo | None = None
            try:
                async with asyncio.timeout_at(silent_until):
                    index, part = await parts.get()
            except TimeoutError:
                silent_until = loop.time() + KEEP_ALIVE_S
            else:
                if isinstance(part, CallboardError):
                    error = part.info
                elif (end := part[-1].end) is not None:
                    ends[index], error = end, failure(end)
                if error is not None and call.response is None:
                    raise CallboardError.of(error)
                content = b"" if isinstance(part, CallboardError) else writer.deltas(index, part)
            if call.response is None:
                await call.stream(writer.content_type)
            if error is not None:
                self.text.metrics.errors.labels(route, error.code.value).inc()
                return await call.finish(content + writer.failure(error))
            if len(ends) == count:
                return await call.finish(content + writer.closing([ends[n] for n in range(count)]))
            if content:
                await call.write(content, content=content != writer.keep_alive)
                silent_until = loop.time() + KEEP_ALIVE_S


async def _forward(index: int, reply: TextStream, parts: asyncio.Queue[Part]) -> None:
    """Puts what comes of one reply into the queue that all share."""
    try:
        async for frames in reply:
            if frames:
                await parts.put((index, frames))
    except CallboardError as error:
        await parts.put((index, error))

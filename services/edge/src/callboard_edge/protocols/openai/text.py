"""What OpenAI's two text paths have in common: reading the sampling fields, and answering streamed or whole."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from callboard_contracts.chat import ChatEnd, ChatRequest, Sampling, TokenUsage, ToolCall
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.domain.job_stream import FailedAfterOutput
from callboard_edge.domain.text_stream import Reply
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.rate_limits import rate_limit_headers
from callboard_edge.http.route import Answer
from callboard_edge.metrics import EdgeMetrics
from callboard_edge.protocols.openai.bodies import ErrorAnswer, SamplingBody
from callboard_edge.protocols.openai.errors import error_event
from callboard_edge.protocols.openai.writer import DONE, KEEP_ALIVE, KEEP_ALIVE_S, ChunkWriter

ERRORS = {
    400: Answer("A field is missing, malformed, out of range, or asks for what the model cannot do.", ErrorAnswer),
    401: Answer("The API key is unknown, expired or revoked.", ErrorAnswer),
    404: Answer("No model of that name is on offer.", ErrorAnswer),
    413: Answer("The body is over the size limit.", ErrorAnswer),
    429: Answer("A limit is reached, or too many requests wait; Retry-After says when to try again.", ErrorAnswer),
    502: Answer("The engine failed.", ErrorAnswer),
    503: Answer("The engine, the bus or quota is not there at the moment.", ErrorAnswer),
    504: Answer("The deadline passed.", ErrorAnswer),
}


@dataclass(frozen=True, slots=True)
class TextCall:
    """A checked request for text, on its way to be answered."""

    call: Call
    model: ChatModel
    asked_model: str
    request: ChatRequest
    route: str
    chat: bool
    stream: bool
    include_usage: bool
    echo: str = ""


def unsupported(message: str, param: str) -> CallboardError:
    """The error for what cannot be served."""
    return CallboardError(ErrorCode.UNSUPPORTED, message, param=param)


def sampling(body: SamplingBody) -> Sampling:
    """The sampling fields of a request.

    Raises:
        CallboardError: more than one choice is asked for.
    """
    if body.n is not None and body.n > 1:
        raise unsupported("Only one choice can be generated for a request; leave 'n' out or set it to 1.", "n")
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return Sampling(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        repetition_penalty=body.repetition_penalty,
        seed=body.seed,
        stop=tuple(word for word in stop if word),
        logit_bias=body.logit_bias or None,
    )


async def answer(context: EdgeContext, text_call: TextCall) -> web.StreamResponse:
    """Admits a request and answers it.

    Raises:
        CallboardError: it was refused, or failed before anything was sent.
    """
    call = text_call.call
    with await context.admission.chat(call.caller, text_call.request, text_call.model, call.fresh_id) as reply:
        call.headers.update(rate_limit_headers(reply.states))
        if not text_call.stream:
            return await _whole(text_call, reply)
        call.mode = "stream"
        with context.metrics.open_streams.labels(text_call.route).track_inprogress():
            return await _streamed(text_call, reply, context.metrics)


async def _whole(text_call: TextCall, reply: Reply) -> web.Response:
    text: list[str] = [text_call.echo] if text_call.echo else []
    thinking: list[str] = []
    tool_calls: list[ToolCall] = []
    emitted = False
    while True:
        try:
            frames = await reply.take(KEEP_ALIVE_S)
        except CallboardError as error:
            raise _charged(error.info) if emitted else error from None
        for frame in frames:
            text.append(frame.text)
            thinking.append(frame.thinking)
            tool_calls += frame.tool_calls
            emitted = emitted or frame.tokens > 0 or bool(frame.text or frame.thinking or frame.tool_calls)
        if frames and (end := frames[-1].end) is not None:
            break
    error = failure(end)
    if error is not None:
        raise _charged(error) if emitted else CallboardError.of(error)
    body = _chat_body if text_call.chat else _completion_body
    return text_call.call.answer(body(text_call, reply, end, "".join(text), "".join(thinking), tool_calls))


async def _streamed(text_call: TextCall, reply: Reply, metrics: EdgeMetrics) -> web.StreamResponse:
    call = text_call.call
    loop = asyncio.get_running_loop()
    chunks = ChunkWriter(
        reply.request_id, text_call.asked_model, chat=text_call.chat, include_usage=text_call.include_usage
    )
    frames = await reply.take(KEEP_ALIVE_S)
    if frames and (end := frames[0].end) is not None and (error := failure(end)) is not None:
        raise CallboardError.of(error)
    response = await call.stream("text/event-stream")
    written_at = loop.time()
    opening = chunks.opening() + (chunks.piece(text_call.echo) if text_call.echo else "")
    while True:
        try:
            content = chunks.frames(frames)
            if frames:
                content, opening = opening + content, ""
            end = frames[-1].end if frames else None
            if end is not None:
                break
            # Not every frame has something for the client, which must hear something now and then all the same.
            if content or loop.time() - written_at >= KEEP_ALIVE_S:
                await call.write(content.encode() or KEEP_ALIVE)
                written_at = loop.time()
            frames = await reply.take(KEEP_ALIVE_S)
        except CallboardError as error:
            end, content = ChatEnd(reason="error", error=error.info), opening
            break
    error = failure(end)
    if error is not None:
        metrics.errors.labels(text_call.route, error.code.value).inc()
        last = content.encode() + error_event(error) + DONE
    else:
        last = (content + chunks.closing(end.reason, end.usage)).encode() + DONE
    await call.finish(last)
    return response


def failure(end: ChatEnd) -> ErrorInfo | None:
    """The error of an end that is none of a reply's own."""
    if end.reason == "error":
        return end.error or ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="The engine failed.")
    if end.reason == "cancelled":
        return ErrorInfo(code=ErrorCode.INTERRUPTED, message="The reply was interrupted.")
    return None


def _charged(error: ErrorInfo) -> FailedAfterOutput:
    charged = FailedAfterOutput(error.code, error.message)
    charged.info = error
    return charged


def usage_object(usage: TokenUsage) -> dict[str, int]:
    """Token counts in OpenAI's form."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _chat_body(
    text_call: TextCall, reply: Reply, end: ChatEnd, text: str, thinking: str, tool_calls: Sequence[ToolCall]
) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text if text or not tool_calls else None,
        "refusal": None,
    }
    if thinking:
        message["reasoning_content"] = thinking
    if tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in tool_calls
        ]
    return {
        "id": f"chatcmpl-{reply.request_id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": text_call.asked_model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": end.reason}],
        "usage": usage_object(end.usage),
    }


def _completion_body(
    text_call: TextCall, reply: Reply, end: ChatEnd, text: str, _thinking: str, _tool_calls: Sequence[ToolCall]
) -> dict[str, Any]:
    return {
        "id": f"cmpl-{reply.request_id}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": text_call.asked_model,
        "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": end.reason}],
        "usage": usage_object(end.usage),
    }

"""OpenAI's chat protocol from the client's side: request bodies, and what an error status means."""

import json
import re
from base64 import b64decode
from typing import Any

from callboard_chat.domain.embedding import InputTooLong
from callboard_chat.domain.models import ContextExceeded
from callboard_chat.domain.ports import Continuation, Embedded
from callboard_chat.domain.prefill import with_reply
from callboard_contracts.chat import ChatMessage, ChatRequest, OutputFormat
from callboard_contracts.embedding import packed
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_worker.engine import EngineError, EngineFailed, EngineRefused, EngineUnavailable

MAX_RETRY_AFTER_S = 3600.0

Json = dict[str, Any]

_NUMBERS = (
    (re.compile(r'"n_ctx":\s*(\d{1,9})'), re.compile(r"context (?:length|size) (?:is|of)(?: only)? \(?(\d{1,9})")),
    (
        re.compile(r'"n_prompt_tokens":\s*(\d{1,9})'),
        re.compile(r"\((\d{1,9}) in (?:the messages|your prompt)"),
        re.compile(r"(?:resulted in|contains at least|passed) (\d{1,9})"),
    ),
)
"""Where llama.cpp, OpenAI and vLLM tell the context, and the length of the prompt that does not fit it."""


def request_body(request: ChatRequest, continuation: Continuation | None, sampling: Json) -> Json:
    """The body of a streamed request; fields that the client left out stay out."""
    said = continuation or Continuation()
    body: Json = {
        "model": request.model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": request.max_output_tokens - said.tokens,
        **sampling,
    }
    if request.mode == "completion":
        if request.top_logprobs is not None:
            body["logprobs"] = request.top_logprobs
        return body | {"prompt": request.prompt + said.text}
    if request.top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    body["messages"] = [_message(message) for message in with_reply(request.messages, continuation)]
    if request.tools and request.tool_choice != "none":
        body["tools"] = [
            {
                "type": "function",
                "function": tool.model_dump(exclude={"strict"}) | ({"strict": True} if tool.strict else {}),
            }
            for tool in request.tools
        ]
        if request.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = request.parallel_tool_calls
        choice = request.tool_choice
        named = choice not in {"auto", "required"}
        body["tool_choice"] = {"type": "function", "function": {"name": choice}} if named else choice
    if request.output_format.kind in {"json_object", "json_schema"}:
        body["response_format"] = _response_format(request.output_format)
    return body


def _response_format(output_format: OutputFormat) -> Json:
    if output_format.kind == "json_object":
        return {"type": "json_object"}
    schema: Json = {"name": output_format.name or "reply", "schema": output_format.json_schema or {}}
    schema["strict"] = bool(output_format.strict)
    return {"type": "json_schema", "json_schema": schema}


def _message(message: ChatMessage) -> Json:
    written: Json = {"role": message.role, "content": message.content}
    if message.images:
        pictures = [
            {"type": "image_url", "image_url": {"url": f"data:{image.media_type};base64,{image.data}"}}
            for image in message.images
        ]
        written["content"] = [{"type": "text", "text": message.content}, *pictures]
    if message.name:
        written["name"] = message.name
    if message.tool_call_id:
        written["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        written["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return written


def refused(request: ChatRequest, status: int, body: bytes, retry_after: str | None = None) -> EngineError:
    """The error for an answer with an error status; the engine's own words stay here."""
    if (failed := _failed(status, retry_after)) is not None:
        return failed
    about = body[:65_536].decode(errors="replace").lower()
    if _is_context_exceeded(about):
        return ContextExceeded(request, *_context_numbers(about))
    if any(mark in about for mark in ("schema", "response_format", "grammar")):
        is_grammar = request.output_format.kind == "grammar"
        message = f"The engine cannot follow the {'grammar' if is_grammar else 'JSON schema'}."
        return EngineRefused(ErrorInfo(code=ErrorCode.INVALID_REQUEST, message=message, param="output_format"))
    return _not_accepted()


def embedding_refused(status: int, body: bytes, retry_after: str | None = None) -> EngineError:
    """The same for texts that were to be embedded."""
    about = body[:65_536].decode(errors="replace").lower()
    if status not in {429, 503} and _is_context_exceeded(about):
        # Some servers call this their own fault.
        return InputTooLong(None, *_context_numbers(about))
    if status == 501:
        message = "The engine behind the model makes no embeddings."
        return EngineRefused(ErrorInfo(code=ErrorCode.UNSUPPORTED, message=message, param="model"))
    return _failed(status, retry_after) or _not_accepted()


def read_vectors(body: bytes) -> Embedded:
    """The vectors of an answer in OpenAI's form; raises EngineFailed for what is none."""
    try:
        answer = json.loads(body)
        return Embedded(vectors_of(answer), int((answer.get("usage") or {}).get("prompt_tokens") or 0))
    except (ValueError, TypeError, AttributeError):
        raise EngineFailed("the engine's answer has no vectors") from None


def vectors_of(answer: Json) -> list[bytes]:
    """The vectors in an answer, given as base64 or as numbers; raises EngineFailed."""
    try:
        items = sorted(answer["data"], key=lambda item: item["index"])
        return [_vector(item["embedding"]) for item in items]
    except (ValueError, KeyError, TypeError, OverflowError):
        raise EngineFailed("the engine's answer has no vectors") from None


def _vector(given: str | list[float]) -> bytes:
    return b64decode(given, validate=True) if isinstance(given, str) else packed(given)


def _failed(status: int, retry_after: str | None) -> EngineError | None:
    if status in {408, 425, 429} or status >= 500:
        return EngineUnavailable(f"the engine answered {status}", _seconds(retry_after))
    if status in {401, 403, 404}:
        message = "The engine does not let this site use the model."
        return EngineRefused(ErrorInfo(code=ErrorCode.ENGINE_FAILED, message=message))
    return None


def _is_context_exceeded(about: str) -> bool:
    marks = ("context_length", "exceed_context_size", "context length", "context size")
    return any(mark in about for mark in marks)


def _not_accepted() -> EngineError:
    return EngineRefused(ErrorInfo(code=ErrorCode.INVALID_REQUEST, message="The engine does not accept the request."))


def _context_numbers(about: str) -> tuple[int | None, int | None]:
    """The context and the prompt's length in tokens, as far as an engine's error tells them."""
    found = [next((int(match[1]) for each in pattern if (match := each.search(about))), None) for pattern in _NUMBERS]
    return found[0], found[1]


def _seconds(retry_after: str | None) -> float | None:
    if retry_after is None or not retry_after.isdecimal():
        return None
    return min(float(retry_after), MAX_RETRY_AFTER_S)

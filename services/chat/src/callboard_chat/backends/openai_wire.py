"""OpenAI's chat protocol from the client's side: request bodies out, streamed chunks in.

The chunks are read from plain JSON instead of the `openai` package's typed objects, which cost ten times as much.
"""

from typing import Any

from pydantic import TypeAdapter

from callboard_chat.domain.models import context_exceeded
from callboard_chat.domain.ports import Chunk, Continuation, Finish
from callboard_contracts.chat import ChatMessage, ChatRequest, OutputFormat, PhaseDurations, TokenLogprob, ToolCall
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_worker.engine import EngineError, EngineFailed, EngineRefused, EngineUnavailable

MAX_EVENT_BYTES = 4 * 1024 * 1024
MAX_RETRY_AFTER_S = 3600.0
LEAST_LOGPROB = -9999.0

Json = dict[str, Any]

_EVENT: TypeAdapter[Any] = TypeAdapter(Any)
"""Reads JSON three times as fast as the standard library."""

_FINISHES: dict[str, Finish] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}


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
    body["messages"] = [_message(message) for message in request.messages]
    if continuation is not None:
        body["messages"].append({"role": "assistant", "content": said.prefill})
    if request.tools and request.tool_choice != "none":
        body["tools"] = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
            }
            for tool in request.tools
        ]
        choice = request.tool_choice
        named = choice not in {"auto", "required"}
        body["tool_choice"] = {"type": "function", "function": {"name": choice}} if named else choice
    if request.output_format.kind in {"json_object", "json_schema"}:
        body["response_format"] = _response_format(request.output_format)
    return body


def _response_format(output_format: OutputFormat) -> Json:
    if output_format.kind == "json_object":
        return {"type": "json_object"}
    schema = {"name": output_format.name or "reply", "schema": output_format.json_schema or {}, "strict": True}
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


class EventReader:
    """Cuts a byte stream of server-sent events into the payloads of its `data:` lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Takes the next bytes and returns the payloads that are complete."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > MAX_EVENT_BYTES:
            raise EngineFailed
        return [payload for line in lines if line.startswith(b"data:") and (payload := line[5:].strip())]


class ReplyReader:
    """Puts streamed chunks together: text as it comes, tool calls and counts at the end.

    It never hands over more tokens than `limit`, taking one chunk of text for one token unless the engine counts, as
    llama.cpp does. `spent_prompt_tokens` is how much of the prompt is the start of the answer; `prompt_tokens` is the
    prompt's length where it is known better. At most `top_logprobs` alternatives come with a token.
    """

    def __init__(
        self,
        limit: int,
        *,
        spent_prompt_tokens: int = 0,
        prompt_tokens: int | None = None,
        top_logprobs: int | None = None,
    ) -> None:
        self._limit = limit
        self._spent_prompt_tokens = spent_prompt_tokens
        self._prompt_tokens = prompt_tokens
        self._prompt_fixed = prompt_tokens is not None
        self._cached_prompt_tokens: int | None = None
        self._tokens = 0
        self._top_logprobs = top_logprobs
        self._logprobs: list[TokenLogprob] = []
        self._calls: dict[int, list[str]] = {}
        self._finish: Finish | None = None
        self._stop_sequence: str | None = None
        self._usage: Json = {}
        self._timings: Json = {}
        self._failed = False
        self.done = False
        """Whether nothing more is to be read."""

    @property
    def finished(self) -> bool:
        """Whether the engine has said why it ended, though its counts may still follow."""
        return self._finish is not None

    def read(self, payloads: list[bytes]) -> Chunk | None:
        """Takes the payloads that arrived together and returns what they say as one chunk."""
        text = ""
        thinking = ""
        before = self._tokens
        for payload in payloads:
            if self.done:
                break
            if payload == b"[DONE]":
                self.done = True
                break
            try:
                said, thought = self._read_event(_EVENT.validate_json(payload))
            except (ValueError, TypeError, AttributeError, KeyError):
                self._failed = self.done = True
                break
            text += said
            thinking += thought
        tokens = self._tokens - before
        if not (text or thinking or tokens):
            return None
        logprobs, self._logprobs = tuple(self._logprobs), []
        return Chunk(
            text,
            thinking,
            tokens,
            logprobs=logprobs,
            prompt_tokens=self._prompt_tokens,
            cached_prompt_tokens=self._cached_prompt_tokens,
        )

    def _read_event(self, event: Json) -> tuple[str, str]:
        """The text and the thinking of one event; raises one of Python's own errors where it has another form."""
        if event.get("error"):
            raise ValueError
        if usage := event.get("usage"):
            self._usage = usage
            self._count_prompt(
                usage.get("prompt_tokens"), (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
            )
        timings = event.get("timings")
        if timings:
            self._timings = timings
            self._count_prompt(timings["cache_n"] + timings["prompt_n"], timings["cache_n"])
        text = ""
        thinking = ""
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or choice
            said = delta.get("content") or delta.get("text") or ""
            thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
            calls = delta.get("tool_calls")
            if said or thought or calls:
                if self._tokens >= self._limit:
                    self._finish = "length"
                    self.done = True
                    break
                self._tokens = max(self._tokens, timings["predicted_n"]) if timings else self._tokens + 1
                text += said
                thinking += thought
                for call in calls or ():
                    self._add_call(call)
            if self._top_logprobs is not None and (logprobs := choice.get("logprobs")):
                self._logprobs += _logprobs(logprobs, self._top_logprobs)
            reason = choice.get("finish_reason")
            # One server writes the word null while it is still running.
            if reason and reason != "null":
                self._finish = _FINISHES.get(reason, "stop")
                # vLLM names the sequence, or the number of a token, that ended the reply.
                stop = choice.get("stop_reason")
                self._stop_sequence = stop if isinstance(stop, str) else None
        return text, thinking

    def last(self) -> Chunk:
        """The final chunk, with the engine's own counts, once nothing more comes.

        Raises:
            EngineFailed: the engine reported an error, or does not speak the protocol.
            EngineUnavailable: it broke off before its end.
        """
        if self._failed:
            raise EngineFailed
        if self._finish is None:
            raise EngineUnavailable("the reply broke off")
        return Chunk(
            tool_calls=tuple(
                ToolCall(id=call_id or f"call_{index}", name=name, arguments=arguments)
                for index, (call_id, name, arguments) in sorted(self._calls.items())
            ),
            logprobs=tuple(self._logprobs),
            finish="tool_calls" if self._calls else self._finish,
            stop_sequence=self._stop_sequence,
            prompt_tokens=self._prompt_tokens,
            cached_prompt_tokens=self._cached_prompt_tokens,
            completion_tokens=self._usage.get("completion_tokens"),
            durations=PhaseDurations(
                prompt_s=self._timings["prompt_ms"] / 1000, generate_s=self._timings["predicted_ms"] / 1000
            )
            if self._timings
            else None,
        )

    def _count_prompt(self, tokens: int | None, cached: int | None) -> None:
        if tokens and not self._prompt_fixed:
            self._prompt_tokens = max(0, tokens - self._spent_prompt_tokens)
        if cached is not None:
            self._cached_prompt_tokens = cached

    def _add_call(self, part: Json) -> None:
        call = self._calls.setdefault(part.get("index", 0), ["", "", ""])
        function = part.get("function") or {}
        call[0] = part.get("id") or call[0]
        call[1] += function.get("name") or ""
        call[2] += function.get("arguments") or ""


def _logprobs(found: Json, top: int) -> list[TokenLogprob]:
    """The log probabilities of one choice, in the form of chats or in that of completions."""
    if (content := found.get("content")) is not None:
        return [
            TokenLogprob(
                token=each["token"],
                token_id=each.get("id"),
                logprob=_logprob(each["logprob"]),
                top=tuple(
                    TokenLogprob(token=other["token"], token_id=other.get("id"), logprob=_logprob(other["logprob"]))
                    for other in (each.get("top_logprobs") or ())[:top]
                ),
            )
            for each in content
        ]
    tokens = found.get("tokens") or ()
    tops = found.get("top_logprobs") or [None] * len(tokens)
    return [
        TokenLogprob(
            token=token,
            logprob=_logprob(logprob),
            top=tuple(
                TokenLogprob(token=other, logprob=_logprob(value))
                for other, value in list((others or {}).items())[:top]
            ),
        )
        for token, logprob, others in zip(tokens, found["token_logprobs"], tops, strict=True)
    ]


def _logprob(value: float | None) -> float:
    """A log probability as a finite number; OpenAI too writes -9999 for a token that cannot come."""
    return LEAST_LOGPROB if value is None else max(value, LEAST_LOGPROB)


def refused(request: ChatRequest, status: int, body: bytes, retry_after: str | None = None) -> EngineError:
    """The error for an answer with an error status; the engine's own words stay here."""
    if status in {408, 425, 429} or status >= 500:
        return EngineUnavailable(f"the engine answered {status}", _seconds(retry_after))
    if status in {401, 403, 404}:
        message = "The engine does not let this site use the model."
        return EngineRefused(ErrorInfo(code=ErrorCode.ENGINE_FAILED, message=message))
    about = body[:65_536].decode(errors="replace").lower()
    if any(mark in about for mark in ("context_length", "exceed_context_size", "context length", "context size")):
        return EngineRefused(context_exceeded(request))
    if any(mark in about for mark in ("schema", "response_format", "grammar")):
        is_grammar = request.output_format.kind == "grammar"
        message = f"The engine cannot follow the {'grammar' if is_grammar else 'JSON schema'}."
        return EngineRefused(ErrorInfo(code=ErrorCode.INVALID_REQUEST, message=message, param="output_format"))
    return EngineRefused(ErrorInfo(code=ErrorCode.INVALID_REQUEST, message="The engine does not accept the request."))


def cannot_continue() -> EngineRefused:
    """The error for an engine that does not go on from the start of an answer."""
    message = "The reply was interrupted and cannot be continued."
    return EngineRefused(ErrorInfo(code=ErrorCode.INTERRUPTED, message=message))


def _seconds(retry_after: str | None) -> float | None:
    if retry_after is None or not retry_after.isdecimal():
        return None
    return min(float(retry_after), MAX_RETRY_AFTER_S)

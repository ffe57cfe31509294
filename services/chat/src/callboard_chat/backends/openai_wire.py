"""OpenAI's chat protocol from the client's side: request bodies out, streamed chunks in.

The chunks are read from plain JSON instead of the `openai` package's typed objects, which cost ten times as much.
"""

from typing import Any

from pydantic import TypeAdapter

from callboard_chat.domain.ports import Chunk, Continuation, Finish
from callboard_contracts.chat import ChatMessage, ChatRequest, ToolCall
from callboard_contracts.errors import CallboardError, ErrorCode

MAX_EVENT_BYTES = 4 * 1024 * 1024

Json = dict[str, Any]

SAMPLING = frozenset(
    {
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "seed",
        "stop",
        "logit_bias",
    }
)

_EVENT: TypeAdapter[Any] = TypeAdapter(Any)
"""Reads JSON three times as fast as the standard library."""

_FINISHES: dict[str, Finish] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}


def request_body(request: ChatRequest, continuation: Continuation | None) -> Json:
    """The body of a streamed request; fields that the client left out stay out."""
    said = continuation or Continuation()
    body: Json = {
        "model": request.model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": request.max_output_tokens - said.tokens,
        **_sampling(request),
    }
    if request.mode == "completion":
        body["prompt"] = request.prompt + said.text
        return body
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
    if request.output_format.kind == "json_object":
        body["response_format"] = {"type": "json_object"}
    elif request.output_format.kind == "json_schema":
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {
                "name": request.output_format.name or "reply",
                "schema": request.output_format.json_schema or {},
                "strict": True,
            },
        }
    return body


def _sampling(request: ChatRequest) -> Json:
    return request.sampling.model_dump(include=set(SAMPLING), exclude_defaults=True)


def _message(message: ChatMessage) -> Json:
    written: Json = {"role": message.role, "content": message.content}
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
            raise engine_failed()
        return [payload for line in lines if line.startswith(b"data:") and (payload := line[5:].strip())]


class ReplyReader:
    """Puts streamed chunks together: text as it comes, tool calls and counts at the end.

    It never hands over more tokens than `limit`, taking one chunk of text for one token unless the engine counts, as
    llama.cpp does. `spent_prompt_tokens` is how much of the prompt is the start of the answer; `prompt_tokens` is the
    prompt's length where it is known better.
    """

    def __init__(self, limit: int, *, spent_prompt_tokens: int = 0, prompt_tokens: int | None = None) -> None:
        self._limit = limit
        self._spent_prompt_tokens = spent_prompt_tokens
        self._prompt_tokens = prompt_tokens
        self._prompt_fixed = prompt_tokens is not None
        self._tokens = 0
        self._calls: dict[int, list[str]] = {}
        self._finish: Finish | None = None
        self._usage: Json = {}
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
        return Chunk(text, thinking, tokens, prompt_tokens=self._prompt_tokens)

    def _read_event(self, event: Json) -> tuple[str, str]:
        """The text and the thinking of one event; raises one of Python's own errors where it has another form."""
        if event.get("error"):
            raise ValueError
        if usage := event.get("usage"):
            self._usage = usage
            self._count_prompt(usage.get("prompt_tokens"))
        timings = event.get("timings")
        if timings:
            self._count_prompt(timings["cache_n"] + timings["prompt_n"])
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
            reason = choice.get("finish_reason")
            # One server writes the word null while it is still running.
            if reason and reason != "null":
                self._finish = _FINISHES.get(reason, "stop")
        return text, thinking

    def last(self) -> Chunk:
        """The final chunk, with the engine's own counts, once nothing more comes.

        Raises:
            CallboardError: the engine reported an error, does not speak the protocol, or broke off before its end.
        """
        if self._failed:
            raise engine_failed()
        if self._finish is None:
            raise engine_unavailable()
        return Chunk(
            tool_calls=tuple(
                ToolCall(id=call_id or f"call_{index}", name=name, arguments=arguments)
                for index, (call_id, name, arguments) in sorted(self._calls.items())
            ),
            finish="tool_calls" if self._calls else self._finish,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._usage.get("completion_tokens"),
        )

    def _count_prompt(self, tokens: int | None) -> None:
        if tokens and not self._prompt_fixed:
            self._prompt_tokens = max(0, tokens - self._spent_prompt_tokens)

    def _add_call(self, part: Json) -> None:
        call = self._calls.setdefault(part.get("index", 0), ["", "", ""])
        function = part.get("function") or {}
        call[0] = part.get("id") or call[0]
        call[1] += function.get("name") or ""
        call[2] += function.get("arguments") or ""


def refused(status: int, body: bytes, retry_after: str | None = None) -> CallboardError:
    """The error for an answer with an error status; the engine's own words stay here."""
    if status in {408, 425, 429} or status >= 500:
        return engine_unavailable(retry_after)
    if status in {401, 403, 404}:
        return CallboardError(ErrorCode.ENGINE_FAILED, "The engine does not let this site use the model.")
    about = body[:65_536].decode(errors="replace").lower()
    if any(mark in about for mark in ("context_length", "exceed_context_size", "context length", "context size")):
        return CallboardError(
            ErrorCode.CONTEXT_LENGTH_EXCEEDED, "The prompt does not fit the model's context.", param="messages"
        )
    if any(mark in about for mark in ("schema", "response_format", "grammar")):
        return CallboardError(
            ErrorCode.INVALID_REQUEST, "The engine cannot follow the JSON schema.", param="output_format"
        )
    return CallboardError(ErrorCode.INVALID_REQUEST, "The engine does not accept the request.")


def engine_unavailable(retry_after: str | None = None) -> CallboardError:
    """The error for an engine that cannot be reached or is overloaded."""
    retry_after_s = None
    if retry_after is not None and retry_after.isdecimal():
        retry_after_s = min(float(retry_after), 3600.0)
    return CallboardError(
        ErrorCode.ENGINE_UNAVAILABLE, "The engine behind the model could not be reached.", retry_after_s=retry_after_s
    )


def engine_failed() -> CallboardError:
    """The error for an engine that broke its protocol or said that it failed."""
    return CallboardError(ErrorCode.ENGINE_FAILED, "The engine behind the model reported an error.")


def cannot_continue() -> CallboardError:
    """The error for an engine that does not go on from the start of an answer."""
    return CallboardError(ErrorCode.INTERRUPTED, "The reply was interrupted and cannot be continued.")

"""An Ollama server, through the `ollama` package."""

import asyncio
import json
import logging
from base64 import b64decode
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence, Set
from contextlib import aclosing
from typing import Any, Literal, cast

import httpx
from ollama import AsyncClient, ChatResponse, GenerateResponse, ResponseError
from pydantic import BaseModel, Field, ValidationError

from callboard_chat.backends.openai_wire import embedding_refused, refused
from callboard_chat.backends.sampling import given, names, within_context
from callboard_chat.domain.control_tokens import ControlTokens, special_tokens, tokens_in
from callboard_chat.domain.models import ContextExceeded, no_tokens
from callboard_chat.domain.ports import Chunk, Continuation, Embedded, Finish, PromptTokens
from callboard_chat.domain.prefill import cannot_continue
from callboard_chat.domain.prompt_formats import OwnTurns, fallback_turns
from callboard_chat.domain.tool_calls import is_forced, new_call
from callboard_contracts.chat import ChatMessage, ChatRequest, PhaseDurations, Thinking, ToolCall
from callboard_contracts.embedding import packed
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.tokens import DescribeModelReply
from callboard_contracts.workers import Ability
from callboard_worker.engine import EngineFailed, EngineRefused, EngineUnavailable

log = logging.getLogger(__name__)

SHOW_TIMEOUT_S = 30.0
SHOW_WAIT_S = 2.0
"""How long a check of the server waits for vocabularies; what takes longer goes on beside it."""
MAX_CHARACTERS_PER_TOKEN = 16
"""Hardly any text has longer tokens on average; Ollama itself would cut a longer prompt without a word."""

NANOSECONDS_PER_S = 1e9

NAMES = names(
    "temperature top_k top_p min_p typical_p presence_penalty frequency_penalty seed stop",
    {"repetition_penalty": "repeat_penalty", "repetition_range": "repeat_last_n"},
)
SAMPLING = frozenset(NAMES)
ABILITIES: frozenset[Ability] = frozenset(
    {"completion", "chat", "tools", "json_schema", "images", "thinking", "prefill", "embedding"}
)

Answer = ChatResponse | GenerateResponse


class _Vocabulary(BaseModel):
    tokens: tuple[str, ...] = Field(default=(), alias="tokenizer.ggml.tokens")
    types: tuple[int, ...] = Field(default=(), alias="tokenizer.ggml.token_type")


class _Shown(BaseModel):
    template: str = ""
    model_info: _Vocabulary = _Vocabulary()


class _Details(BaseModel):
    family: str | None = None
    quantization_level: str | None = None


class _Description(BaseModel):
    template: str = ""
    details: _Details = _Details()
    model_info: dict[str, Any] = Field(default_factory=dict)


class OllamaEngine:
    """An Ollama server at `url`; `contexts` holds the context length of each of its models that is used.

    `parse_special` names the models in whose messages control tokens act as such; in others they are broken up.
    """

    abilities = ABILITIES
    sampling = SAMPLING
    in_process = False
    honours_prefill = False

    def __init__(
        self,
        url: str,
        api_key: str | None,
        connect_timeout_s: float,
        contexts: Mapping[str, int],
        *,
        parse_special: Set[str] = frozenset(),
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else None
        # The handler watches for silence; a read timeout here would end slow prompts.
        self._client = AsyncClient(
            host=url, headers=headers, timeout=httpx.Timeout(None, connect=connect_timeout_s), trust_env=False
        )
        # The package asks for no vocabulary.
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=SHOW_TIMEOUT_S, trust_env=False)
        self._contexts = contexts
        self._parse_special = parse_special
        self._well_known = ControlTokens()
        self._control_tokens: dict[str, ControlTokens] = {}
        self._templates: dict[str, str] = {}
        self._asking: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Does nothing: the engine runs elsewhere."""

    async def ready(self) -> str | None:
        """Asks the server for its models, and once for the control tokens of each that is used."""
        try:
            await self._client.list()
        except (ResponseError, httpx.HTTPError, OSError) as error:
            return f"engine: {type(error).__name__}"
        unknown = self._contexts.keys() - self._control_tokens.keys() - self._parse_special
        if unknown:
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._learn_control_tokens(sorted(unknown)), name="control-tokens")
            await asyncio.wait({self._asking}, timeout=SHOW_WAIT_S)
        return None

    def broken(self) -> str | None:
        """Never: the engine runs elsewhere."""
        return None

    async def stream(
        self, request: ChatRequest, continuation: Continuation | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """Streams one reply; see `ChatEngine`."""
        if is_forced(request):
            message = "This model's engine cannot be made to call a tool."
            raise EngineRefused(ErrorInfo(code=ErrorCode.UNSUPPORTED, message=message, param="tool_choice"))
        context = self._contexts.get(request.model, 4096)
        if _length(request) > context * MAX_CHARACTERS_PER_TOKEN:
            raise ContextExceeded(request, context)
        if request.mode == "chat" and request.model not in self._parse_special:
            request = self.broken_up(request)
            tokens = self._control_tokens.get(request.model, self._well_known)
            continuation = tokens.broken_up_reply(continuation)
        said = continuation or Continuation()
        spoke = False
        calls: list[ToolCall] = []
        try:
            answers = await self._ask(request, continuation, context)
            # The package types its generators as iterators; closing them is what ends the request.
            async with aclosing(cast("AsyncGenerator[Answer, None]", answers)) as stream:
                async for answer in stream:
                    text, thinking = _words(answer, calls)
                    spoke = spoke or bool(text or thinking)
                    if answer.done:
                        yield _last(answer, text, thinking, calls, said)
                        return
                    if text or thinking:
                        yield Chunk(text, thinking, tokens=1, thinking_tokens=0 if text else 1)
        except ResponseError as error:
            if error.status_code < 0:
                raise EngineFailed from None
            refusal = refused(request, error.status_code, str(error.error).encode())
            if continuation and refusal.info.code is ErrorCode.INVALID_REQUEST:
                refusal = cannot_continue()
            raise refusal from None
        except json.JSONDecodeError:
            raise EngineFailed from None
        except (httpx.HTTPError, OSError):
            raise EngineUnavailable from None
        raise EngineUnavailable("the reply broke off")

    def broken_up(self, request: ChatRequest) -> ChatRequest:
        """Breaks up the model's control tokens; all that are well known while it has not told its own."""
        if request.model in self._parse_special:
            return request
        return self._control_tokens.get(request.model, self._well_known).broken_up(request)

    def own_turns(self, model: str) -> OwnTurns:
        """Those of ChatML where the model's template has its mark, else Alpaca's: the server renders no probes."""
        return fallback_turns(self._templates.get(model, ""))

    async def tokenize(self, request: ChatRequest, *, special: bool = True) -> PromptTokens:
        """Refuses: the server has no way to ask."""
        raise no_tokens()

    async def detokenize(self, model: str, ids: Sequence[int], *, special: bool = True) -> str:
        """Refuses: the server has no way to ask."""
        raise no_tokens()

    async def describe(self, model: str) -> DescribeModelReply:
        """What the server shows of a model."""
        try:
            response = await self._http.post("/api/show", json={"model": model})
            shown = await asyncio.to_thread(_Description.model_validate_json, response.raise_for_status().content)
        except (httpx.HTTPError, OSError):
            raise EngineUnavailable from None
        except ValueError:
            raise EngineFailed from None
        about = shown.model_info
        architecture = about.get("general.architecture")
        return DescribeModelReply(
            chat_template=shown.template,
            architecture=architecture if isinstance(architecture, str) else shown.details.family,
            parameters=_whole(about.get("general.parameter_count")),
            quantization=shown.details.quantization_level,
            context_tokens=self._contexts.get(model),
            trained_context_tokens=_whole(about.get(f"{architecture}.context_length")),
        )

    async def embed(self, model: str, inputs: Sequence[str], context_tokens: int, *, truncate: bool) -> Embedded:
        """Makes vectors; see `ChatEngine`. The server does not say how many texts it cut."""
        try:
            answer = await self._client.embed(
                model, list(inputs), truncate=truncate, options={"num_ctx": context_tokens}
            )
        except ResponseError as error:
            if error.status_code < 0:
                raise EngineFailed from None
            raise embedding_refused(error.status_code, str(error.error).encode()) from None
        except (json.JSONDecodeError, ValidationError):
            raise EngineFailed from None
        except (httpx.HTTPError, OSError):
            raise EngineUnavailable from None
        vectors = [packed(vector) for vector in answer.embeddings]
        return Embedded(vectors, answer.prompt_eval_count or 0, load_s=_seconds(answer.load_duration))

    async def close(self) -> None:
        """Closes the connections."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})
        await self._http.aclose()
        await self._client.close()

    async def _learn_control_tokens(self, models: Sequence[str]) -> None:
        """Asks for the control tokens of models; those of which nothing is told now are asked for again later."""
        for model in models:
            try:
                self._control_tokens[model] = await self._ask_control_tokens(model)
            except (httpx.HTTPError, ValueError):
                log.warning("control_tokens_unknown", extra={"model": model})

    async def _ask_control_tokens(self, model: str) -> ControlTokens:
        """The control tokens of a model's vocabulary and of its template; all that are well known if it has none.

        Raises:
            httpx.HTTPError: the server does not say.
            ValueError: it says something else.
        """
        response = await self._http.post("/api/show", json={"model": model, "verbose": True})
        if response.is_client_error:
            return self._well_known
        shown = await asyncio.to_thread(_Shown.model_validate_json, response.raise_for_status().content)
        self._templates[model] = shown.template
        vocabulary = shown.model_info
        if not vocabulary.tokens or len(vocabulary.tokens) != len(vocabulary.types):
            return self._well_known
        return ControlTokens(special_tokens(vocabulary.tokens, vocabulary.types) | tokens_in(shown.template))

    async def _ask(
        self, request: ChatRequest, continuation: Continuation | None, context: int
    ) -> AsyncIterator[Answer]:
        options = _options(request, continuation, context)
        output = request.output_format
        think = _think(request.thinking)
        shape: Any = {"json_object": "json", "json_schema": output.json_schema or {}}.get(output.kind)
        if request.mode == "completion":
            prompt = request.prompt + (continuation.text if continuation else "")
            return await self._client.generate(
                request.model, prompt, stream=True, raw=True, options=options, format=shape, think=think
            )
        messages = [_message(message) for message in request.messages]
        if continuation:
            start = messages.pop() if messages and messages[-1]["role"] == "assistant" else {"content": ""}
            said = {"content": start["content"] + continuation.text, "thinking": continuation.thinking}
            messages.append({"role": "assistant", **said})
        tools: Any = None
        if request.tool_choice != "none":
            tools = [
                {
                    "type": "function",
                    "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
                }
                for tool in request.tools
            ]
        return await self._client.chat(
            request.model, messages, tools=tools, stream=True, options=options, format=shape, think=think
        )


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _options(request: ChatRequest, continuation: Continuation | None, context: int) -> dict[str, Any]:
    said = continuation.tokens if continuation else 0
    sampling = given(within_context(request.sampling, context), NAMES)
    return sampling | {"num_predict": request.max_output_tokens - said, "num_ctx": context}


def _think(thinking: Thinking) -> bool | Literal["low", "medium", "high"] | None:
    """Whether the model is to reason; the engine knows no bound in tokens, and no effort below low."""
    if thinking.enabled is False or thinking.effort is None:
        return thinking.enabled
    return "low" if thinking.effort == "minimal" else thinking.effort


def _message(message: ChatMessage) -> dict[str, Any]:
    written: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.images:
        written["images"] = [b64decode(image.data) for image in message.images]
    if message.role == "tool" and message.name:
        written["tool_name"] = message.name
    if message.tool_calls:
        written["tool_calls"] = [
            {"function": {"name": call.name, "arguments": _arguments(call.arguments)}} for call in message.tool_calls
        ]
    return written


def _arguments(text: str) -> dict[str, Any]:
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return arguments if isinstance(arguments, dict) else {}


def _words(answer: Answer, calls: list[ToolCall]) -> tuple[str, str]:
    """The text and the thinking of one answer; its tool calls are collected."""
    if isinstance(answer, GenerateResponse):
        return answer.response or "", answer.thinking or ""
    message = answer.message
    for call in message.tool_calls or ():
        arguments = json.dumps(dict(call.function.arguments))
        calls.append(new_call(call.function.name, arguments))
    return message.content or "", message.thinking or ""


def _last(answer: Answer, text: str, thinking: str, calls: list[ToolCall], said: Continuation) -> Chunk:
    finish: Finish = "length" if answer.done_reason == "length" else "stop"
    prompt_tokens = answer.prompt_eval_count
    if prompt_tokens is not None:
        prompt_tokens = max(0, prompt_tokens - said.tokens)
    return Chunk(
        text,
        thinking,
        tokens=1 if text or thinking else 0,
        thinking_tokens=1 if thinking and not text else 0,
        tool_calls=tuple(calls),
        finish="tool_calls" if calls and finish != "length" else finish,
        prompt_tokens=prompt_tokens,
        completion_tokens=answer.eval_count,
        durations=PhaseDurations(
            load_s=_seconds(answer.load_duration),
            prompt_s=_seconds(answer.prompt_eval_duration),
            generate_s=_seconds(answer.eval_duration),
        ),
    )


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / NANOSECONDS_PER_S


def _length(request: ChatRequest) -> int:
    if request.mode == "completion":
        return len(request.prompt)
    return sum(len(message.content) for message in request.messages)

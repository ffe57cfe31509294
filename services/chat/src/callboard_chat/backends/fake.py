"""An engine without a model, for tests and for trying an installation: a fixed reply, and faults on demand."""

import asyncio
import json
import math
import re
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any
from zlib import crc32

from callboard_chat.domain.control_tokens import ControlTokens
from callboard_chat.domain.embedding import InputTooLong
from callboard_chat.domain.front_cut import CHARACTER, LINE, fitted
from callboard_chat.domain.models import ContextExceeded
from callboard_chat.domain.ports import Chunk, Continuation, Embedded, Finish, PromptTokens
from callboard_chat.domain.prompt_formats import OwnTurns, fallback_turns
from callboard_chat.domain.tool_calls import is_forced, new_call, offered_tools
from callboard_contracts.chat import ChatRequest, Sampling, ToolCall
from callboard_contracts.embedding import packed
from callboard_contracts.prompt_size import context_of, reply_within
from callboard_contracts.tokens import DescribeModelReply
from callboard_contracts.workers import Ability
from callboard_worker.engine import EngineFailed, EngineUnavailable

TEMPLATE = "<|im_start|>{role}\n{content}<|im_end|>\n"
MAX_WORDS = 100_000
"""So many different words are remembered, to be told by their number."""
_OBJECT = {"type": "object"}
_WORD = re.compile(r"\s*\S+(?:\s+\Z)?")
_CONTROL_TOKENS = ControlTokens()
WORDS = ("Once ", "upon ", "a ", "time, ", "a ", "fake ", "engine ", "spoke ", "these ", "twelve ", "words. ", "End.")


@dataclass
class FakeScript:
    """What the fake engine does; times are in seconds, and counts run down by one with each reply."""

    tokens: tuple[str, ...] = WORDS
    thinking: tuple[str, ...] = ()
    load_s: float = 0.0
    first_delay_s: float = 0.0
    token_delay_s: float = 0.0
    unavailable_times: int = 0
    retry_after_s: float | None = None
    break_at: int | None = None
    """The engine goes away before this token."""
    break_times: int = 1_000_000
    fail_at: int | None = None
    """The engine reports an error instead of this token."""
    hang_at: int | None = None
    """The engine falls silent before this token."""
    context_tokens: int = 1_000_000
    caches_all: bool = False
    """The engine says that it had each whole prompt in its cache."""
    ignores_prefill: bool = False
    """The engine begins its reply again whatever was said of it."""
    tool_calls: tuple[ToolCall, ...] = ()
    """What the engine calls where tools are offered; left out, what it is made to call, with made-up arguments."""
    prompt_tokens: int | None = None
    """How long the engine says that any prompt is, with its first token; left out, it counts the words at the end."""
    dimensions: int = 16
    """How many numbers a vector has."""
    embed_delay_s: float = 0.0
    """How long the engine takes for some texts."""
    fail_text: str | None = None
    """The engine reports an error where it is to embed this text."""
    hang_text: str | None = None
    """The engine falls silent where it is to embed this text."""


@dataclass
class FakeState:
    """What the fake engine was asked and whether it still works."""

    requests: list[tuple[ChatRequest, Continuation | None]] = field(default_factory=list)
    embedded: list[str] = field(default_factory=list[str])
    active: int = 0
    loaded: bool = False
    closed: bool = False


class FakeEngine:
    """Says its script's tokens, one at a time; prompts count by their words, and every setting is welcome.

    A word is a token, with the blanks before it, and its number is its checksum.
    """

    abilities: frozenset[Ability] = frozenset(
        {
            "completion",
            "chat",
            "tools",
            "json_schema",
            "grammar",
            "images",
            "thinking",
            "logprobs",
            "prefill",
            "tokenize",
            "embedding",
        }
    )
    sampling = frozenset(Sampling.model_fields)
    in_process = True
    honours_prefill = False

    def __init__(self, script: FakeScript | None = None) -> None:
        self.script = script or FakeScript()
        self.state = FakeState()
        self._words: dict[int, str] = {}

    async def load(self) -> None:
        """Takes the script's time."""
        await asyncio.sleep(self.script.load_s)
        self.state.loaded = True

    async def ready(self) -> str | None:
        """Ready once loaded, and while it is not to be unavailable."""
        if not self.state.loaded:
            return "engine: not loaded"
        return "engine: unavailable" if self.script.unavailable_times else None

    def broken(self) -> str | None:
        """Never."""
        return None

    async def stream(
        self, request: ChatRequest, continuation: Continuation | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """Streams one reply; see `ChatEngine`."""
        script = self.script
        self.state.requests.append((request, continuation))
        if script.unavailable_times:
            script.unavailable_times -= 1
            raise EngineUnavailable("scripted", script.retry_after_s)
        read, output_tokens = self._read(request)
        words = len(read)
        if words > script.context_tokens:
            raise ContextExceeded(request, script.context_tokens, words)
        said = continuation or Continuation()
        limit = max(0, output_tokens - said.tokens)
        if script.ignores_prefill:
            said = Continuation()
        thinking = [
            Chunk(thinking=text, tokens=1, thinking_tokens=1) for text in _after(script.thinking, said.thinking)
        ]
        spoken = () if is_forced(request) else _spoken(script, said)
        chunks = [*(thinking if not said.text else ()), *spoken]
        self.state.active += 1
        try:
            await asyncio.sleep(script.first_delay_s)
            for n, chunk in enumerate(chunks[:limit]):
                await self._faults(n)
                chunk.prompt_tokens = script.prompt_tokens
                yield chunk
                if script.token_delay_s:
                    await asyncio.sleep(script.token_delay_s)
            made = min(limit, len(chunks))
            counted = words if script.prompt_tokens is None else script.prompt_tokens
            finish: Finish = "length" if limit < len(chunks) else "stop"
            calls = _calls(script, request) if finish == "stop" else ()
            cached = counted if script.caches_all else None
            yield Chunk(
                tool_calls=calls,
                finish="tool_calls" if calls else finish,
                prompt_tokens=counted,
                cached_prompt_tokens=cached,
                completion_tokens=made,
            )
        finally:
            self.state.active -= 1

    def broken_up(self, request: ChatRequest) -> ChatRequest:
        """Breaks up all control tokens that are well known."""
        return _CONTROL_TOKENS.broken_up(request)

    def own_turns(self, model: str) -> OwnTurns:
        """ChatML's."""
        return OwnTurns(fallback_turns(TEMPLATE).texts)

    async def tokenize(self, request: ChatRequest, *, special: bool = True) -> PromptTokens:
        """The words of a prompt; there is nothing special."""
        tokens = self._read(request)[0] if special else self._numbers(request.prompt)
        return PromptTokens(tuple(tokens), await self.detokenize(request.model, tokens))

    async def detokenize(self, model: str, ids: Sequence[int], *, special: bool = True) -> str:
        """The words of these numbers, as far as they were seen."""
        return "".join(self._words.get(token, "\ufffd") for token in ids)

    async def describe(self, model: str) -> DescribeModelReply:
        """Tells made-up facts."""
        return DescribeModelReply(
            chat_template=TEMPLATE,
            architecture="fake",
            parameters=len(WORDS),
            quantization="F32",
            context_tokens=self.script.context_tokens,
        )

    async def embed(self, model: str, inputs: Sequence[str], context_tokens: int, *, truncate: bool) -> Embedded:
        """Makes vectors of the words' hashes, so that texts with the same words are near; see `ChatEngine`."""
        del model
        script = self.script
        if script.unavailable_times:
            script.unavailable_times -= 1
            raise EngineUnavailable("scripted", script.retry_after_s)
        words = [text.split() for text in inputs]
        most = min(context_tokens, script.context_tokens)
        too_long = [index for index, found in enumerate(words) if len(found) > most]
        if too_long and not truncate:
            raise InputTooLong(too_long[0], most, len(words[too_long[0]]))
        if script.fail_text in inputs:
            raise EngineFailed("scripted")
        self.state.active += 1
        try:
            await asyncio.sleep(script.embed_delay_s)
            if script.hang_text in inputs:
                await asyncio.Event().wait()
        finally:
            self.state.active -= 1
        self.state.embedded += inputs
        words = [found[:most] for found in words]
        vectors = [_vector(found, script.dimensions) for found in words]
        return Embedded(vectors, sum(map(len, words)), len(too_long))

    async def close(self) -> None:
        """Notes that it was closed."""
        self.state.closed = True

    def _read(self, request: ChatRequest) -> tuple[list[int], int]:
        """The words that are read of a request, and how long its reply may become."""
        if request.mode == "chat":
            texts = (message.content for message in request.messages)
            return [token for text in texts for token in self._numbers(text)], request.max_output_tokens
        memory, prompt = self._numbers(request.memory), self._numbers(request.prompt)
        context = context_of(request, self.script.context_tokens)
        if request.overflow == "refuse":
            if request.context_tokens is not None and len(memory) + len(prompt) >= context:
                raise ContextExceeded(request, context, len(memory) + len(prompt))
            return memory + prompt, request.max_output_tokens
        output_tokens = reply_within(request.max_output_tokens, context)
        memory, prompt = fitted(memory, prompt, context - output_tokens, self._border)
        return memory + prompt, output_tokens

    def _numbers(self, text: str) -> list[int]:
        found: list[int] = []
        for word in _WORD.findall(text):
            found.append(number := crc32(word.encode("utf-8", "surrogatepass")))
            if len(self._words) < MAX_WORDS:
                self._words[number] = word
        return found

    def _border(self, tokens: list[int], at: int) -> int:
        return LINE if "\n" in self._words.get(tokens[at], "") else CHARACTER

    async def _faults(self, n: int) -> None:
        script = self.script
        if n == script.break_at and script.break_times > 0:
            script.break_times -= 1
            raise EngineUnavailable("scripted")
        if n == script.fail_at:
            raise EngineFailed("scripted")
        if n == script.hang_at:
            await asyncio.Event().wait()


def _spoken(script: FakeScript, said: Continuation) -> Iterable[Chunk]:
    return [Chunk(text=text, tokens=1) for text in _after(script.tokens, said.text)]


def _after(tokens: tuple[str, ...], said: str) -> tuple[str, ...]:
    """The tokens that follow what was said; a text that the script does not know is followed by everything."""
    so_far = ""
    for n, token in enumerate(tokens):
        if so_far == said:
            return tokens[n:]
        so_far += token
    return () if so_far == said else tokens


def _calls(script: FakeScript, request: ChatRequest) -> tuple[ToolCall, ...]:
    tools = offered_tools(request)
    if script.tool_calls and tools:
        return script.tool_calls
    if not is_forced(request):
        return ()
    return (new_call(tools[0].name, json.dumps(_example(tools[0].parameters or _OBJECT))),)


def _example(schema: Any) -> Any:
    """A value that satisfies a simple schema."""
    if not isinstance(schema, dict):
        return None
    if "const" in schema or "enum" in schema:
        return schema.get("const", (schema.get("enum") or [None])[0])
    match schema.get("type", "object"):
        case "object":
            properties = schema.get("properties", {})
            return {name: _example(properties.get(name, {"type": "string"})) for name in schema.get("required", ())}
        case "array":
            return [_example(schema.get("items", {"type": "string"}))] * int(schema.get("minItems", 0))
        case "integer" | "number":
            return schema.get("minimum", 0)
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return "x" * max(1, int(schema.get("minLength", 1)))


def _vector(words: Sequence[str], dimensions: int) -> bytes:
    """A vector of length 1, the sum of one for each word."""
    values = [0.0] * dimensions
    for word in words or ("",):
        for n in range(dimensions):
            digest = blake2b(word.encode(), key=n.to_bytes(4, "little"), digest_size=4).digest()
            values[n] += int.from_bytes(digest, "little") / 2**31 - 1
    length = math.hypot(*values) or 1.0
    return packed(value / length for value in values)

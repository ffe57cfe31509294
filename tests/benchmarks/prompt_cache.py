"""How long conversations wait for their first token when there are more of them than slots."""

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass

from callboard_chat.backends.llamacpp import LlamaCppEngine
from callboard_chat.settings import DEFAULT_MODEL_FILE
from callboard_contracts.chat import ChatMessage, ChatRequest, Sampling
from callboard_contracts.config import SiteSection
from callboard_kit.model_files import model_path
from tests.benchmarks.figures import Figure, percentile

CONVERSATIONS = 6
SLOTS = 4
CONTEXT_TOKENS = 1024
CACHE_MIB = 512
REPLY_TOKENS = 8
LORE_WORDS = 170
NOTES = f"""\
The embedded llama.cpp with SmolLM2-135M and {SLOTS} slots. {CONVERSATIONS} conversations take turns, one at a time, so
each has lost its slot when it comes again. Two engines, without a prompt cache and with one of {CACHE_MIB} MiB,
alternate turn by turn.
"""


@dataclass(slots=True)
class Measured:
    """What the turns after each conversation's first showed."""

    first_token_ms: list[float]
    cached_tokens: list[int]
    prompt_tokens: list[int]


def measure(*, quick: bool) -> list[Figure]:
    """Alternates two engines over the same turns."""
    return asyncio.run(_measure(rounds=3 if quick else 6))


async def _measure(rounds: int) -> list[Figure]:
    engines = [_engine(0), _engine(CACHE_MIB)]
    measured = [Measured([], [], []) for _ in engines]
    histories: list[dict[int, list[ChatMessage]]] = [{n: [_opening(n)] for n in range(CONVERSATIONS)} for _ in engines]
    try:
        for engine in engines:
            await engine.load()
        for turn in range(rounds):
            for n in range(CONVERSATIONS):
                for engine, found, history in zip(engines, measured, histories, strict=True):
                    await _take_turn(engine, found if turn else None, history[n])
    finally:
        for engine in engines:
            await engine.close()
    without, cached = measured
    share = sum(cached.cached_tokens) / sum(cached.prompt_tokens)
    return [
        Figure("tokens of a prompt", percentile([float(tokens) for tokens in cached.prompt_tokens], 0.5), ""),
        Figure("first token without a prompt cache, p50", percentile(without.first_token_ms, 0.5), "ms"),
        Figure("first token with it, p50", percentile(cached.first_token_ms, 0.5), "ms"),
        Figure("prompt tokens that were cached", share * 100, "%"),
    ]


def _engine(cache_mib: int) -> LlamaCppEngine:
    model = model_path(SiteSection(), DEFAULT_MODEL_FILE)
    return LlamaCppEngine(model, SLOTS, CONTEXT_TOKENS, None, prompt_cache_mib=cache_mib)


def _opening(n: int) -> ChatMessage:
    lore = " ".join(f"{('owl', 'bear', 'wolf', 'crow', 'wren', 'lynx')[n]}{word % 7}" for word in range(LORE_WORDS))
    return ChatMessage(role="system", content=f"You are character {n}. You know these names: {lore}")


async def _take_turn(engine: LlamaCppEngine, measured: Measured | None, messages: list[ChatMessage]) -> None:
    messages.append(ChatMessage(role="user", content="What happens next?"))
    request = ChatRequest(
        model="bench",
        messages=tuple(messages),
        max_output_tokens=REPLY_TOKENS,
        sampling=Sampling(temperature=0),
    )
    asked_at = time.perf_counter()
    first_at = 0.0
    text = ""
    async with aclosing(engine.stream(request)) as chunks:
        async for chunk in chunks:
            if chunk.text and not text:
                first_at = time.perf_counter()
            text += chunk.text
            if chunk.finish is not None and measured is not None:
                measured.first_token_ms.append((first_at - asked_at) * 1000)
                measured.cached_tokens.append(chunk.cached_prompt_tokens or 0)
                measured.prompt_tokens.append(chunk.prompt_tokens or 0)
    messages.append(ChatMessage(role="assistant", content=text))

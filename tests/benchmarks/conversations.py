"""How long conversations wait for their first token at turn 7: through Callboard, and from the engine alone."""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp

from callboard_chat.backends.llamacpp import LlamaCppEngine
from callboard_chat.settings import DEFAULT_MODEL_FILE
from callboard_cli.bench import chat
from callboard_cli.bench.samples import Sample
from callboard_cli.bench.target import Target
from callboard_contracts.chat import ChatMessage, ChatRequest, Sampling
from callboard_contracts.config import SiteSection
from callboard_kit.model_files import model_path
from tests.benchmarks.figures import Figure, percentile
from tests.support.deployment import Deployment

TURNS = 7
TOGETHER = 6
SLOTS = 4
CONTEXT_TOKENS = 1024
CACHE_MIB = 512
REPLY_TOKENS = 8
LORE_WORDS = 120
MODEL = "bench"
TIMES, PLUS_MS = 1.25, 30.0
Ask = Callable[[list[ChatMessage]], Awaitable[tuple[float, str]]]
"""Asks for a reply, and tells how long its first token took in seconds, and its text."""
NOTES = f"""\
The embedded llama.cpp with SmolLM2-135M, {SLOTS} slots and a prompt cache of {CACHE_MIB} MiB, once inside Callboard
and once alone. One conversation, and then {TOGETHER} that take turns, ask both alternately; what is shown is the wait
for the first token at turn {TURNS}. The bar is {TIMES:g} times the engine alone plus {PLUS_MS:g} ms.
"""


def measure(*, quick: bool) -> list[Figure]:
    """Alternates Callboard and the engine alone over the same turns."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_measure(Path(folder), rounds=2 if quick else 6))


async def _measure(folder: Path, rounds: int) -> list[Figure]:
    engine = LlamaCppEngine(
        model_path(SiteSection(), DEFAULT_MODEL_FILE), SLOTS, CONTEXT_TOKENS, None, prompt_cache_mib=CACHE_MIB
    )
    deployment = Deployment(folder / "deployment", _config())
    figures: list[Figure] = []
    try:
        await engine.load()
        await asyncio.to_thread(deployment.start, speakers=0)
        async with aiohttp.ClientSession() as session:
            target = Target(0, deployment.root_url(), session, timeout_s=60, model=MODEL)
            for name, together in (("one conversation", 1), (f"{TOGETHER} in turn", TOGETHER)):
                alone, through = await _conversations(engine, target, together, rounds)
                bar = percentile(alone, 0.5) * TIMES + PLUS_MS
                figures.append(Figure(f"{name}: the engine alone, p50", percentile(alone, 0.5), "ms"))
                figures.append(Figure(f"{name}: through Callboard, p50", percentile(through, 0.5), "ms", bar))
        await asyncio.to_thread(deployment.stop)
    finally:
        await engine.close()
        await asyncio.to_thread(deployment.abandon)
    return figures


async def _conversations(
    engine: LlamaCppEngine, target: Target, together: int, rounds: int
) -> tuple[list[float], list[float]]:
    """The waits of the last turns, alone and through Callboard, in milliseconds."""
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        # Each round has conversations of its own, for each side.
        histories = [[[_opening(f"{number}.{n}.{side}")] for n in range(together)] for side in range(2)]
        for turn in range(TURNS):
            for n in range(together):
                for side, ask in enumerate((_from_engine(engine), _from_callboard(target))):
                    wait_ms = await _turn(ask, histories[side][n])
                    if turn == TURNS - 1:
                        found[side].append(wait_ms)
    return found


async def _turn(ask: Ask, messages: list[ChatMessage]) -> float:
    messages.append(ChatMessage(role="user", content="What happens next?"))
    wait_s, text = await ask(messages)
    messages.append(ChatMessage(role="assistant", content=text))
    return wait_s * 1000


def _from_engine(engine: LlamaCppEngine) -> Ask:
    async def ask(messages: list[ChatMessage]) -> tuple[float, str]:
        request = ChatRequest(
            model=MODEL, messages=tuple(messages), max_output_tokens=REPLY_TOKENS, sampling=Sampling(temperature=0)
        )
        asked_at, first_at, text = time.monotonic(), 0.0, ""
        async with aclosing(engine.stream(request)) as chunks:
            async for chunk in chunks:
                if chunk.text:
                    first_at = first_at or time.monotonic()
                    text += chunk.text
        return first_at - asked_at, text

    return ask


def _from_callboard(target: Target) -> Ask:
    async def ask(messages: list[ChatMessage]) -> tuple[float, str]:
        sample = Sample("conversations", 0, time.monotonic())
        said = [{"role": str(one.role), "content": str(one.content)} for one in messages]
        text = await chat.ask(target, sample, said, REPLY_TOKENS, temperature=0)
        assert sample.to_first_s is not None
        return sample.to_first_s, text

    return ask


def _opening(mark: str) -> ChatMessage:
    names = ("owl", "bear", "wolf", "crow", "wren", "lynx", "hare")
    lore = " ".join(names[(word + len(mark)) % 7] for word in range(LORE_WORDS))
    return ChatMessage(role="system", content=f"You are character {mark}. You know these names: {lore}")


def _config() -> dict[str, Any]:
    pool = {
        "backend": "llamacpp",
        "model_file": DEFAULT_MODEL_FILE,
        "slots": SLOTS,
        "prompt_cache_mib": CACHE_MIB,
    }
    model = {"pool": "main", "context_tokens": CONTEXT_TOKENS, "max_output_tokens": 64}
    return {"chat": {"pools": {"main": pool}, "models": {MODEL: model}}, "quota": {"reap_interval_s": 1}}

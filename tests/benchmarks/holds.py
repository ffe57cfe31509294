"""How many ordinary chats at once fit a key that has little left, of those that its tokens would pay for."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import openai
import uvloop

from tests.benchmarks.figures import Figure
from tests.support.clients import connected
from tests.support.deployment import Deployment
from tests.support.stub_chat import StubChat, numbered

MODEL = "owl"
REPLY_TOKENS = 300
LEFT_TOKENS = (5_000, 20_000, 80_000)
WARM_UP = 20
"""Chats from which the worker learns how long prompts and replies of the model are."""
EXCESS = 2
"""So many times the chats that the tokens pay for are asked for at once."""
SHARE = 0.7
MESSAGES = [
    {"role": "system", "content": "You are the old owl of the theatre, and you answer in a few kind sentences. " * 4},
    {"role": "user", "content": "Who played here when the house was new, and what did the people say about it? " * 6},
    {"role": "assistant", "content": "The first company came from the coast, and they stayed for a winter. " * 12},
    {"role": "user", "content": "And what became of them?"},
]
NOTES = f"""\
A key with so many tokens left for the day is asked for {EXCESS} times as many chats at once as these tokens pay for:
prompts of {sum(len(one["content"]) for one in MESSAGES):,} characters without a limit of the reply, which is
{REPLY_TOKENS} tokens long and takes about three seconds. What counts is how many are answered whole, as a part of those
that the tokens pay for; the others are refused at once or cut, and no key is ever charged more than it has.
"""


def measure(folder: Path, *, quick: bool) -> list[Figure]:
    """Asks with one key for each number of tokens."""
    sizes = LEFT_TOKENS[:2] if quick else LEFT_TOKENS
    tiers: dict[str, Any] = {f"left-{size}": {"tokens_per_day": size} for size in sizes}
    engine = StubChat()
    engine.start()
    pools = {"main": {"backend": "openai", "url": engine.url, "slots": 1000, "max_queued_per_tenant": 2000}}
    config = {
        "chat": {"pools": pools, "models": {MODEL: {"pool": "main"}}},
        "quota": {"tiers": {"anonymous": {}, "standard": {}, **tiers}},
    }
    deployment = Deployment(folder / "holds", config, log_level="info")
    try:
        deployment.start(speakers=0)
        engine.plays(numbered(REPLY_TOKENS, delay_s=0.0))
        uvloop.run(_ask(deployment, "standard", WARM_UP))
        used = uvloop.run(_tokens_of_one(deployment))
        engine.plays(numbered(REPLY_TOKENS, delay_s=0.01))
        figures: list[Figure] = []
        for size in sizes:
            paid_for = size // used
            ends = uvloop.run(_ask(deployment, f"left-{size}", EXCESS * paid_for))
            name = f"chats answered whole at once with {size:,} tokens left"
            figures.append(Figure(name, ends["stop"], "chats"))
            figures.append(Figure("of those that they pay for", ends["stop"] / paid_for, "times", SHARE, "higher"))
            figures.append(Figure("refused at once", ends["refused"], "chats"))
            figures.append(Figure("cut in the middle", sum(ends.values()) - ends["stop"] - ends["refused"], "chats"))
            deployment.wait_idle(60)
        deployment.stop()
    finally:
        deployment.abandon()
        engine.close()
    return figures


async def _ask(deployment: Deployment, tier: str, count: int) -> Counter[str]:
    """Asks for chats at once and returns how they ended."""
    key = await asyncio.to_thread(deployment.create_key, tier)
    async with connected(deployment, key) as client:

        async def one() -> str:
            try:
                reply = await client.chat.completions.create(model=MODEL, messages=MESSAGES)  # pyright: ignore[reportArgumentType]
            except openai.RateLimitError:
                return "refused"
            return reply.choices[0].finish_reason

        return Counter(await asyncio.gather(*(one() for _ in range(count))))


async def _tokens_of_one(deployment: Deployment) -> int:
    event = (await deployment.usage_of(WARM_UP))[-1]
    return event.work.prompt_tokens + event.work.completion_tokens

"""The kinds of work: what one request, conversation or visit to a room does."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import aiohttp

from callboard_cli.bench import chat, rooms, speech
from callboard_cli.bench.load import Load
from callboard_cli.bench.plan import INSTRUCTIONS, Plan
from callboard_cli.bench.samples import FailedRequest, Sample, Work
from callboard_cli.bench.target import failure_of

CHARACTERS_PER_TOKEN = 3
"""Rather too few, so that a cap on tokens is not crossed by what is sent."""
Item = Callable[[Load, int, float, int], Awaitable[None]]
"""One item of a work by its number, when it is due, and how many turns it has."""


def item_of(work: Work) -> Item:
    """What one item of a work does."""
    return {"chat": _chat, "speech": _speech, "conversations": _conversation, "rooms": _room}[work]


async def _chat(load: Load, number: int, due_s: float, _turns: int) -> None:
    messages = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": load.plan.question(number)}]
    await _ask(load, due_s, messages, turn=1)


async def _speech(load: Load, number: int, due_s: float, _turns: int) -> None:
    # The number keeps caches of finished speech out of it.
    text = f"{load.plan.text} {number + 1}."

    async def speak(sample: Sample) -> None:
        await speech.speak(load.target, sample, text)

    await load.request(due_s, 0, speak)


async def _conversation(load: Load, number: int, due_s: float, turns: int) -> None:
    plan = load.plan
    messages = [{"role": "system", "content": f"{INSTRUCTIONS} This is conversation {plan.seed}-{number}."}]
    pauses = random.Random(f"{plan.seed} {number}")
    for turn in range(1, turns + 1):
        messages.append({"role": "user", "content": plan.question(number + turn)})
        reply = await _ask(load, due_s, messages, turn)
        if reply is None:
            return
        messages.append({"role": "assistant", "content": reply})
        if turn < turns:
            due_s = await _thought(load, plan, pauses)


async def _room(load: Load, number: int, due_s: float, turns: int) -> None:
    plan = load.plan
    pauses = random.Random(f"{plan.seed} {number}")
    if not load.goes_on:
        return
    began_s = time.monotonic()
    try:
        async with rooms.visited(load.target, plan.listeners) as room:
            for turn in range(1, turns + 1):

                async def say(sample: Sample, turn: int = turn) -> None:
                    await room.say(sample, plan.question(number + turn), INSTRUCTIONS, plan.max_tokens)

                if turn == 1:
                    # Opening the room is no part of the first turn, but the wait for a place is.
                    due_s += time.monotonic() - began_s
                sample = await load.request(due_s, plan.max_tokens, say, turn)
                if sample is None or sample.failure is not None:
                    return
                if turn < turns:
                    due_s = await _thought(load, plan, pauses)
    except FailedRequest as error:
        load.note_failure(due_s, error.failure, error.retry_after_s)
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        load.note_failure(due_s, failure_of(error), None)


async def _ask(load: Load, due_s: float, messages: list[dict[str, str]], turn: int) -> str | None:
    """One streamed reply; None when it failed or the measurement is over."""
    reply = ""

    async def ask(sample: Sample) -> None:
        nonlocal reply
        reply = await chat.ask(load.target, sample, messages, load.plan.max_tokens, load.plan.temperature)

    read = sum(len(message["content"]) for message in messages) // CHARACTERS_PER_TOKEN
    sample = await load.request(due_s, read + load.plan.max_tokens, ask, turn)
    return None if sample is None or sample.failure is not None else reply


async def _thought(load: Load, plan: Plan, pauses: random.Random) -> float:
    """Waits as long as somebody thinks, and returns when the next words are due."""
    due_s = time.monotonic() + plan.think_s * pauses.uniform(0.5, 1.5)
    await asyncio.sleep(min(due_s - time.monotonic(), load.allowance.left_s))
    return due_s

"""Characters against real processes: memories that stay apart and in order while the processes die."""

import asyncio
import json
import random
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.conftest import MakeBoard
from tests.support.characters import V2, card_text, picture
from tests.support.deployment import Deployment, eventually
from tests.support.stub_chat import StubChat
from tests.support.stub_openai import Script

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

OVER = {
    "edge": {"request_timeout_s": 60},
    "quota": {"tiers": {"anonymous": {"tokens_per_day": 10_000_000, "tokens_per_month": 10_000_000}}},
}
CHARACTERS = ("mira", "mo")
SPEAKERS = ("Ada", "Bo")
MESSAGES = 40
REMEMBERED_S = 60.0
PROMPT = "You are {name} and talk to {character}."


def put(deployment: Deployment, folder: Path, **settings: Any) -> None:
    """Writes both characters by the command line."""
    files = [folder / f"{name}.json" for name in CHARACTERS]
    for name, file in zip(CHARACTERS, files, strict=True):
        file.write_text(json.dumps({"display_name": name.title(), "prompt": PROMPT, **settings}), encoding="utf-8")
    deployment.command("characters", "put", *map(str, files))


def line(character: str, speaker: str, n: int) -> str:
    return f"{character} {speaker} line {n}"


def expected(character: str, speaker: str) -> list[tuple[str, str, str]]:
    """The whole memory of a pair."""
    return [
        said
        for n in range(MESSAGES)
        for said in (
            ("user", speaker, line(character, speaker, n)),
            ("assistant", character.title(), f"re: {line(character, speaker, n)}"),
        )
    ]


async def listed(deployment: Deployment, edge: int, session: aiohttp.ClientSession) -> set[str]:
    async with session.get(f"{deployment.root_url(edge)}/v1/characters") as reply:
        return {one["name"] for one in (await reply.json())["characters"]}


async def known(deployment: Deployment, session: aiohttp.ClientSession, names: set[str]) -> None:
    """Waits until every edge knows these characters and no others."""
    async with asyncio.timeout(20):
        for edge in range(len(deployment.edges)):
            while await listed(deployment, edge, session) != names:
                await asyncio.sleep(0.05)


async def memory(
    deployment: Deployment, session: aiohttp.ClientSession, character: str, speaker: str, key: str = ""
) -> list[tuple[str, str, str]]:
    url = f"{deployment.root_url()}/v1/characters/{character}/memory?speaker={speaker}"
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with asyncio.timeout(REMEMBERED_S):
        while True:
            async with session.get(url, headers=headers) as reply:
                if reply.status == 200:
                    found = (await reply.json())["messages"]
                    return [(one["role"], one["speaker"], one["text"]) for one in found]
                # The bus is coming back.
                assert reply.status == 503, await reply.text()
            await asyncio.sleep(0.2)


async def streamed(session: aiohttp.ClientSession, root: str, character: str, speaker: str, n: int) -> str | None:
    """The reply to a line by OpenAI's stream; None where it broke off."""
    body = {
        "model": f"character/{character}",
        "messages": [{"role": "user", "content": line(character, speaker, n)}],
        "user": speaker,
        "stream": True,
    }
    headers = {"Idempotency-Key": f"m{n}"}
    async with session.post(f"{root}/v1/chat/completions", json=body, headers=headers) as reply:
        if reply.status != 200:
            assert reply.status in {429, 502, 503, 504}, await reply.text()
            return None
        blocks = (await reply.read()).decode().split("\n\n")
    if "data: [DONE]" not in blocks:
        return None
    events = [json.loads(one.removeprefix("data: ")) for one in blocks if one.startswith("data: {")]
    if any("error" in one for one in events):
        return None
    return "".join(choice["delta"].get("content") or "" for one in events for choice in one["choices"])


async def whole(session: aiohttp.ClientSession, root: str, character: str, speaker: str, n: int) -> str | None:
    """The reply to a line in one piece; None where there was none."""
    body = {"speaker": speaker, "text": line(character, speaker, n), "message_id": f"m{n}"}
    async with session.post(f"{root}/v1/characters/{character}/messages", json=body) as reply:
        if reply.status != 200:
            assert reply.status in {429, 502, 503, 504}, await reply.text()
            return None
        return (await reply.json())["text"]


async def talk(deployment: Deployment, session: aiohttp.ClientSession, character: str, speaker: str) -> None:
    """Says all lines of a pair, each until it is answered, to whichever edge lives."""
    chance = random.Random(f"{character} {speaker}")
    for n in range(MESSAGES):
        ask = streamed if n % 2 else whole
        async with asyncio.timeout(150):
            while True:
                edges = [number for number, edge in enumerate(deployment.edges) if edge.alive]
                root = deployment.root_url(chance.choice(edges))
                try:
                    answer = await ask(session, root, character, speaker, n)
                except (aiohttp.ClientError, TimeoutError):
                    answer = None
                if answer is not None:
                    break
                await asyncio.sleep(0.1)
        assert answer.strip() == f"re: {line(character, speaker, n)}"


async def kill(deployment: Deployment) -> None:
    """Kills one process of each kind, one after the other."""
    for service, restart in (
        (deployment.rooms[0], deployment.add_rooms),
        (deployment.chats[0], deployment.add_chat),
        (deployment.edges[1], None),
        (deployment.rooms[1], deployment.add_rooms),
    ):
        await asyncio.sleep(0.7)
        await asyncio.to_thread(service.running.kill)
        if restart is not None:
            await asyncio.to_thread(restart)


async def test_memories_stay_apart_and_in_order_while_processes_die(
    make_deployment: MakeBoard, chat_engine: StubChat, tmp_path: Path
) -> None:
    """Two characters and two speakers exchange 40 messages each, all at once."""
    deployment = await asyncio.to_thread(make_deployment, OVER, rooms=2, edges=2, chats=2, speakers=0)
    await asyncio.to_thread(put, deployment, tmp_path, memory_messages=2 * MESSAGES)
    chat_engine.plays(Script(echoes=True, token_delay_s=0.01))
    pairs = [(character, speaker) for character in CHARACTERS for speaker in SPEAKERS]
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        await known(deployment, session, set(CHARACTERS))
        talks = [talk(deployment, session, *pair) for pair in pairs]
        await asyncio.gather(kill(deployment), *talks)
        # All of it outlives the bus.
        await asyncio.to_thread(deployment.nats.kill)
        await asyncio.to_thread(deployment.nats.start)
        await eventually(lambda: deployment.edges[0].ready_reason() is None, 20, "the edge is back on the bus")
        # A reply is remembered soon after its client has it.
        until = asyncio.get_running_loop().time() + REMEMBERED_S
        for pair in pairs:
            while (kept := await memory(deployment, session, *pair)) != expected(*pair):
                assert asyncio.get_running_loop().time() < until, kept
                await asyncio.sleep(0.2)
        # Another account's memory of the same speaker is another.
        key = await asyncio.to_thread(deployment.create_key, "standard")
        assert await memory(deployment, session, *pairs[0], key=key) == []
    for call in chat_engine.calls:
        system, *said = [one["content"] for one in call["messages"]]
        _you, _are, name, *_rest, speaker = system.removesuffix(".").split()
        begins = f"{name.lower()} {speaker} line "
        assert all(
            text.removeprefix("re: ").startswith(begins) or call["messages"][-1]["content"] == text for text in said
        )


@pytest.fixture
async def site(
    make_deployment: MakeBoard, chat_engine: StubChat, tmp_path: Path
) -> AsyncGenerator[tuple[Deployment, aiohttp.ClientSession]]:
    deployment = await asyncio.to_thread(make_deployment, OVER, rooms=1, speakers=0)
    await asyncio.to_thread(put, deployment, tmp_path)
    chat_engine.plays(Script(echoes=True, token_delay_s=0.05))
    async with aiohttp.ClientSession() as session:
        await known(deployment, session, set(CHARACTERS))
        yield deployment, session
    await asyncio.to_thread(deployment.wait_idle)
    await asyncio.to_thread(deployment.command, "usage", "verify")
    await asyncio.to_thread(deployment.stop)


async def test_leaving_forgetting_cards_and_backups(
    site: tuple[Deployment, aiohttp.ClientSession], chat_engine: StubChat, tmp_path: Path
) -> None:
    deployment, session = site
    root = deployment.root_url()
    # 25 messages are remembered by default, with the prefix first.
    for n in range(15):
        assert await whole(session, root, "mira", "Ada", n)
    sent = chat_engine.calls[-1]["messages"]
    assert sent[0] == {"role": "system", "content": "You are Mira and talk to Ada."}
    assert len(sent) <= 1 + 25 + 1
    assert len(await memory(deployment, session, "mira", "Ada")) <= 25
    # Who leaves in the middle of a reply has said nothing, and the engine is stopped.
    before = await memory(deployment, session, "mira", "Ada")
    body = {"speaker": "Ada", "text": " ".join(["word"] * 100), "stream": True}
    async with session.post(f"{root}/v1/characters/mira/messages", json=body) as reply:
        await reply.content.readany()
        await eventually(lambda: chat_engine.active == 1, 20, "the reply is being written")
    await eventually(lambda: chat_engine.active == 0, 20, "the engine is stopped")
    assert await whole(session, root, "mira", "Ada", 99)
    async with asyncio.timeout(REMEMBERED_S):
        while not (after := await memory(deployment, session, "mira", "Ada"))[-1][2].endswith("line 99"):
            await asyncio.sleep(0.1)
    assert not any("word word" in text for _role, _speaker, text in (*before, *after))
    assert after[-1][2] == f"re: {line('mira', 'Ada', 99)}"
    # A card comes in and goes out as it was.
    file = tmp_path / "card.png"
    await asyncio.to_thread(file.write_bytes, picture(card_text(V2)))
    await asyncio.to_thread(deployment.command, "characters", "import", str(file))
    await known(deployment, session, {*CHARACTERS, "mira-the-miller"})
    assert await whole(session, root, "mira-the-miller", "Ada", 0)
    assert json.loads(await asyncio.to_thread(deployment.command, "characters", "export", "mira-the-miller")) == V2
    # What is forgotten is gone, for the one speaker and with the character.
    await asyncio.to_thread(deployment.command, "characters", "forget", "mira", "--speaker", "Ada")
    assert await memory(deployment, session, "mira", "Ada") == []
    await asyncio.to_thread(deployment.command, "characters", "delete", "mira-the-miller")
    await known(deployment, session, set(CHARACTERS))
    assert "mira" in await asyncio.to_thread(deployment.command, "characters", "list")

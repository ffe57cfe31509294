"""Three bus servers that replicate, of which one dies under load."""

import asyncio
import itertools
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import openai
import pytest

from callboard_contracts.config import NatsSection
from callboard_contracts.streams import QUOTA
from callboard_kit.bus import Bus
from tests.support.clients import Reply, connected, script_text
from tests.support.cluster import Cluster
from tests.support.deployment import CHAT_POOL, Deployment, eventually, stub_config
from tests.support.processes import merged
from tests.support.stub_chat import StubChat, numbered
from tests.support.stub_speech import StubSpeech

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(400)]

REPLIES = 40
WORDS = 30
INTERVAL_S = 0.25
KILLED_AFTER = 12
"""So many requests have been made when the server dies; the others come while a new leader is elected, and after."""
SETTLED_S = 60.0


@pytest.fixture
async def clustered(tmp_path: Path, chat_engine: StubChat, speech_engine: StubSpeech) -> AsyncGenerator[Deployment]:
    """Two of each process that decides or works, on a cluster of three."""
    chat_engine.plays(numbered(WORDS, delay_s=0.05))
    own: dict[str, Any] = {"nats": {"replicas": 3}, "chat": {"pools": {CHAT_POOL: {"slots": 16}}}}
    config = merged(stub_config(chat_engine.url, speech_engine.url), own)
    deployment = Deployment(tmp_path / "deployment", config, clustered=True, forked=True)
    try:
        await asyncio.to_thread(deployment.start, chats=2, quotas=2)
        yield deployment
        await asyncio.to_thread(deployment.stop)
    finally:
        await asyncio.to_thread(deployment.abandon)


async def test_leader_killed_under_load_loses_and_refuses_nothing(
    clustered: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    key = await asyncio.to_thread(clustered.create_key, "standard")
    replies = [Reply() for _ in range(REPLIES)]
    spoken: list[int] = []
    errors: list[str] = []
    words_at: list[float] = []

    async def speak(client: openai.AsyncOpenAI) -> None:
        try:
            sound = await client.audio.speech.create(
                model="parrot", voice="tenor", input="Hello there, old owl.", response_format="wav"
            )
            spoken.append(len(sound.content))
        except openai.OpenAIError as error:
            errors.append(str(error))

    async def watch() -> None:
        """Notes when words arrive."""
        before = 0
        while True:
            words = sum(reply.words for reply in replies)
            if words != before:
                words_at.append(time.monotonic())
            before = words
            await asyncio.sleep(0.01)

    watching = asyncio.ensure_future(watch())
    killed_at = 0.0
    async with connected(clustered, key) as client, asyncio.TaskGroup() as group:
        for number, reply in enumerate(replies):
            group.create_task(reply.follow(client))
            if number % 4 == 0:
                group.create_task(speak(client))
            if number == KILLED_AFTER:
                await _kill_leader(clustered)
                killed_at = time.monotonic()
            await asyncio.sleep(INTERVAL_S)
    watching.cancel()

    # What waits for the new leader is late, not refused.
    assert [str(reply.error) for reply in replies if reply.error] + errors == []
    assert {reply.text for reply in replies} == {script_text(WORDS)}
    assert len(set(spoken)) == 1
    assert len(spoken) == REPLIES // 4
    gaps = [after - before for before, after in itertools.pairwise(words_at) if after > killed_at]
    with capsys.disabled():
        sys.stdout.write(f"\nno word of any reply came for {max(gaps):.1f} s after the leader was killed\n")

    await clustered.usage_of(REPLIES + len(spoken), timeout_s=SETTLED_S)
    await asyncio.to_thread(clustered.nats.start)
    await eventually(lambda: not clustered.left_over(), SETTLED_S, "all work is done and every hold has ended")
    events = await clustered.usage()
    assert len({event.request_id for event in events}) == len(events) == REPLIES + len(spoken)
    assert {event.work.completion_tokens for event in events if event.kind == "chat"} == {WORDS}
    per_reply = {event.work.prompt_tokens + event.work.completion_tokens for event in events if event.kind == "chat"}
    assert len(per_reply) == 1
    await asyncio.to_thread(clustered.command, "usage", "verify")
    for service in clustered.services:
        await asyncio.to_thread(service.wait_ready, SETTLED_S)


async def _kill_leader(deployment: Deployment) -> None:
    """Kills the server that leads the ledger's counters."""
    bus = await Bus.connect(NatsSection(url=deployment.nats.url), "test", lambda: None)
    try:
        leader = (await bus.api(f"STREAM.INFO.{QUOTA}", {}))["cluster"]["leader"]
    finally:
        await bus.close()
    assert isinstance(deployment.nats, Cluster)
    await asyncio.to_thread(deployment.nats.node(leader).kill)

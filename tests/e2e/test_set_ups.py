"""AI Talkmaster's ways of hosting as compose sets them up, with stubs for the engines elsewhere."""

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from tests.support.compose import compose
from tests.support.deployment import Deployment
from tests.support.lsl import LIST_BYTES, Script, Simulator, offers, query
from tests.support.processes import merged
from tests.support.stub_chat import StubChat
from tests.support.stub_ollama import StubOllama
from tests.support.stub_speech import StubSpeech
from tests.support.threaded_app import ThreadedApp

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

POOL = "talkmaster"


def table_of(scenario: str, folder: Path, chat_url: str, speech_url: str) -> dict[str, Any]:
    """The settings of a set-up's workers, with the engines' addresses in place of those elsewhere."""
    config = compose(f"talkmaster-{scenario}.env").config("chat", folder)
    table: dict[str, Any] = json.loads(config.model_dump_json(exclude_unset=True, exclude={"nats"}))
    table = merged(table, {"chat": {"pools": {POOL: {"url": chat_url}}}})
    return merged(table, {"tts": {"pools": {POOL: {"url": speech_url}}}}) if config.tts.pools else table


async def answer(session: aiohttp.ClientSession, deployment: Deployment) -> str | None:
    """What a character's script is told, with the site's default model."""
    message_id = str(uuid4())
    body: dict[str, Any] = {"join_key": "pond", "username": "Ada", "message": "Hello.", "message_id": message_id}
    body |= {"system_instructions": "You are a frog.", "charactername": "Frog", "options": {}}
    body |= {"model": "", "think": False, "audio_instructions": "", "audio_voice": "", "audio_model": ""}
    script = Script(Simulator(session, deployment.root_url()), 0.3, 60)
    poll = "/ait/getMessageResponse" + query(join_key="pond", message_id=message_id)
    return await script.asks("/ait/postMessage", body, poll)


async def test_text_by_ollama(tmp_path: Path) -> None:
    stub = StubOllama()
    served = ThreadedApp(stub.app).start()
    deployment = Deployment(tmp_path / "set", table_of("ollama-text", tmp_path, served.url, ""), forked=True)
    try:
        await asyncio.to_thread(deployment.start, speakers=0, rooms=1)
        async with aiohttp.ClientSession() as session:
            assert await answer(session, deployment) == "".join(stub.script.reply).strip()
        assert {request["model"] for request in stub.requests} == {"mistral:latest"}
        await asyncio.to_thread(deployment.stop)
    finally:
        await asyncio.to_thread(deployment.abandon)
        await asyncio.to_thread(served.close)


async def test_text_and_speech_by_openai(tmp_path: Path, chat_engine: StubChat, speech_engine: StubSpeech) -> None:
    table = table_of("openai-openai", tmp_path, chat_engine.url, speech_engine.url)
    deployment = Deployment(tmp_path / "set", table, forked=True)
    try:
        await asyncio.to_thread(deployment.start, rooms=1)
        async with aiohttp.ClientSession() as session:
            assert await answer(session, deployment) == "".join(chat_engine.stub.script.reply).strip()
            voices = await Simulator(session, deployment.root_url()).get("/audio_models", LIST_BYTES)
            assert voices is not None
            assert offers(voices, "nova")
        assert {call["model"] for call in chat_engine.calls} == {"gpt-4o-mini"}
        await asyncio.to_thread(deployment.wait_idle)
        await asyncio.to_thread(deployment.stop)
    finally:
        await asyncio.to_thread(deployment.abandon)

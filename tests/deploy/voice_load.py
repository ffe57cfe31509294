"""A little of what the dashboards show of speech that is heard and of machines that are lent."""

import asyncio
import contextlib
from typing import Any

import aiohttp
import openai

from tests.support import spirit_page
from tests.support.deployment import CHAT_MODEL, SPEECH_MODEL, Deployment
from tests.support.processes import Table
from tests.support.realtime_client import asks, spoken, until
from tests.support.sounds import encoded, melody
from tests.support.volunteers import Volunteer, horde_worker

PASSWORD = "moth"
LENT_MODEL = "barn-owl-7b"
QUESTION = encoded(melody([200.0, 300.0]), "webm", "libopus")
ASYNC = "/api/v2/generate/text/async"
STATUS = "/api/v2/generate/text/status/"
DONE_TIMEOUT_S = 40.0
CONFIG: Table = {
    "chat": {"pools": {"lent": {"backend": "volunteers", "volunteer_time_s": 3}}},
    "stt": {
        "pools": {"ear": {"backend": "fake"}},
        "models": {
            "whisper": {"pool": "ear", "aliases": ["whisper-1"]},
            "broken": {"pool": "ear", "engine_model": "fake?fail_segment=0"},
        },
    },
    "spirit_box": {
        "enabled": True,
        "password": PASSWORD,
        "max_parts": 1,
        "pause_s": 0.1,
        "speech_model": SPEECH_MODEL,
        "transcription_model": "whisper",
    },
    "horde": {"submits_per_s": 0, "submits_per_minute": 0, "polls_per_minute": 0, "others_per_minute": 0},
    "kudos": {"enabled": True},
}


async def speak_and_lend(deployment: Deployment, key: str) -> None:
    """One transcription, one contact of the spirit box, one turn by voice, and one text of a volunteer."""
    root, base = deployment.root_url(), deployment.base_url
    sockets = base.replace("http", "ws", 1)
    async with openai.AsyncOpenAI(
        base_url=base, websocket_base_url=sockets, api_key=key, max_retries=0, timeout=30
    ) as client:
        await client.audio.transcriptions.create(model="whisper-1", file=("question.webm", QUESTION))
        with contextlib.suppress(openai.APIStatusError):
            await client.audio.transcriptions.create(model="broken", file=("question.webm", QUESTION))
        await _converse(client)
    async with spirit_page.page(root, PASSWORD) as page:
        await page.asks(QUESTION)
        await page.hears(1)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        await _lend(root, key, session)


async def _converse(client: openai.AsyncOpenAI) -> None:
    """A turn that the client ends, and one into which somebody speaks."""
    async with client.realtime.connect(model=CHAT_MODEL) as connection:
        await _hears(connection, None)
        await asks(connection, spoken(0, 1))
        await _hears(connection, {"type": "server_vad"})
        for piece in spoken(0, 1, 1):
            await connection.input_audio_buffer.append(audio=piece)
        await until(connection, "response.output_audio.delta")
        for piece in spoken(0, 1, 1):
            await connection.input_audio_buffer.append(audio=piece)
        await until(connection, "response.done")


async def _hears(connection: Any, turn_detection: dict[str, str] | None) -> None:
    heard = {"transcription": {"model": "whisper-1"}, "turn_detection": turn_detection}
    await connection.session.update(session={"type": "realtime", "audio": {"input": heard}})
    await until(connection, "session.updated")


async def _lend(root: str, key: str, session: aiohttp.ClientSession) -> None:
    barn = Volunteer(root, key, session, "barn", models=[LENT_MODEL])
    headers = {"apikey": key}
    params = {"max_context_length": 1024, "max_length": 40}
    body = {"prompt": "An owl", "models": [LENT_MODEL], "params": params}
    async with asyncio.timeout(DONE_TIMEOUT_S):
        await barn.pop()
        while True:
            async with session.post(root + ASYNC, json=body, headers=headers) as answer:
                told = await answer.json()
                if answer.status == 202:
                    break
            await asyncio.sleep(0.2)
        await horde_worker(barn, lambda _payload: " sat in an oak by the river and said nothing at all.", 1)
        while True:
            async with session.get(root + STATUS + told["id"]) as answer:
                if (await answer.json())["done"]:
                    return
            await asyncio.sleep(0.1)

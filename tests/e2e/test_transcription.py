"""Speech to text through everything: the edge, the bus, quota, and a worker with the scripted engine.

What every path that hears must do is in tests/protocols/hearing_suite.py.
"""

import asyncio
from collections.abc import AsyncGenerator, Generator

import openai
import pytest

from tests.support.deployment import Deployment, eventually
from tests.support.sounds import melody, wav

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

CONFIG = {
    "chat": {"pools": {"main": {"backend": "fake"}}, "models": {"owl": {"pool": "main"}}},
    "tts": {"pools": {"booth": {"backend": "fake"}}, "models": {"parrot": {"pool": "booth"}}},
    "stt": {
        "pools": {"ear": {"backend": "fake", "slots": 2}},
        "models": {
            "whisper": {"pool": "ear", "aliases": ["whisper-1"], "engine_model": "fake?latency_s=0.02"},
            "slow": {"pool": "ear", "engine_model": "fake?latency_s=0.5"},
        },
    },
}
PITCHES = [200, 300, 400, 500, 600, 700, 800, 900]
TEXT = " ".join(f"tone {pitch}" for pitch in PITCHES)
FILE = ("melody.wav", wav(melody(PITCHES)), "audio/wav")


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Generator[Deployment]:
    own = Deployment(tmp_path_factory.mktemp("transcription"), CONFIG, forked=True)
    with own.accounted(own.add_recogniser, chats=0, speakers=0):
        yield own


@pytest.fixture
async def client(deployment: Deployment) -> AsyncGenerator[openai.AsyncOpenAI]:
    key = await asyncio.to_thread(deployment.create_key, "standard")
    async with openai.AsyncOpenAI(base_url=deployment.base_url, api_key=key, max_retries=0, timeout=60) as one:
        yield one


async def nothing_stored(deployment: Deployment) -> None:
    """Waits until no sound is left on the bus."""
    await eventually(lambda: deployment.messages_in("SOUND") == 0, 20, "no sound is left")


async def test_sound_is_written_down_streamed_and_charged_by_its_length(
    client: openai.AsyncOpenAI, deployment: Deployment
) -> None:
    since = len(await deployment.usage())
    whole = await client.audio.transcriptions.create(model="whisper-1", file=FILE)
    assert whole.text == TEXT
    stream = await client.audio.transcriptions.create(model="whisper-1", file=FILE, stream=True)
    seen = [event async for event in stream]
    deltas = [event.delta for event in seen if event.type == "transcript.text.delta"]
    assert ("".join(deltas), len(deltas) > 1) == (TEXT, True)
    verbose = await client.audio.transcriptions.create(
        model="whisper-1", file=FILE, response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    assert (verbose.duration, verbose.language, len(verbose.words or ())) == (8.0, "english", 16)
    assert [segment.start for segment in verbose.segments or ()] == [float(second) for second in range(8)]
    events = await deployment.usage_of(3, since)
    assert [(event.kind, event.work.audio_ms) for event in events] == [("transcription", 8000)] * 3
    await nothing_stored(deployment)


async def test_worker_that_dies_is_followed_by_one_that_goes_on(
    client: openai.AsyncOpenAI, deployment: Deployment
) -> None:
    since = len(await deployment.usage())
    stream = await client.audio.transcriptions.create(model="slow", file=FILE, stream=True)
    deltas: list[str] = []
    async for event in stream:
        if event.type == "transcript.text.delta":
            deltas.append(event.delta)
            if len(deltas) == 2:
                worker = deployment.recognisers[-1]
                await asyncio.to_thread(worker.running.kill)
                following = deployment.add_recogniser()
                await asyncio.to_thread(following.wait_ready)
    assert "".join(deltas) == TEXT
    (event,) = await deployment.usage_of(1, since)
    assert event.work.audio_ms == 8000

"""The configuration of `callboard up` with its real models: SmolLM2 through llama.cpp and Kokoro through ONNX."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.support.audio import decoded, duration_s, pcm_samples, rms
from tests.support.deployment import Deployment
from tests.support.models import CHAT_MODEL, SPEECH_MODEL, VOICE, built_in_config, missing_model_files

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(bool(missing_model_files()), reason=f"model files missing: {', '.join(missing_model_files())}"),
]

QUESTION: Any = [{"role": "user", "content": "Name three colours, separated by commas."}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer"},
        "mood": {"enum": ["calm", "cross"]},
    },
    "required": ["name", "age", "mood"],
    "additionalProperties": False,
}
LINE = "Good evening. The owl is on the roof, and the play begins at eight."


@pytest.fixture(scope="module")
def real_board(tmp_path_factory: pytest.TempPathFactory) -> Generator[Deployment]:
    deployment = Deployment(tmp_path_factory.mktemp("real"), built_in_config(), sync="processes")
    with deployment.running():
        yield deployment


@pytest.fixture
async def real_client(real_board: Deployment) -> AsyncGenerator[openai.AsyncOpenAI]:
    key = await asyncio.to_thread(real_board.create_key, "standard")
    async with openai.AsyncOpenAI(base_url=real_board.base_url, api_key=key, max_retries=0, timeout=120) as client:
        yield client


async def test_chat_answers_and_counts_its_tokens(real_client: openai.AsyncOpenAI, real_board: Deployment) -> None:
    since = len(await real_board.usage())
    reply = await real_client.chat.completions.create(model=CHAT_MODEL, messages=QUESTION, max_tokens=40, temperature=0)
    assert reply.choices[0].message.content
    assert reply.choices[0].finish_reason in {"stop", "length"}
    assert reply.usage is not None
    assert 1 <= reply.usage.completion_tokens <= 40
    assert reply.usage.prompt_tokens > 5
    (event,) = await real_board.usage_of(1, since)
    assert event.work.completion_tokens == reply.usage.completion_tokens
    assert event.work.prompt_tokens == reply.usage.prompt_tokens


async def test_chat_streams_the_same_text_as_in_one_piece(real_client: openai.AsyncOpenAI) -> None:
    whole = await real_client.chat.completions.create(
        model=CHAT_MODEL, messages=QUESTION, max_tokens=30, temperature=0, seed=1
    )
    stream = await real_client.chat.completions.create(
        model=CHAT_MODEL,
        messages=QUESTION,
        max_tokens=30,
        temperature=0,
        seed=1,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(deltas) == whole.choices[0].message.content
    assert sum(bool(delta) for delta in deltas) > 3
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


async def test_json_schema_is_enforced_by_the_grammar(real_client: openai.AsyncOpenAI) -> None:
    """A model of this size never keeps to a schema by itself, so every reply that fits shows the grammar at work."""
    for seed in range(3):
        reply = await real_client.chat.completions.create(
            model=CHAT_MODEL,
            messages=[{"role": "user", "content": "Tell me about a cat, in a long poem."}],
            response_format={"type": "json_schema", "json_schema": {"name": "cat", "schema": SCHEMA, "strict": True}},
            max_tokens=200,
            temperature=0.8,
            seed=seed,
        )
        assert reply.choices[0].finish_reason == "stop"
        found = json.loads(reply.choices[0].message.content or "")
        assert set(found) == {"name", "age", "mood"}
        assert isinstance(found["name"], str)
        assert isinstance(found["age"], int)
        assert found["mood"] in {"calm", "cross"}


async def test_json_object_is_json(real_client: openai.AsyncOpenAI) -> None:
    reply = await real_client.chat.completions.create(
        model=CHAT_MODEL,
        messages=[{"role": "user", "content": "Describe a cat as a small JSON object."}],
        response_format={"type": "json_object"},
        max_tokens=300,
        temperature=0,
    )
    if reply.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(reply.choices[0].message.content or ""), dict)
    else:
        assert (reply.choices[0].message.content or "").lstrip().startswith("{")


async def test_prompt_over_the_context_is_refused(real_client: openai.AsyncOpenAI, real_board: Deployment) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await real_client.chat.completions.create(
            model=CHAT_MODEL, messages=[{"role": "user", "content": "owl " * 3000}], max_tokens=5
        )
    assert caught.value.code == "context_length_exceeded"
    await asyncio.to_thread(real_board.wait_idle)


async def test_speech_goes_into_a_file_that_plays(real_client: openai.AsyncOpenAI, tmp_path: Path) -> None:
    target = tmp_path / "line.mp3"
    async with real_client.audio.speech.with_streaming_response.create(
        model=SPEECH_MODEL, voice=VOICE, input=LINE, response_format="mp3"
    ) as reply:
        await reply.stream_to_file(target)
    samples = decoded(await asyncio.to_thread(target.read_bytes))
    assert 2.5 < duration_s(samples) < 10
    assert rms(samples) > 0.02


async def test_speech_sounds_the_same_in_pcm_and_wav(real_client: openai.AsyncOpenAI) -> None:
    plain = await real_client.audio.speech.create(model=SPEECH_MODEL, voice=VOICE, input=LINE, response_format="pcm")
    wav = await real_client.audio.speech.create(model=SPEECH_MODEL, voice=VOICE, input=LINE, response_format="wav")
    assert abs(duration_s(pcm_samples(plain.content)) - duration_s(decoded(wav.content))) < 0.05


async def test_speech_is_slower_at_half_speed(real_client: openai.AsyncOpenAI) -> None:
    lengths: list[float] = []
    for speed in (1.0, 0.5):
        reply = await real_client.audio.speech.create(
            model=SPEECH_MODEL, voice="alloy", input="The owl is on the roof.", response_format="pcm", speed=speed
        )
        lengths.append(duration_s(pcm_samples(reply.content)))
    assert 1.5 < lengths[1] / lengths[0] < 2.5


async def test_voices_of_the_model_are_listed_and_others_refused(real_client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await real_client.audio.speech.create(model=SPEECH_MODEL, voice="nobody", input="Hello.")
    assert VOICE in caught.value.message


async def test_chat_and_speech_at_once_both_arrive(real_client: openai.AsyncOpenAI) -> None:
    reply, speech = await asyncio.gather(
        real_client.chat.completions.create(model=CHAT_MODEL, messages=QUESTION, max_tokens=40),
        real_client.audio.speech.create(model=SPEECH_MODEL, voice=VOICE, input=LINE, response_format="flac"),
    )
    assert reply.choices[0].message.content
    assert rms(decoded(speech.content)) > 0.02


async def test_reply_is_spoken_while_it_is_written(real_client: openai.AsyncOpenAI) -> None:
    reply = await real_client.chat.completions.create(
        model=CHAT_MODEL,
        messages=QUESTION,
        max_tokens=40,
        temperature=0,
        modalities=["text", "audio"],
        audio={"voice": VOICE, "format": "wav"},
    )
    audio = reply.choices[0].message.audio
    assert audio is not None
    samples = decoded(base64.b64decode(audio.data))
    assert audio.transcript.strip()
    assert duration_s(samples) > 1
    assert rms(samples) > 0.01

"""Speech through the official client: every format, bytes that leave as they are made, voices."""

import base64
import json
import time
import wave
from io import BytesIO
from typing import Any, Literal

import aiohttp
import openai
import pytest

from tests.support.audio import decoded, duration_s, pcm_samples, rms
from tests.support.deployment import VOICES, Deployment
from tests.support.stub_speech import StubSpeech

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

TEXT = (
    "Good evening, and banner to the old theatre by the river. The curtain rises in a moment. "
    "Please find your seats, and do not feed the owl."
)
Format = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
MEDIA_TYPES: dict[Format, str] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}


@pytest.mark.parametrize("form", MEDIA_TYPES)
async def test_speech_arrives_whole_in_every_format(
    form: Format, client: openai.AsyncOpenAI, deployment: Deployment, speech_engine: StubSpeech
) -> None:
    since = len(await deployment.usage())
    async with client.audio.speech.with_streaming_response.create(
        model="parrot", voice="tenor", input=TEXT, response_format=form
    ) as reply:
        assert reply.headers["content-type"].partition(";")[0] == MEDIA_TYPES[form]
        data = await reply.read()
    samples = pcm_samples(data) if form == "pcm" else decoded(data)
    (event,) = await deployment.usage_of(1, since)
    assert event.outcome == "stop"
    # An encoder pads its ends; nothing may be missing.
    assert event.work.audio_ms / 1000 - 0.02 <= duration_s(samples) <= event.work.audio_ms / 1000 + 0.25
    assert rms(samples) > 0.05
    assert rms(samples[-24_000:]) > 0.02
    assert "".join("".join(call.text.split()) for call in speech_engine.calls) == "".join(TEXT.split())


async def test_wav_can_be_read_by_a_plain_reader(client: openai.AsyncOpenAI) -> None:
    reply = await client.audio.speech.create(model="parrot", voice="tenor", input=TEXT, response_format="wav")
    with wave.open(BytesIO(reply.content)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 24_000)


async def test_speech_leaves_before_the_engine_has_finished(
    client: openai.AsyncOpenAI, speech_engine: StubSpeech
) -> None:
    speech_engine.script.chunk_delay_s = 0.05
    async with client.audio.speech.with_streaming_response.create(
        model="parrot", voice="tenor", input=TEXT, response_format="pcm"
    ) as reply:
        parts = reply.iter_bytes()
        await anext(parts)
        first_s = time.monotonic()
        async for _ in parts:
            pass
    ended = [call.ended_s for call in speech_engine.calls if call.ended_s is not None]
    assert len(ended) >= 2
    assert first_s < max(ended)


async def test_speech_as_events(deployment: Deployment, api_key: str) -> None:
    body = {"model": "parrot", "voice": "tenor", "input": TEXT, "response_format": "pcm", "stream_format": "sse"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{deployment.base_url}/audio/speech", json=body, headers={"Authorization": f"Bearer {api_key}"}
        ) as reply,
    ):
        assert reply.content_type == "text/event-stream"
        blocks = (await reply.text()).split("\n\n")
    found: list[Any] = [json.loads(block.removeprefix("data: ")) for block in blocks if block and "[DONE]" not in block]
    assert [event["type"] for event in found[:-1]] == ["speech.audio.delta"] * (len(found) - 1)
    assert found[-1]["type"] == "speech.audio.done"
    audio = b"".join(base64.b64decode(event["audio"]) for event in found[:-1])
    assert duration_s(pcm_samples(audio)) > 1


async def test_voice_may_be_an_object(deployment: Deployment, api_key: str, speech_engine: StubSpeech) -> None:
    body = {"model": "parrot", "voice": {"id": "alto"}, "input": "Hello there.", "response_format": "pcm"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{deployment.base_url}/audio/speech", json=body, headers={"Authorization": f"Bearer {api_key}"}
        ) as reply,
    ):
        assert reply.status == 200
        assert len(await reply.read()) > 10_000
    assert {call.voice for call in speech_engine.calls} == {"alto"}


async def test_voices_are_listed(deployment: Deployment, api_key: str) -> None:
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {api_key}"}) as session,
        session.get(f"{deployment.base_url}/audio/voices") as reply,
    ):
        assert [voice["id"] for voice in (await reply.json())["voices"]] == list(VOICES)


async def test_longest_text_is_spoken_to_its_end(
    client: openai.AsyncOpenAI, deployment: Deployment, speech_engine: StubSpeech
) -> None:
    text = " ".join(f"This is line {n} of a very long evening." for n in range(200))[:4090].rpartition(" ")[0] + " end."
    assert len(text) <= 4096
    reply = await client.audio.speech.create(model="parrot", voice="tenor", input=text, response_format="pcm")
    assert "".join("".join(call.text.split()) for call in speech_engine.calls) == "".join(text.split())
    assert duration_s(pcm_samples(reply.content)) > 4_000 * 0.02 * 0.9
    await deployment.usage_of(1)


async def test_engine_that_fails_on_one_piece_fails_that_request_only(
    client: openai.AsyncOpenAI, deployment: Deployment, speech_engine: StubSpeech
) -> None:
    speech_engine.script.fail_text = "Good evening"
    speech_engine.script.fail_status = 400
    since = len(await deployment.usage())
    with pytest.raises(openai.APIError) as caught:
        await client.audio.speech.create(model="parrot", voice="tenor", input=TEXT, response_format="pcm")
    assert "the engine's own words" not in str(caught.value)
    (event,) = await deployment.usage_of(1, since)
    assert (event.outcome, event.work.audio_ms) == ("error", 0)
    reply = await client.audio.speech.create(
        model="parrot", voice="tenor", input="The show goes on.", response_format="pcm"
    )
    assert rms(pcm_samples(reply.content)) > 0.05

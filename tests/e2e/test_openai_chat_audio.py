"""Replies with audio through the official client: the sound comes while the reply is written."""

import asyncio
import base64
import time

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.support.audio import decoded, duration_s, pcm_samples, rms
from tests.support.deployment import Deployment
from tests.support.stub_chat import StubChat
from tests.support.stub_openai import Script
from tests.support.stub_speech import StubSpeech

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

SENTENCES = [
    "Good evening, and welcome to the old theatre by the river. ",
    "The curtain rises in a moment, so please find your seats. ",
    "And do not feed the owl, which has had its supper.",
]
QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello."}]


async def test_whole_reply_has_audio_and_both_are_charged(
    client: openai.AsyncOpenAI, deployment: Deployment, chat_engine: StubChat, speech_engine: StubSpeech
) -> None:
    since = len(await deployment.usage())
    chat_engine.plays(Script(reply=SENTENCES))
    reply = await client.chat.completions.create(
        model="owl",
        messages=QUESTION,
        modalities=["text", "audio"],
        audio={"voice": "tenor", "format": "mp3"},
    )
    audio = reply.choices[0].message.audio
    assert audio is not None
    assert audio.transcript == "".join(SENTENCES)
    samples = decoded(base64.b64decode(audio.data))
    events = {event.kind: event for event in await deployment.usage_of(2, since)}
    assert set(events) == {"chat", "speech"}
    assert duration_s(samples) == pytest.approx(events["speech"].work.audio_ms / 1000, abs=0.25)
    assert rms(samples) > 0.05
    assert reply.usage is not None
    assert reply.usage.completion_tokens_details is not None
    assert (reply.usage.completion_tokens_details.audio_tokens or 0) >= events["speech"].work.audio_ms // 10
    assert "".join("".join(call.text.split()) for call in speech_engine.calls) == "".join("".join(SENTENCES).split())


async def test_sound_comes_before_the_reply_is_written(client: openai.AsyncOpenAI, chat_engine: StubChat) -> None:
    words = [f"{word} " for word in "".join(SENTENCES).split()]
    chat_engine.plays(Script(reply=words, token_delay_s=0.1))
    stream = await client.chat.completions.create(
        model="owl",
        messages=QUESTION,
        modalities=["text", "audio"],
        audio={"voice": "alto", "format": "pcm16"},
        stream=True,
    )
    transcript, pcm = "", b""
    first_sound_s = last_text_s = 0.0
    async for chunk in stream:
        audio = chunk.choices[0].delta.audio
        if audio is not None and audio.transcript:
            transcript, last_text_s = transcript + audio.transcript, time.monotonic()
        if audio is not None and audio.data:
            first_sound_s = first_sound_s or time.monotonic()
            pcm += base64.b64decode(audio.data)
    assert transcript.split() == "".join(SENTENCES).split()
    assert 0 < first_sound_s < last_text_s
    assert rms(pcm_samples(pcm)) > 0.05


async def test_client_that_leaves_ends_both_jobs(
    client: openai.AsyncOpenAI, deployment: Deployment, chat_engine: StubChat
) -> None:
    since = len(await deployment.usage())
    chat_engine.plays(Script(reply=[f"{word} " for word in "".join(SENTENCES * 3).split()], token_delay_s=0.1))
    stream = await client.chat.completions.create(
        model="owl",
        messages=QUESTION,
        modalities=["text", "audio"],
        audio={"voice": "alto", "format": "pcm16"},
        stream=True,
    )
    async for chunk in stream:
        audio = chunk.choices[0].delta.audio
        if audio is not None and audio.data:
            break
    await stream.close()
    events = await deployment.usage_of(2, since)
    assert {event.kind: event.outcome for event in events} == {"chat": "cancelled", "speech": "cancelled"}
    await asyncio.to_thread(deployment.wait_idle)

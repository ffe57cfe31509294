"""What breaks while somebody listens, and what the listener, the engine and the bill see of it."""

import asyncio
import signal
import statistics
import time

import aiohttp
import openai
import pytest

from tests.e2e.conftest import MakeBoard
from tests.support.audio import SAMPLE_RATE_HZ
from tests.support.clients import connected
from tests.support.deployment import TTS_POOL, Deployment, eventually
from tests.support.stub_speech import StubSpeech

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

STOP_BOUND_S = 2.0
TEXT = " ".join(f"This is line {n} of the old play, and the owl is listening to it." for n in range(12))
SLOW_S = 0.08
"""The stub's pause before each 100 ms of audio: it speaks little faster than a person."""


class Listener:
    """Somebody who listens to one text as PCM."""

    def __init__(self) -> None:
        self.heard = b""
        self.error: Exception | None = None
        self._grown = asyncio.Event()

    async def listen(self, deployment: Deployment, key: str, edge: int = 0) -> None:
        """Asks for the speech and keeps every byte."""
        body = {"model": "parrot", "voice": "tenor", "input": TEXT, "response_format": "pcm"}
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=90)) as session,
                session.post(
                    f"{deployment.root_url(edge)}/v1/audio/speech",
                    json=body,
                    headers={"Authorization": f"Bearer {key}"},
                ) as reply,
            ):
                reply.raise_for_status()
                async for part in reply.content.iter_any():
                    self.heard += part
                    self._grown.set()
        except aiohttp.ClientError as error:
            self.error = error

    async def hears(self, seconds: float) -> None:
        """Waits until that much audio has arrived."""
        async with asyncio.timeout(30):
            while len(self.heard) < seconds * SAMPLE_RATE_HZ * 2:
                self._grown.clear()
                await self._grown.wait()


def audio_ms(data: bytes) -> int:
    return len(data) * 1000 // (SAMPLE_RATE_HZ * 2)


async def new_key(deployment: Deployment) -> str:
    return await asyncio.to_thread(deployment.create_key, "standard")


async def undisturbed(deployment: Deployment, key: str) -> bytes:
    """The same text heard without a fault, as the engine's audio follows from the text alone."""
    listener = Listener()
    await listener.listen(deployment, key)
    assert listener.error is None
    assert audio_ms(listener.heard) > 5_000
    return listener.heard


async def test_worker_killed_in_mid_speech_is_not_heard(make_deployment: MakeBoard, speech_engine: StubSpeech) -> None:
    deployment = await asyncio.to_thread(make_deployment)
    key = await new_key(deployment)
    whole = await undisturbed(deployment, key)
    speech_engine.script.chunk_delay_s = SLOW_S
    listener = Listener()
    async with asyncio.TaskGroup() as group:
        group.create_task(listener.listen(deployment, key))
        await listener.hears(1)
        second = await asyncio.to_thread(deployment.add_speaker)
        await asyncio.to_thread(second.wait_ready)
        assert len(listener.heard) < len(whole) * 0.8
        await asyncio.to_thread(deployment.speakers[0].running.kill)
    assert listener.error is None
    assert audio_ms(listener.heard) == audio_ms(whole)
    assert listener.heard == whole
    events = await deployment.usage_of(2)
    assert events[0].work == events[1].work
    assert abs(events[1].work.audio_ms - audio_ms(whole)) <= 1
    await asyncio.to_thread(deployment.wait_idle)
    assert len(await deployment.usage()) == 2
    # A second of sound costs 100 tokens of 1000 units where nothing else is configured.
    assert set((await deployment.charged_units()).values()) == {2 * events[0].work.audio_ms * 100}
    await asyncio.to_thread(deployment.command, "usage", "verify")


async def test_listener_that_leaves_stops_the_engine_and_pays_for_what_was_made(
    make_deployment: MakeBoard, speech_engine: StubSpeech
) -> None:
    deployment = await asyncio.to_thread(make_deployment, {"tts": {"pools": {TTS_POOL: {"slots": 1}}}})
    key = await new_key(deployment)
    whole_ms = audio_ms(await undisturbed(deployment, key))
    speech_engine.script.chunk_delay_s = SLOW_S
    took_s: list[float] = []
    for _ in range(5):
        speech_engine.calls.clear()
        listener = Listener()
        listening = asyncio.ensure_future(listener.listen(deployment, key))
        await listener.hears(0.5)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        left = time.monotonic()
        await eventually(lambda: speech_engine.running == 0, 10, "the engine is left alone")
        ended = max(call.ended_s or left for call in speech_engine.calls)
        took_s.append(ended - left)
        await eventually(lambda: not deployment.messages_in("TTS"), 10, "the job is done with")
        count = len(speech_engine.calls)
        await asyncio.sleep(0.5)
        assert len(speech_engine.calls) == count
    assert statistics.median(took_s) <= STOP_BOUND_S, took_s
    events = await deployment.usage_of(5, since=1)
    assert {event.outcome for event in events} == {"cancelled"}
    assert all(500 <= event.work.audio_ms < whole_ms for event in events), events
    await asyncio.to_thread(deployment.wait_idle)


async def test_speech_engine_that_stays_down_is_an_error_and_costs_nothing(
    make_deployment: MakeBoard, speech_engine: StubSpeech
) -> None:
    deployment = await asyncio.to_thread(make_deployment, {"edge": {"request_timeout_s": 4}})
    await asyncio.to_thread(speech_engine.pause)
    try:
        async with connected(deployment, await new_key(deployment)) as client:
            with pytest.raises(openai.InternalServerError):
                await client.audio.speech.create(model="parrot", voice="tenor", input="Hello there, owl.")
    finally:
        await asyncio.to_thread(speech_engine.start)
    (event,) = await deployment.usage_of(1)
    assert (event.outcome, event.work.audio_ms) == ("error", 0)
    await asyncio.to_thread(deployment.wait_idle)


async def test_edge_that_is_killed_stops_its_speech(make_deployment: MakeBoard, speech_engine: StubSpeech) -> None:
    deployment = await asyncio.to_thread(make_deployment, edges=2)
    speech_engine.script.chunk_delay_s = SLOW_S
    key = await new_key(deployment)
    listener = Listener()
    listening = asyncio.ensure_future(listener.listen(deployment, key))
    await listener.hears(0.5)
    await asyncio.to_thread(deployment.edges[0].running.kill)
    await listening
    assert listener.error is not None
    await eventually(lambda: speech_engine.running == 0, 6, "the worker asks, hears nothing, and stops")
    (event,) = await deployment.usage_of(1)
    assert event.outcome == "cancelled"
    assert event.work.audio_ms >= 500
    await asyncio.to_thread(deployment.wait_idle)


async def test_speech_worker_that_is_told_to_stop_finishes_what_it_speaks(
    make_deployment: MakeBoard, speech_engine: StubSpeech
) -> None:
    deployment = await asyncio.to_thread(make_deployment)
    key = await new_key(deployment)
    whole = await undisturbed(deployment, key)
    speech_engine.script.chunk_delay_s = SLOW_S / 2
    listener = Listener()
    async with asyncio.TaskGroup() as group:
        group.create_task(listener.listen(deployment, key))
        await listener.hears(1)
        deployment.speakers[0].running.signal(signal.SIGTERM)
    assert listener.heard == whole
    assert await asyncio.to_thread(deployment.speakers[0].running.wait) == 0
    await asyncio.to_thread(deployment.wait_idle)


async def test_speech_worker_that_cannot_finish_in_time_hands_its_job_on(
    make_deployment: MakeBoard, speech_engine: StubSpeech
) -> None:
    deployment = await asyncio.to_thread(make_deployment, {"tts": {"drain_timeout_s": 1}}, speakers=2)
    key = await new_key(deployment)
    whole = await undisturbed(deployment, key)
    speech_engine.script.chunk_delay_s = SLOW_S
    listener = Listener()
    async with asyncio.TaskGroup() as group:
        group.create_task(listener.listen(deployment, key))
        await listener.hears(1)
        # Which of the two speaks is not known, so both stop in turn: a third takes over in the end.
        third = await asyncio.to_thread(deployment.add_speaker)
        await asyncio.to_thread(third.wait_ready)
        for speaker in deployment.speakers[:2]:
            speaker.running.signal(signal.SIGTERM)
            assert await asyncio.to_thread(speaker.running.wait) == 0
    assert listener.heard == whole
    assert len(await deployment.usage_of(2)) == 2
    await asyncio.to_thread(deployment.wait_idle)

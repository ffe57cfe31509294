"""How many recordings are read at once, as sound and as text."""

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest

from callboard_contracts.rooms import room_id
from callboard_contracts.speech import AudioSegment, UtteranceStart
from callboard_edge.http.room_recording import MAX_AT_ONCE
from tests.unit.edge.harness import EdgeHarness, running

pytestmark = pytest.mark.unit


async def fetched(harness: EdgeHarness, suffix: str) -> int:
    async with harness.session.get(f"{harness.url}/ait/recording/pond.{suffix}") as reply:
        await reply.read()
        return reply.status


@pytest.mark.parametrize("suffix", ["vtt", "mp3"])
async def test_no_more_recordings_are_read_at_once_than_allowed(suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running({"rooms": {"recording_life_s": 600}}) as harness:
        start = UtteranceStart(number=1, speaker="Frog", expires_at=time.time() + 60)
        harness.audio.publish(room_id("ait", "pond"), "u", start)
        reading, go_on = asyncio.Semaphore(0), asyncio.Event()

        async def recorded(room: str, utterance: str) -> AsyncGenerator[list[AudioSegment]]:
            del room, utterance
            reading.release()
            await asyncio.wait_for(go_on.wait(), 10)
            yield []

        monkeypatch.setattr(harness.audio, "recorded", recorded)
        readers = [asyncio.ensure_future(fetched(harness, "vtt")) for _ in range(MAX_AT_ONCE)]
        for _ in readers:
            await asyncio.wait_for(reading.acquire(), 10)
        assert await fetched(harness, suffix) == 503
        go_on.set()
        assert await asyncio.gather(*readers) == [200] * MAX_AT_ONCE
        assert await fetched(harness, suffix) == 200

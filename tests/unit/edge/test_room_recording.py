"""How many recordings are read at once, as sound and as text."""

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest

from callboard_contracts.rooms import room_id
from callboard_contracts.speech import BYTES_PER_MS, AudioSegment, SegmentInfo, UtteranceStart
from callboard_edge.http import room_recording
from callboard_edge.http.room_recording import MAX_AT_ONCE
from tests.unit.edge.harness import EdgeHarness, running

pytestmark = pytest.mark.unit


async def fetched(harness: EdgeHarness, suffix: str, key: str = "pond") -> int:
    async with harness.session.get(f"{harness.url}/ait/recording/{key}.{suffix}") as reply:
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
        monkeypatch.setattr(room_recording, "MAX_OPEN", MAX_AT_ONCE)
        readers = [asyncio.ensure_future(fetched(harness, "vtt")) for _ in range(MAX_AT_ONCE)]
        for _ in readers:
            await asyncio.wait_for(reading.acquire(), 10)
        assert await fetched(harness, suffix) == 503
        go_on.set()
        assert await asyncio.gather(*readers) == [200] * MAX_AT_ONCE
        assert await fetched(harness, suffix) == 200


async def test_clients_who_do_not_read_keep_nobody_from_a_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running({"rooms": {"recording_life_s": 600}}) as harness:
        start = UtteranceStart(number=1, speaker="Frog", expires_at=time.time() + 60)
        for key in ("pond", "lake"):
            harness.audio.publish(room_id("ait", key), "u", start)
        fed = 0

        async def recorded(room: str, utterance: str) -> AsyncGenerator[list[AudioSegment]]:
            del utterance
            nonlocal fed
            for n in range(100_000 if room == room_id("ait", "pond") else 1):
                fed += 1
                info = SegmentInfo(attempt=1, piece=n, offset_bytes=0)
                yield [AudioSegment(n, info, bytes(2000 * BYTES_PER_MS))]

        monkeypatch.setattr(harness.audio, "recorded", recorded)
        slow = [await harness.session.get(f"{harness.url}/ait/recording/pond.mp3") for _ in range(MAX_AT_ONCE)]
        before = -1
        while before != fed:
            before = fed
            await asyncio.sleep(0.5)
        assert await fetched(harness, "mp3", "lake") == await fetched(harness, "vtt", "lake") == 200
        for reply in slow:
            reply.close()

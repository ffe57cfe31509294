"""Speech under a limit, as its listener hears it and as the books show it."""

import asyncio
import base64
import json
from typing import Any

import aiohttp
import pytest

from callboard_contracts.headers import SEGMENT
from callboard_contracts.quota import Hold, UsageEvent
from callboard_contracts.speech import BYTES_PER_MS, SegmentInfo
from tests.e2e.conftest import MakeBoard
from tests.support.deployment import Deployment, eventually
from tests.support.stub_speech import StubSpeech

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

UNITS_PER_MS = 100
"""A second of sound costs 100 tokens of 1000 units where nothing else is configured."""
LIMIT_MS = 20_000
LARGE_MS = 200_000
CONFIG = {
    "quota": {
        "tiers": {
            "short": {"tokens_per_day": LIMIT_MS // 10},
            "long": {"tokens_per_day": LARGE_MS // 10},
        },
        "lease_margin_s": 1,
    },
    "edge": {"request_timeout_s": 40},
}
TEXT = " ".join(f"This is line {n} of the old play, and the owl is listening to it." for n in range(40))
SLOW_S = 0.06
"""The stub's pause before each 100 ms of sound."""


class Listener:
    """Somebody who listens to one text, and may leave."""

    def __init__(self, **fields: Any) -> None:
        self.body = {"model": "parrot", "voice": "tenor", "input": TEXT, "response_format": "pcm", **fields}
        self.heard = b""
        self.status = 0
        self.headers: dict[str, str] = {}
        self._grown = asyncio.Event()

    async def listen(self, deployment: Deployment, key: str) -> "Listener":
        """Keeps every byte; an answer that breaks off raises."""
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=90)) as session,
            session.post(
                f"{deployment.base_url}/audio/speech", json=self.body, headers={"Authorization": f"Bearer {key}"}
            ) as reply,
        ):
            self.status = reply.status
            self.headers = dict(reply.headers)
            async for part in reply.content.iter_any():
                self.heard += part
                self._grown.set()
        return self

    async def hears(self, audio_ms: int) -> None:
        """Waits until that much sound has arrived."""
        async with asyncio.timeout(60):
            while len(self.heard) < audio_ms * BYTES_PER_MS:
                self._grown.clear()
                await self._grown.wait()


async def new_key(deployment: Deployment, tier: str) -> str:
    return await asyncio.to_thread(deployment.create_key, tier)


async def segments(deployment: Deployment, request_id: str) -> list[SegmentInfo]:
    """What was noted beside each segment of a request's sound."""
    messages = await deployment.read("AUDIO", f"audio.*.{request_id}.*")
    return [SegmentInfo.model_validate_json(message.headers[SEGMENT]) for message in messages]


def units(*holds: Hold | None) -> int:
    return sum(hold.units or 0 for hold in holds if hold)


async def is_charged(deployment: Deployment, *events: UsageEvent) -> None:
    """Checks that the callers were charged for exactly the work of these events, and that nothing stays held."""
    await asyncio.to_thread(deployment.wait_idle)
    wanted: dict[str, int] = {}
    for event in events:
        name = f"{event.tenant} h"
        wanted[name] = wanted.get(name, 0) + event.work.audio_ms * UNITS_PER_MS
    assert {name: count for name, count in (await deployment.charged_units()).items() if name in wanted} == wanted


async def test_limit_ends_speech_after_a_piece_and_is_never_passed(make_deployment: MakeBoard) -> None:
    deployment = await asyncio.to_thread(make_deployment, CONFIG)
    key, other = await new_key(deployment, "short"), await new_key(deployment, "long")
    whole = await Listener().listen(deployment, other)
    assert len(whole.heard) > 2 * LIMIT_MS * BYTES_PER_MS
    cut = await Listener().listen(deployment, key)
    assert cut.status == 200
    assert whole.heard.startswith(cut.heard)
    _, event = await deployment.usage_of(2)
    assert event.outcome == "length"
    assert event.work.audio_ms == len(cut.heard) // BYTES_PER_MS
    *sound, end = await segments(deployment, event.request_id)
    assert sound[-1].piece_done
    assert end.end is not None
    assert end.end.reason == "limit"
    # Nothing was settled on the way, so what was held in all is the most that ever stood in the books.
    assert event.work.audio_ms * UNITS_PER_MS <= units(event.hold, *event.extensions) <= LIMIT_MS * UNITS_PER_MS
    await is_charged(deployment, event)
    refused = await Listener().listen(deployment, key)
    assert refused.status == 429
    assert int(refused.headers["Retry-After"]) > 0
    error = json.loads(refused.heard)["error"]
    assert error["code"] == "rate_limit_exceeded"
    await is_charged(deployment, event)
    assert "drift: 0 tokens" in await asyncio.to_thread(deployment.command, "usage", "verify")
    await asyncio.to_thread(deployment.stop)


async def test_events_that_a_limit_ends_say_which(make_deployment: MakeBoard) -> None:
    deployment = await asyncio.to_thread(make_deployment, CONFIG)
    cut = await Listener(stream_format="sse").listen(deployment, await new_key(deployment, "short"))
    assert cut.status == 200
    *deltas, last = [json.loads(line[6:]) for line in cut.heard.decode().splitlines() if line]
    sound = b"".join(base64.b64decode(event["audio"]) for event in deltas)
    (event,) = await deployment.usage_of(1)
    assert len(sound) // BYTES_PER_MS == event.work.audio_ms > 0
    assert last["error"]["limit"] == "key.tokens_per_day"
    assert last["error"]["code"] == "rate_limit_exceeded"
    assert last["error"]["retry_after"] > 0
    assert last["error"]["message"] == "The limit of this API key for the tokens of 24 hours (2000) is reached."
    await asyncio.to_thread(deployment.stop)


async def test_listener_that_leaves_frees_what_was_held(make_deployment: MakeBoard, speech_engine: StubSpeech) -> None:
    deployment = await asyncio.to_thread(make_deployment, CONFIG)
    key = await new_key(deployment, "short")
    speech_engine.script.chunk_delay_s = SLOW_S
    left = Listener()
    listening = asyncio.ensure_future(left.listen(deployment, key))
    await left.hears(1_000)
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    (event,) = await deployment.usage_of(1)
    assert event.outcome == "cancelled"
    assert 1_000 <= event.work.audio_ms < 10_000
    await eventually(lambda: deployment.messages_in("LEASE") == 0, 5, "every hold is given back")
    await is_charged(deployment, event)
    speech_engine.script.chunk_delay_s = 0
    again = await Listener().listen(deployment, key)
    assert again.status == 200
    _, second = await deployment.usage_of(2)
    assert 0 < second.work.audio_ms <= LIMIT_MS - event.work.audio_ms
    assert event.work.audio_ms * UNITS_PER_MS + units(second.hold, *second.extensions) <= LIMIT_MS * UNITS_PER_MS
    await is_charged(deployment, event, second)
    await asyncio.to_thread(deployment.stop)


async def test_worker_killed_after_a_top_up_leaves_nothing_behind(
    make_deployment: MakeBoard, speech_engine: StubSpeech
) -> None:
    deployment = await asyncio.to_thread(make_deployment, CONFIG)
    key = await new_key(deployment, "long")
    whole = await Listener().listen(deployment, key)
    speech_engine.script.chunk_delay_s = SLOW_S / 2
    listener = Listener()
    listening = asyncio.ensure_future(listener.listen(deployment, key))
    await listener.hears(18_000)
    second = await asyncio.to_thread(deployment.add_speaker)
    await asyncio.to_thread(second.wait_ready)
    assert len(listener.heard) < len(whole.heard) * 0.9
    await asyncio.to_thread(deployment.speakers[0].running.kill)
    await listening
    assert listener.heard == whole.heard
    first, event = await deployment.usage_of(2)
    assert event.work == first.work
    assert event.extensions
    noted = [hold for info in await segments(deployment, event.request_id) for hold in info.extensions]
    assert list(event.extensions) == noted
    # A extension that the killed worker had not noted yet ends with its lease, soon after the request's deadline.
    await asyncio.to_thread(deployment.wait_idle, 60)
    await is_charged(deployment, first, event)
    assert len(await deployment.usage()) == 2
    assert "drift: 0 tokens" in await asyncio.to_thread(deployment.command, "usage", "verify")

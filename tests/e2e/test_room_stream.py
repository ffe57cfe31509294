"""A room that is spoken by real processes, as its listeners hear it and as its recording has it."""

import asyncio
from typing import Any

import aiohttp
import numpy as np
import pytest

from callboard_contracts.config import NatsSection
from callboard_contracts.streams import BUCKET_ROOMS
from callboard_kit.bucket import Bucket
from callboard_kit.bus import Bus
from tests.e2e.conftest import MakeBoard
from tests.support.audio import decoded, silences
from tests.support.clients import script_text
from tests.support.deployment import VOICES, eventually
from tests.support.room_speech import listen, opened_room, publish, sounds, spoken
from tests.support.stub_chat import StubChat, numbered

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

SECRET = "open sesame"
OVER = {"rooms": {"recording_life_s": 3600}, "room_stream": {"pause_s": 0.5}}
WORDS = 12


def post(message: str, message_id: str) -> dict[str, Any]:
    return {
        "join_key": "pond",
        "username": "Ada",
        "message": message,
        "charactername": "Frog",
        "message_id": message_id,
        "audio_voice": VOICES[0],
    }


async def test_room_is_heard_at_every_edge_and_its_recording_asks_for_its_secret(
    make_deployment: MakeBoard, chat_engine: StubChat
) -> None:
    deployment = await asyncio.to_thread(make_deployment, OVER, rooms=1, edges=2)
    chat_engine.plays(numbered(WORDS, delay_s=0.02))
    root, other = deployment.root_url(), deployment.root_url(1)
    async with aiohttp.ClientSession() as session:
        claim = {"join_key": "pond", "secret": SECRET}
        async with session.post(f"{root}/ait/startConversation", json=claim) as reply:
            address = (await reply.json())["stream_url"]
        assert address == f"{root}/ait/stream/pond"
        hearing = [
            asyncio.ensure_future(listen(session, url, 6.0, **{"Icy-MetaData": "1"} if url == address else {}))
            for url in (address, f"{other}/ait/stream/pond?bitrate=128")
        ]
        await asyncio.sleep(0.5)
        for n in range(2):
            async with session.post(f"{root}/ait/postMessage", json=post(f"Line {n}.", f"m-{n}")) as reply:
                assert reply.status == 425
        first, second = await asyncio.gather(*hearing)
        assert b"StreamTitle='Frog';" in first.data

        async def fetched(name: str, **given: str) -> tuple[int, bytes]:
            async with session.get(f"{other}/ait/recording/pond.{name}", headers=given) as reply:
                return reply.status, await reply.read()

        await eventually(lambda: chat_engine.active == 0, 20, "both turns are over")
        await asyncio.to_thread(deployment.wait_idle)
        assert (await fetched("mp3"))[0] == (await fetched("vtt"))[0] == 403
        status, recording = await fetched("mp3", **{"X-Room-Secret": SECRET})
        assert status == 200
        status, dialogue = await fetched("vtt", **{"X-Room-Secret": SECRET})
        assert status == 200
    lengths = []
    for data in (second.data, recording):
        samples = np.trim_zeros(np.round(decoded(data, "mp3") * 1000).astype(int))
        lengths.append(len(samples) / 24_000)
        pauses = [one.length_ms for one in silences((samples / 1000).astype(np.float32), at_least_ms=400)]
        assert len(pauses) == 1
        assert pauses[0] == pytest.approx(500, abs=40)
    # What was heard while it was made is as long as its recording.
    assert lengths[0] == pytest.approx(lengths[1], abs=0.1)
    said = dialogue.decode().split("\n\n")[1:]
    assert all("<v Frog>" in cue for cue in said)
    spoken = " ".join(cue.strip().split("<v Frog>")[1] for cue in said)
    assert spoken.split() == (script_text(WORDS).strip() + " " + script_text(WORDS).strip()).split()
    await asyncio.to_thread(deployment.stop)


async def test_listeners_hear_on_while_the_bus_is_away(make_deployment: MakeBoard) -> None:
    deployment = await asyncio.to_thread(make_deployment, {}, chats=0, speakers=0, quotas=0)
    room = opened_room("ait", "pond")

    async def speak(number: int, seconds: float, frequency_hz: float) -> None:
        bus = await Bus.connect(NatsSection(url=deployment.nats.url), "test", lambda: None)
        await Bucket(bus, BUCKET_ROOMS).put(room.id, room.encoded(), None)
        await publish(bus, room.id, spoken(number, seconds, frequency_hz))
        await bus.close()

    await speak(1, 0.5, 400)
    async with aiohttp.ClientSession() as session:
        hearing = asyncio.ensure_future(listen(session, f"{deployment.root_url()}/ait/stream/pond", 9.0))
        await asyncio.sleep(1.0)
        await speak(2, 3.0, 400)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(deployment.nats.kill)
        await asyncio.to_thread(deployment.nats.start)
        await eventually(lambda: deployment.edges[0].ready_reason() is None, 20, "the edge is back on the bus")
        await speak(3, 1.0, 800)
        got = await hearing
    samples = (decoded(got.data, "mp3") * 32_768).astype(np.int16)
    heard = [one for one in sounds(samples, [400, 800], quiet=1000) if one.seconds > 0.6]
    assert [(one.frequency_hz, round(one.seconds)) for one in heard] == [(400, 3), (800, 1)]
    await asyncio.to_thread(deployment.stop)

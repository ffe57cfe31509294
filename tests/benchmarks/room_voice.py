"""From a first token to its first sound in a room, with Kokoro: `python -m tests.benchmarks.room_voice`.

The chat engine is a stub that writes twenty tokens a second, as a small model on a shared processor does.
"""

import argparse
import asyncio
import logging
import tempfile
import time
from pathlib import Path
from uuid import uuid4

import aiohttp
from nats.aio.msg import Msg

from callboard_contracts import subjects
from callboard_contracts.chat import ChatFrame
from callboard_contracts.config import NatsSection
from callboard_contracts.headers import SEGMENT
from callboard_contracts.speech import SegmentInfo
from callboard_kit.bus import Bus
from tests.benchmarks import machine
from tests.benchmarks.figures import Figure, percentile, table
from tests.benchmarks.room_streams import BITRATE_KBPS, PLAYER_BUFFER_S, Listener, listening, port_of, stream
from tests.benchmarks.speech_cost import BareEngine
from tests.support.audio import decoded, silences
from tests.support.deployment import Deployment, stub_config
from tests.support.models import SPEECH_MODEL, VOICE, built_in_config
from tests.support.stub_chat import StubChat
from tests.support.stub_openai import Script

TOKEN_S = 0.05
REPLY = (
    "Good evening, dear guest, and welcome to the pond. The lily opened this morning, just before the rain came. "
    "If you stay a while, you will hear the others, for they sing as soon as it is dark."
)
FIRST_PIECE = "Good evening, dear guest,"
BAR_S = 3.0
TURN_TIMEOUT_S = 120.0


async def measure(turns: int) -> list[Figure]:
    """Turns one after the other in one room, with a listener from the beginning; before them, the engine alone."""
    with BareEngine() as bare:
        alone = [(await asyncio.to_thread(bare.speak, FIRST_PIECE))[0] for _ in range(turns)]
    chat = StubChat()
    chat.start()
    chat.plays(Script(reply=[f"{word} " for word in REPLY.split()], token_delay_s=TOKEN_S))
    config = {**stub_config(chat.url, ""), "tts": built_in_config()["tts"]}
    with tempfile.TemporaryDirectory(prefix="callboard-voice-") as folder:
        deployment = Deployment(Path(folder), config, log_level="warning")
        try:
            await asyncio.to_thread(lambda: deployment.start(rooms=1))
            bus = await Bus.connect(NatsSection(url=deployment.nats.url), "bench", lambda: None)
            try:
                tokens_at, listener = await _turns(deployment, bus, turns)
            finally:
                await bus.close()
        finally:
            deployment.abandon()
            chat.close()
    samples = decoded(bytes(listener.data), "mp3")
    # Where sound begins after a silence, and when that came.
    begins = [one.start_s + one.length_ms / 1000 for one in silences(samples, at_least_ms=500)]
    arrivals = [(listener.arrived_at(int(begin * listener.bytes_per_s)), begin) for begin in begins]
    firsts = [min(one for one in arrivals if one[0] > at) for at in tokens_at]
    arrived = [came - at for (came, _), at in zip(firsts, tokens_at, strict=True)]
    at_once, buffered = [
        [
            listener.arrived_at(int(ahead_s * listener.bytes_per_s)) + begin - at
            for (_, begin), at in zip(firsts, tokens_at, strict=True)
        ]
        for ahead_s in (0.0, PLAYER_BUFFER_S)
    ]
    return [
        Figure("turns", len(arrived), ""),
        Figure("the first piece by the engine alone, median", percentile(alone, 0.5), "s"),
        Figure("first token to first sample at the connection, median", percentile(arrived, 0.5), "s"),
        Figure("the same in a player that begins at once, median", percentile(at_once, 0.5), "s"),
        Figure("the same in a player with 1 s, median", percentile(buffered, 0.5), "s", BAR_S),
        Figure("the same, worst turn", max(buffered), "s", BAR_S),
    ]


async def _turns(deployment: Deployment, bus: Bus, turns: int) -> tuple[list[float], Listener]:
    """When the first token of each reply came, and what a listener got."""
    first_tokens: dict[str, float] = {}

    async def note(message: Msg) -> None:
        if ChatFrame.model_validate_json(message.data).text.strip():
            first_tokens.setdefault(message.subject, time.monotonic())

    ended = asyncio.Event()
    sound_s = 0.0

    async def hear(message: Msg) -> None:
        nonlocal sound_s
        found = (message.headers or {}).get(SEGMENT)
        end = SegmentInfo.model_validate_json(found).end if found else None
        if end is not None:
            sound_s = end.audio_ms / 1000
            ended.set()

    subscriptions = [
        await bus.subscribe(subjects.out("*", "*"), note),
        await bus.subscribe(subjects.room_audio("*", "*", "*"), hear),
    ]
    root = deployment.root_url()
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{root}/ait/startConversation", json={"join_key": "pond"}) as reply:
            assert reply.status == 200
        listener = await listening(port_of(deployment), stream("pond"), BITRATE_KBPS, keeps=True)
        await asyncio.sleep(4)
        for _ in range(turns):
            body = {
                "join_key": "pond",
                "username": "Ada",
                "message": "What is new?",
                "charactername": "Frog",
                "message_id": str(uuid4()),
                "audio_model": SPEECH_MODEL,
                "audio_voice": VOICE,
            }
            async with session.post(f"{root}/ait/postMessage", json=body) as reply:
                assert reply.status == 425, await reply.text()
            # The next begins when everything was heard, however slow the machine is.
            async with asyncio.timeout(TURN_TIMEOUT_S):
                await ended.wait()
            ended.clear()
            await asyncio.sleep(sound_s + 2)
    listener.close()
    for subscription in subscriptions:
        await bus.unsubscribe(subscription)
    return sorted(first_tokens.values()), listener


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.room_voice", description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    logging.getLogger("callboard_kit").setLevel(logging.ERROR)
    arguments = parser.parse_args()
    print(*machine.description(), *table(asyncio.run(measure(arguments.turns))), sep="\n")


if __name__ == "__main__":
    main()

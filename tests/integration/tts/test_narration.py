"""Speech workers that read a chat reply while it is written, and that share their engine's lanes, over a real bus."""

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg

from callboard_contracts import subjects
from callboard_contracts.chat import ChatEnd, ChatFrame, ChatResult, EndReason
from callboard_contracts.config import Config, NatsSection
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.headers import SEGMENT
from callboard_contracts.interest import ResumeReply
from callboard_contracts.jobs import JOB_VERSION
from callboard_contracts.quota import UsageEvent
from callboard_contracts.speech import (
    BYTES_PER_MS,
    NarratedReply,
    SegmentInfo,
    SpeechJob,
    SpeechRequest,
    UtteranceStart,
)
from callboard_contracts.streams import OUT, USAGE
from callboard_kit.bus import Bus
from callboard_kit.lifecycle import Shutdown
from callboard_kit.provisioning import apply_streams
from callboard_kit.stream_reads import StoredMessage, read_subject
from callboard_tts.app import run_worker
from callboard_tts.backends.fake import FakeEngine, Script
from callboard_tts.domain.pieces import split_text
from callboard_tts.settings import pool_settings
from tests.support.nats_server import NatsServer
from tests.support.ports import free_port
from tests.support.processes import Service, Table, merged

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

POOL = "booth"
MODEL = "parrot"
EDGE = "e1"
SENTENCES = [f"This is sentence number {n} of a reply, and it has some more words in it. " for n in range(6)]
TEXT = "".join(SENTENCES)


@pytest.fixture
def server(tmp_path: Path) -> Generator[NatsServer]:
    """A real server of the test's own."""
    server = NatsServer(tmp_path / "nats")
    server.start()
    yield server
    server.stop()


def table(server: NatsServer, slots: int = 4, wait_s: float = 0.5, **model: Any) -> Table:
    """The configuration of a worker."""
    return {
        "nats": {"url": server.url},
        "tts": {
            "pools": {POOL: {"backend": "fake", "slots": slots}},
            "models": {MODEL: {"pool": POOL, **model}},
            "drain_timeout_s": 2,
            "admission_timeout_s": wait_s,
        },
    }


@pytest.fixture
async def bus(server: NatsServer) -> AsyncGenerator[Bus]:
    """A connection to a server whose streams are declared."""
    bus = await Bus.connect(NatsSection(url=server.url), "test", lambda: None)
    await apply_streams(bus, Config.model_validate(table(server)))
    yield bus
    async with asyncio.timeout(10):
        await bus.close()


@asynccontextmanager
async def worker(
    server: NatsServer, script: Script | None = None, slots: int = 4, wait_s: float = 0.5
) -> AsyncGenerator[FakeEngine]:
    """A speech worker in this process."""
    config = Config.model_validate(table(server, slots, wait_s))
    shutdown, engine = Shutdown(), FakeEngine(script)
    running = asyncio.ensure_future(run_worker(config, pool_settings(config, POOL, {}), engine, shutdown))
    try:
        yield engine
    finally:
        shutdown.request_stop("test")
        async with asyncio.timeout(20):
            await running


@dataclass
class Reply:
    """A chat reply that a test writes frame by frame."""

    bus: Bus
    name: str = "chat-1"
    attempt: int = 1
    seq: int = 0
    said: list[str] = field(default_factory=list)

    async def says(self, text: str, end: ChatEnd | None = None) -> None:
        """Sends a frame for each few characters."""
        parts = [text[at : at + 7] for at in range(0, len(text), 7)] or [""]
        for part in parts:
            frame = ChatFrame(seq=self.seq, attempt=self.attempt, text=part, tokens=1)
            if end is not None and part is parts[-1]:
                frame = frame.model_copy(update={"end": end})
            await self.bus.publish(subjects.out(EDGE, self.name), frame.compact())
            self.seq += 1
        self.said.append(text)

    async def ends(self, reason: EndReason = "stop", error: ErrorInfo | None = None) -> None:
        """Sends the last frame."""
        await self.says("", ChatEnd(reason=reason, error=error))


async def narrate(bus: Bus, name: str = "speech-1", reply: str = "chat-1", *, in_room: bool = True) -> SpeechJob:
    """Posts a job that speaks a reply; in a room, so that no edge is waited for."""
    now = time.time()
    job = SpeechJob(
        version=JOB_VERSION,
        request_id=name,
        edge=EDGE,
        tenant="t1",
        room="room1" if in_room else EDGE,
        utterance=name,
        request=SpeechRequest(model=MODEL, text="", voice="af_sky"),
        in_room=in_room,
        narrates=NarratedReply(edge=EDGE, request_id=reply),
        created_at=now,
        deadline_at=now + 60,
    )
    if in_room:
        start = UtteranceStart(number=1, speaker="Anna", expires_at=now + 60)
        await bus.publish_stored(job.segment_subject("start"), start.encoded(), f"{name}.start")
    await bus.publish_stored(subjects.job("tts", POOL, "live", "t1"), job.encoded(), name)
    return job


async def segments(bus: Bus, job: SpeechJob) -> list[tuple[SegmentInfo, StoredMessage]]:
    """What was sent of an utterance so far."""
    stored = await read_subject(bus, job.audio_stream, job.segment_subject("*"))
    found = [message for message in stored if SEGMENT in message.headers]
    return [(SegmentInfo.model_validate_json(message.headers[SEGMENT]), message) for message in found]


async def pieces_done(bus: Bus, job: SpeechJob) -> int:
    return sum(info.piece_done for info, _ in await segments(bus, job))


async def hears(bus: Bus, job: SpeechJob, pieces: int) -> None:
    """Waits until so many pieces were sent."""
    async with asyncio.timeout(20):
        while await pieces_done(bus, job) < pieces:
            await asyncio.sleep(0.02)


async def ended(bus: Bus, job: SpeechJob) -> tuple[list[SegmentInfo], bytes]:
    """Waits for the end; returns what the segments say, the newest of each number, and their sound."""
    async with asyncio.timeout(40):
        while not any(info.end for info, _ in await segments(bus, job)):
            await asyncio.sleep(0.02)
    newest = {int(message.subject.rpartition(".")[2]): (info, message) for info, message in await segments(bus, job)}
    assert sorted(newest) == list(range(len(newest)))
    ordered = [newest[n] for n in sorted(newest)]
    return [info for info, _ in ordered], b"".join(message.data for _, message in ordered)


async def usage(bus: Bus) -> UsageEvent:
    """The one usage event."""
    async with asyncio.timeout(10):
        while not (stored := await read_subject(bus, USAGE, "usage.*")):
            await asyncio.sleep(0.02)
    (event,) = [UsageEvent.model_validate_json(message.data) for message in stored]
    return event


async def spoken_whole(bus: Bus, text: str) -> bytes:
    """The sound of a text that is given at once."""
    now = time.time()
    job = SpeechJob(
        version=JOB_VERSION,
        request_id="whole",
        edge=EDGE,
        tenant="t2",
        room=EDGE,
        utterance="whole",
        request=SpeechRequest(model=MODEL, text=text, voice="af_sky"),
        created_at=now,
        deadline_at=now + 60,
    )
    await bus.publish_stored(subjects.job("tts", POOL, "batch", "t2"), job.encoded(), "whole")
    return (await ended(bus, job))[1]


@pytest.mark.parametrize("in_room", [True, False])
async def test_reply_is_spoken_while_it_is_written(server: NatsServer, bus: Bus, in_room: bool) -> None:
    reply = Reply(bus)
    async with worker(server):
        # Two sentences were there before the worker was.
        await reply.says(SENTENCES[0] + SENTENCES[1])
        job = await narrate(bus, in_room=in_room)
        await hears(bus, job, 1)
        for sentence in SENTENCES[2:]:
            await reply.says(sentence)
        await hears(bus, job, 2)
        await reply.ends()
        infos, sound = await ended(bus, job)
        event = await usage(bus)
        assert sound == await spoken_whole(bus, TEXT)
    assert infos[-1].end is not None
    assert infos[-1].end.reason == "stop"
    assert event.work.audio_ms == len(sound) // BYTES_PER_MS > 0
    pieces = split_text(TEXT, "en-us")
    assert [info.piece for info in infos if info.piece_done] == list(range(len(pieces)))
    assert [info.text for info in infos if info.text] == ([piece.written for piece in pieces] if in_room else [])


async def test_worker_that_takes_over_goes_on_in_the_middle_of_a_reply(
    server: NatsServer, bus: Bus, tmp_path: Path
) -> None:
    slow = table(server, engine_model="fake?chunk_latency_s=0.05")
    services: list[Service] = []
    for name in ("tts-0", "tts-1"):
        port = free_port()
        own = merged(slow, {"tts": {"pools": {POOL: {"metrics_port": port}}}})
        arguments = ("--pool", POOL)
        services.append(
            Service(name, "callboard_tts", own, tmp_path, health_port=port, arguments=arguments, forked=True)
        )
    first, second = services
    try:
        await asyncio.to_thread(first.start)
        await asyncio.to_thread(first.wait_ready)
        reply = Reply(bus)
        job = await narrate(bus)
        await reply.says("".join(SENTENCES[:3]))
        await hears(bus, job, 1)
        await asyncio.to_thread(first.running.kill)
        await asyncio.to_thread(second.start)
        await reply.says("".join(SENTENCES[3:]))
        await reply.ends()
        infos, sound = await ended(bus, job)
        assert sound == await spoken_whole(bus, TEXT)
    finally:
        for service in services:
            if service.alive:
                await asyncio.to_thread(service.running.kill)
    assert {info.attempt for info in infos} == {1, 2}
    assert infos[-1].end is not None
    assert infos[-1].end.reason == "stop"


async def test_whole_sentences_of_a_reply_that_failed_are_spoken(server: NatsServer, bus: Bus) -> None:
    async with worker(server):
        job = await narrate(bus)
        reply = Reply(bus)
        await reply.says(SENTENCES[0] + SENTENCES[1] + "And then the engine bro")
        error = ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="The engine behind the model reported an error.")
        await reply.ends("error", error)
        infos, sound = await ended(bus, job)
        assert sound == await spoken_whole(bus, SENTENCES[0] + SENTENCES[1])
    assert infos[-1].end is not None
    assert (infos[-1].end.reason, infos[-1].end.error) == ("stop", None)


@pytest.mark.parametrize("text", ["", "🙂 ...", "```\ncode()\n```", "*waves*"])
async def test_reply_without_a_word_ends_without_a_sound(server: NatsServer, bus: Bus, text: str) -> None:
    async with worker(server):
        job = await narrate(bus)
        await Reply(bus).says(text, ChatEnd(reason="stop"))
        infos, sound = await ended(bus, job)
        event = await usage(bus)
    assert [info.end.reason if info.end else None for info in infos] == ["stop"]
    assert not sound
    assert (event.outcome, event.work.audio_ms) == ("stop", 0)


async def test_frames_that_were_lost_are_read_from_the_kept_result(server: NatsServer, bus: Bus) -> None:
    async with worker(server):
        reply = Reply(bus)
        await reply.says(SENTENCES[0] + SENTENCES[1])
        job = await narrate(bus)
        await hears(bus, job, 1)
        await bus.api(f"STREAM.PURGE.{OUT}", {})
        result = ChatResult(request_id="chat-1", model="owl", text=TEXT, end=ChatEnd(reason="stop"))
        kept = await bus.cipher.encrypt(result.encoded())
        await bus.publish_stored(subjects.result("chat-1"), kept, "chat-1.result")
        infos, sound = await ended(bus, job)
        assert sound == await spoken_whole(bus, TEXT)
    assert infos[-1].end is not None
    assert infos[-1].end.reason == "stop"


async def test_cancelled_narration_stops_and_is_charged_for_what_was_sent(server: NatsServer, bus: Bus) -> None:
    async with worker(server, Script(chunk_latency_s=0.02)) as engine:
        job = await narrate(bus)
        reply = Reply(bus)
        await reply.says("".join(SENTENCES[:3]))
        await hears(bus, job, 1)
        await bus.publish(subjects.cancel(job.request_id))
        infos, sound = await ended(bus, job)
        event = await usage(bus)
        assert engine.active == 0
    assert infos[-1].end is not None
    assert infos[-1].end.reason == "cancelled"
    assert (event.outcome, event.work.audio_ms) == ("cancelled", len(sound) // BYTES_PER_MS)


async def speak(bus: Bus, name: str, text: str) -> SpeechJob:
    """Posts a job that speaks a text."""
    now = time.time()
    job = SpeechJob(
        version=JOB_VERSION,
        request_id=name,
        edge=EDGE,
        tenant=name,
        room=EDGE,
        utterance=name,
        request=SpeechRequest(model=MODEL, text=text, voice="af_sky"),
        created_at=now,
        deadline_at=now + 60,
    )
    await bus.publish_stored(subjects.job("tts", POOL, "live", name), job.encoded(), name)
    return job


async def test_short_line_is_spoken_between_the_pieces_of_a_long_text(server: NatsServer, bus: Bus) -> None:
    async with worker(server, Script(latency_s=0.3), slots=1):
        long = await speak(bus, "long", TEXT)
        await hears(bus, long, 1)
        short = await speak(bus, "short", "Hello there.")
        await ended(bus, short)
        assert await pieces_done(bus, long) <= 3
        await bus.publish(subjects.cancel("long"))
        await ended(bus, long)


async def test_utterance_that_waits_for_a_lane_is_cancelled_at_once(server: NatsServer, bus: Bus) -> None:
    async with worker(server, Script(hang_piece=0), slots=1):
        speaking = await speak(bus, "speaking", TEXT)
        waiting = await speak(bus, "waiting", TEXT)
        await asyncio.sleep(0.3)
        for job in (waiting, speaking):
            await bus.publish(subjects.cancel(job.request_id))
            infos, sound = await ended(bus, job)
            assert infos[-1].end is not None
            assert infos[-1].end.reason == "cancelled"
            assert not sound


async def test_lines_that_come_together_are_spoken_one_after_the_other(server: NatsServer, bus: Bus) -> None:
    async def wait(message: Msg) -> None:
        await message.respond(ResumeReply(open=True, attempt=2).encoded())

    waiting = await bus.subscribe(subjects.resume(EDGE, "*"), wait)
    async with worker(server, Script(chunk_latency_s=0.3), slots=1, wait_s=20):
        jobs = [
            await speak(bus, f"line-{number}", "The lily opened this morning, just before the rain came.")
            for number in range(6)
        ]
        ends = [(await ended(bus, job))[0][-1].end for job in jobs]
        await bus.unsubscribe(waiting)
    assert [end and end.reason for end in ends] == ["stop"] * 6


async def test_speech_that_could_not_be_fed_is_refused_before_any_sound(server: NatsServer, bus: Bus) -> None:
    async def wait(message: Msg) -> None:
        await message.respond(ResumeReply(open=True, attempt=2).encoded())

    waiting = await bus.subscribe(subjects.resume(EDGE, "second"), wait)
    # The engine is not fast enough for two listeners.
    async with worker(server, Script(chunk_latency_s=0.35), slots=1):
        first = await speak(bus, "first", TEXT)
        await hears(bus, first, 1)
        second = await speak(bus, "second", TEXT)
        infos, sound = await ended(bus, second)
        await bus.unsubscribe(waiting)
        await bus.publish(subjects.cancel("first"))
        await ended(bus, first)
    end = infos[-1].end
    assert end is not None
    assert end.error is not None
    assert end.error.code is ErrorCode.QUEUE_FULL
    assert end.error.retry_after_s is not None
    # The job was given back once, in case another worker had room.
    assert infos[-1].attempt == 2
    assert not sound

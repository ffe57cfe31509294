"""Many who speak at once, each with an answer of its own, for as long as the run is given."""

import asyncio
import itertools
import logging
import os
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from tests.hearing.models import whisper_folder
from tests.support.deployment import Deployment, eventually
from tests.support.memory import MIB, SLACK_BYTES, MemoryWatch
from tests.support.models import built_in_config, missing_model_files
from tests.support.processes import Table, merged
from tests.support.realtime_client import answer_in, asks, heard_in, pieces, sound_of, until
from tests.support.sounds import Pcm, at_16_khz, encoded, melody, wav
from tests.support.spirit_page import page
from tests.support.stub_chat import StubChat
from tests.support.stub_openai import Script

pytest.importorskip("websockets", reason="the realtime client needs it")

log = logging.getLogger(__name__)

TOTAL_S = float(os.environ.get("CALLBOARD_VISITORS_S", "10"))
"""How long the visitors go on."""
SOAK_S = 60.0
"""From this length on a run counts as a soak: real engines take part, and memory must be flat."""
WARM_UP = 0.25
"""The part of the time that comes before memory is measured."""
MEMORY_LOG_S = 60.0
TALKERS = SPIRITS = 10
VISITORS = TALKERS + SPIRITS
IN_A_SESSION = 10
"""How many turns a visitor has before the connection is made anew."""
PAUSE_S = 0.5
BUS_BYTES_A_JOB = 6 * 1024
"""What the bus has in memory of each job that was charged: the ids by which it knows repeats for two hours, and where
in its files the job's events lie."""
PASSWORD = "moth"
TIMEOUT_S = TOTAL_S + 420
QUESTIONS = (
    "Which seven rivers run through the northern forest?",
    "How does a baker bake bread in the morning?",
)
REAL_ROUNDS = 5

pytestmark = [pytest.mark.hostile, pytest.mark.timeout(TIMEOUT_S)]

Turn = Callable[[], Awaitable[None]]


@pytest.fixture
def board(tmp_path: Path, chat_engine: StubChat) -> Generator[Deployment]:
    """A set whose engines cost nothing, so that all time goes into what is between them."""
    chat_engine.plays(Script(echoes=True, token_delay_s=0.01))
    config: Table = {
        "chat": {
            "pools": {"main": {"backend": "openai", "url": chat_engine.url, "slots": VISITORS}},
            "models": {"owl": {"pool": "main"}},
        },
        "tts": {
            "pools": {"booth": {"backend": "fake", "slots": VISITORS}},
            "models": {"parrot": {"pool": "booth", "engine_model": "fake?chunk_latency_s=0.05"}},
        },
        "stt": {
            "pools": {"stalls": {"backend": "fake", "slots": VISITORS}},
            "models": {"ear": {"pool": "stalls", "engine_model": "fake?latency_s=0.05"}},
        },
        "spirit_box": {
            "enabled": True,
            "password": PASSWORD,
            "max_parts": 2,
            "pause_s": 0.1,
            "continuation": "More of {question}?",
            "max_visitors_per_address": VISITORS,
        },
        "realtime": {"max_sessions_per_caller": VISITORS},
    }
    yield from _running(Deployment(tmp_path / "board", config, log_level="info"))


@pytest.fixture
def real_board(tmp_path: Path) -> Generator[Deployment]:
    """What `callboard up` runs."""
    missing = missing_model_files()
    if missing or not (whisper_folder("base") / "model.bin").exists():
        pytest.skip("model files are missing; `callboard models fetch` fetches them")
    ear: Table = {"pools": {"local": {"backend": "faster_whisper", "model_file": "whisper-base"}}}
    hearing = {"stt": {**ear, "models": {"whisper": {"pool": "local", "aliases": ["whisper-1"]}}}}
    yield from _running(Deployment(tmp_path / "board", merged(built_in_config(), hearing), log_level="info"))


def _running(one: Deployment) -> Generator[Deployment]:
    try:
        one.start()
        one.add_recogniser().wait_ready()
        yield one
        one.wait_idle()
        one.command("usage", "verify")
        one.stop()
    finally:
        one.abandon()


@dataclass(slots=True)
class Visitor:
    """Somebody with a question of two tones that nobody else asks; `sounds` are the answer's when nobody else spoke."""

    pitches_hz: tuple[int, int]
    sounds: list[bytes]
    turns: int = 0

    @property
    def words(self) -> str:
        """What is heard of the question."""
        return " ".join(f"tone {pitch}" for pitch in self.pitches_hz)

    @property
    def question(self) -> Pcm:
        """The question."""
        return melody(self.pitches_hz)

    def answered(self, *sounds: bytes) -> None:
        """Takes the sounds of an answer, which must be those of the first one."""
        self.sounds = self.sounds or list(sounds)
        assert self.sounds == list(sounds), f"{self.words} got another answer than before"
        self.turns += 1


def visitors(count: int, first_hz: int) -> list[Visitor]:
    """So many visitors, of whom no two have a tone in common."""
    pitches = itertools.count(first_hz, 20)
    return [Visitor((next(pitches), next(pitches)), []) for _ in range(count)]


def client_of(board: Deployment, key: str = "none") -> openai.AsyncOpenAI:
    """A client of a set."""
    sockets = board.base_url.replace("http", "ws", 1)
    return openai.AsyncOpenAI(base_url=board.base_url, api_key=key, websocket_base_url=sockets, max_retries=0)


async def talk(client: openai.AsyncOpenAI, visitor: Visitor, goes_on: Callable[[], bool]) -> None:
    """Talks in real time, again and again."""
    sound = pieces(visitor.question)
    while goes_on():
        async with client.realtime.connect(model="owl") as connection:
            heard: Any = {"turn_detection": None, "transcription": {"model": "ear"}}
            await connection.session.update(session={"type": "realtime", "audio": {"input": heard}})
            await until(connection, "session.updated")
            for _ in range(IN_A_SESSION):
                events = await asks(connection, sound)
                assert heard_in(events) == [visitor.words]
                assert answer_in(events).strip() == f"re: {visitor.words}"
                visitor.answered(sound_of(events))
                await asyncio.sleep(PAUSE_S)
                if not goes_on():
                    return


async def contact(url: str, visitor: Visitor, goes_on: Callable[[], bool]) -> None:
    """Asks the spirits, again and again."""
    question = encoded(visitor.question, "webm", "libopus")
    while goes_on():
        async with page(url, PASSWORD) as one:
            for count in range(IN_A_SESSION):
                await one.asks(question)
                heard = await one.hears(2 * count + 2)
                assert [name for name, _sound in heard] == ["first_response", "response"] * (count + 1)
                assert one.failures == []
                visitor.answered(*(sound for _name, sound in heard[-2:]))
                await asyncio.sleep(PAUSE_S)
                if not goes_on():
                    return


async def test_twenty_visitors_at_once_hear_only_their_own_and_memory_stays_flat(board: Deployment) -> None:
    watch = MemoryWatch(board.children, board.nats)
    talkers, contacts = visitors(TALKERS, 200), visitors(SPIRITS, 200 + 40 * TALKERS)
    loop = asyncio.get_running_loop()
    until_s = 0.0

    def goes_on() -> bool:
        return loop.time() < until_s

    loop.set_debug(False)
    async with client_of(board) as client:
        for one in talkers:
            await talk(client, one, goes_once())
        for one in contacts:
            await contact(board.root_url(), one, goes_once())
        firsts = [sound for one in (*talkers, *contacts) for sound in one.sounds]
        assert len(set(firsts)) == len(firsts) == TALKERS + 2 * SPIRITS
        before: dict[str, int] = {}
        until_s = loop.time() + TOTAL_S
        async with asyncio.TaskGroup() as group:
            for one in talkers:
                group.create_task(talk(client, one, goes_on))
            for one in contacts:
                group.create_task(contact(board.root_url(), one, goes_on))
            warm_s = loop.time() + WARM_UP * TOTAL_S
            while goes_on():
                await asyncio.sleep(min(MEMORY_LOG_S, max(0.1, until_s - loop.time())))
                kept = await asyncio.to_thread(watch.now)
                log.info("MiB: %s", {name: size // MIB for name, size in kept.items()})
                if loop.time() > warm_s:
                    before = before or kept
    turns = [one.turns - 1 for one in (*talkers, *contacts)]
    log.info("turns of each visitor: %s", turns)
    assert min(turns) >= 1
    jobs = sum(one.turns for one in talkers) * 3 + sum(one.turns for one in contacts) * 5
    await eventually(lambda: board.messages_in("USAGE") >= jobs, 30, "all jobs are charged")
    assert await asyncio.to_thread(board.messages_in, "USAGE") == jobs
    if TOTAL_S >= SOAK_S:
        bus_bytes = before.pop("nats")
        await asyncio.to_thread(watch.check, before)
        kept = await asyncio.to_thread(watch.now)
        assert kept["nats"] < bus_bytes * 1.1 + SLACK_BYTES + jobs * BUS_BYTES_A_JOB


def goes_once() -> Callable[[], bool]:
    """Says once that there is more to do."""
    answers = iter((True,))
    return lambda: next(answers, False)


@pytest.mark.skipif(TOTAL_S < SOAK_S, reason="takes minutes; CALLBOARD_VISITORS_S=60 or more lets it run")
async def test_two_visitors_of_real_engines_hear_only_their_own(real_board: Deployment) -> None:
    asyncio.get_running_loop().set_debug(False)
    keys = [real_board.create_key("standard") for _ in QUESTIONS]
    await asyncio.gather(*(converse(real_board, key, question) for key, question in zip(keys, QUESTIONS, strict=True)))


async def converse(board: Deployment, key: str, question: str) -> None:
    """Asks one question again and again, and has written down what the answers sound like."""
    async with client_of(board, key) as client:
        asked = await client.audio.speech.create(
            model="kokoro", voice="af_heart", input=question, response_format="pcm"
        )
        sound = pieces(at_16_khz(asked.content))
        answered = 0
        async with client.realtime.connect(model="smollm2") as connection:
            heard: Any = {"turn_detection": None, "transcription": {"model": "whisper-1"}}
            settings: Any = {"type": "realtime", "max_output_tokens": 48, "audio": {"input": heard}}
            await connection.session.update(session=settings)
            await until(connection, "session.updated")
            for _ in range(REAL_ROUNDS):
                events = await asks(connection, sound)
                (written,) = heard_in(events)
                assert shared(question, written) > 0.7, written
                if refused_as_busy(events):
                    continue
                answer = answer_up_to_limit(events)
                pcm = np.frombuffer(sound_of(events), np.int16)
                again = await client.audio.transcriptions.create(model="whisper-1", file=wav(pcm, 24_000))
                log.info("%s -> %s -> %s", written, answer, again.text)
                assert shared(answer, again.text) > 0.5, (answer, again.text)
                answered += 1
        assert answered


def refused_as_busy(events: list[Any]) -> bool:
    """Whether the voice refused an answer because it would fall behind its listeners, as a slow machine's must."""
    error = getattr(events[-1].response.status_details, "error", None)
    return error is not None and error.code == "queue_full"


def answer_up_to_limit(events: list[Any]) -> str:
    """The text of an answer that is whole, or as long as it may be."""
    response = events[-1].response
    if response.status == "incomplete":
        assert response.status_details.reason == "max_output_tokens", response
        return response.output[0].content[0].transcript
    return answer_in(events)


def shared(said: str, heard: str) -> float:
    """The share of the longer words of a text that another one has."""
    words = [{word.strip(".,?!'\"").casefold() for word in text.split()} for text in (said, heard)]
    long = {word for word in words[0] if len(word) > 3}
    return len(long & words[1]) / len(long) if long else 1.0

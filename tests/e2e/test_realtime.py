"""Conversation by voice through the official realtime client, and every kind of worker behind it."""

import asyncio
import json
from collections.abc import AsyncGenerator, Generator
from typing import Any

import openai
import pytest

from tests.support.audio import pcm_samples, rms
from tests.support.deployment import VOICES, Deployment, eventually, replaced, stub_config
from tests.support.processes import merged
from tests.support.realtime_client import answer_in, asks, heard_in, sound_of, spoken, until
from tests.support.stub_chat import StubChat
from tests.support.stub_openai import Script
from tests.support.stub_speech import StubSpeech

pytest.importorskip("websockets", reason="the realtime client needs it")
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

RECOGNISERS = {
    "stt": {
        "pools": {"ear": {"backend": "fake"}},
        "models": {
            "whisper": {"pool": "ear", "aliases": ["whisper-1"]},
            "dozer": {"pool": "ear", "engine_model": "fake?latency_s=0.4"},
        },
    },
    "realtime": {"max_event_bytes": 256 * 1024},
}
SENTENCES = [
    "Good evening, and welcome to the old theatre by the river. ",
    "The curtain rises in a moment, so please find your seats. ",
    "And do not feed the owl, which has had its supper.",
]
REPLY = "".join(SENTENCES)
LONG = Script(reply=[f"{word} " for word in (REPLY + " ").split() * 8], token_delay_s=0.05)
TRANSCRIBED: dict[str, Any] = {"transcription": {"model": "whisper-1"}}
MIRA = {"display_name": "Mira", "prompt": "You play {name}. {character} talks to you.", "voice": VOICES[1]}


@pytest.fixture(scope="module")
def board(
    tmp_path_factory: pytest.TempPathFactory, shared_chat_engine: StubChat, shared_speech_engine: StubSpeech
) -> Generator[Deployment]:
    config = merged(stub_config(shared_chat_engine.url, shared_speech_engine.url), RECOGNISERS)
    own = Deployment(tmp_path_factory.mktemp("realtime"), config, forked=True)
    try:
        own.start(rooms=1)
        own.add_recogniser().wait_ready()
        mira = own.folder / "mira.json"
        mira.write_text(json.dumps(MIRA), encoding="utf-8")
        own.command("characters", "put", str(mira))
        yield own
        own.wait_idle()
        own.command("usage", "verify")
        own.stop()
    finally:
        own.abandon()


@pytest.fixture
def deployment(board: Deployment, chat_engine: StubChat, speech_engine: StubSpeech) -> Generator[Deployment]:
    yield board
    board.wait_idle()


@pytest.fixture(scope="module")
def key(board: Deployment) -> str:
    return board.create_key("standard")


@pytest.fixture
async def client(deployment: Deployment, key: str) -> AsyncGenerator[openai.AsyncOpenAI]:
    root = deployment.base_url
    # The beta's client takes TLS for granted where nothing is said of it.
    sockets = root.replace("http", "ws", 1)
    async with openai.AsyncOpenAI(base_url=root, websocket_base_url=sockets, api_key=key, max_retries=0) as one:
        yield one


async def listens(connection: Any, **heard: Any) -> None:
    """Has the session hear as a test wants it."""
    await connection.session.update(session={"type": "realtime", "audio": {"input": {**TRANSCRIBED, **heard}}})
    await until(connection, "session.updated")


async def test_turn_that_the_client_ends_is_heard_answered_spoken_and_charged(
    client: openai.AsyncOpenAI, deployment: Deployment, chat_engine: StubChat
) -> None:
    since = len(await deployment.usage())
    chat_engine.plays(Script(reply=SENTENCES))
    async with client.realtime.connect(model="owl") as connection:
        assert (await connection.recv()).type == "session.created"
        await listens(connection, turn_detection=None)
        events = await asks(connection, spoken(0, 1), instructions="Be kind.")
    assert heard_in(events) == ["tone 300"]
    assert chat_engine.calls[-1]["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "tone 300"},
    ]
    response = events[-1].response
    assert answer_in(events) == REPLY
    assert "".join(one.delta for one in events if one.type == "response.output_audio_transcript.delta") == REPLY
    sound = sound_of(events)
    assert rms(pcm_samples(sound)) > 0.05
    charged = {event.kind: event.work for event in await deployment.usage_of(3, since)}
    assert charged["transcription"].audio_ms == 1000
    assert charged["speech"].audio_ms == pytest.approx(len(sound) / 48, abs=1)
    assert response.usage.input_tokens == charged["chat"].prompt_tokens
    assert response.usage.output_token_details.text_tokens == charged["chat"].completion_tokens


async def test_beta_client_speaks_and_the_server_finds_the_turns(
    client: openai.AsyncOpenAI, deployment: Deployment, chat_engine: StubChat
) -> None:
    chat_engine.plays(Script(reply=SENTENCES[:1]))
    async with client.beta.realtime.connect(model="owl") as connection:
        opened: Any = await connection.recv()
        assert opened.session.turn_detection.type == "server_vad"
        settings: Any = {"input_audio_transcription": {"model": "whisper-1"}, "output_audio_format": "g711_ulaw"}
        await connection.session.update(session=settings)
        await until(connection, "session.updated")
        for part in spoken(1, 1, 1):
            await connection.input_audio_buffer.append(audio=part)
        events = await until(connection, "response.done")
    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds[:4] == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.created",
    ]
    assert (700 <= events[0].audio_start_ms <= 800, 2400 <= events[1].audio_end_ms <= 2700) == (True, True)
    assert kinds.index("conversation.item.input_audio_transcription.completed") < kinds.index("response.created")
    speech = [event for event in events if event.type == "response.audio_transcript.done"]
    assert speech[0].transcript == SENTENCES[0]
    # Eight thousand samples a second, of one byte each, for a character's 20 ms of the engine's.
    assert len(sound_of(events, "response.audio.delta")) > 8 * 20 * 40
    assert len([one for one in events if one.type == "response.created"]) == 1


async def test_who_speaks_into_an_answer_stops_it_and_it_is_cut_to_what_was_heard(
    client: openai.AsyncOpenAI, deployment: Deployment, chat_engine: StubChat, speech_engine: StubSpeech
) -> None:
    since = len(await deployment.usage())
    chat_engine.plays(LONG)
    async with client.realtime.connect(model="owl") as connection:
        await until(connection, "conversation.created")
        await connection.conversation.item.create(
            item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Tell me."}]}
        )
        await connection.response.create()
        events = await until(connection, "response.output_audio.delta")
        while len(sound_of(events)) < 48_000:
            events += await until(connection, "response.output_audio.delta")
        for part in spoken(0.2, 1, 1):
            await connection.input_audio_buffer.append(audio=part)
        await until(connection, "input_audio_buffer.speech_started")
        done = (await until(connection, "response.done"))[-1].response
        assert (done.status, done.status_details.reason) == ("cancelled", "turn_detected")
        await eventually(lambda: chat_engine.active == speech_engine.running == 0, 5, "engine and voice have stopped")
        item_id = events[-1].item_id
        await connection.conversation.item.truncate(item_id=item_id, content_index=0, audio_end_ms=700)
        await until(connection, "conversation.item.truncated")
        await connection.conversation.item.retrieve(item_id=item_id)
        kept = (await until(connection, "conversation.item.retrieved"))[-1].item
        assert 0 < len(kept.content[0].transcript) < 60
        assert REPLY.startswith(kept.content[0].transcript)
        # What was said into it is answered in turn.
        await until(connection, "response.created")
        await connection.response.cancel()
        cancelled = (await until(connection, "response.done"))[-1].response
        assert cancelled.status_details.reason == "client_cancelled"
        await connection.response.cancel(event_id="mine")
        assert (await until(connection, "error"))[-1].error.event_id == "mine"
    charged = {("chat", "cancelled"), ("speech", "cancelled"), ("transcription", "stop")}
    async with asyncio.timeout(20):
        while charged - {(event.kind, event.outcome) for event in (await deployment.usage())[since:]}:
            await asyncio.sleep(0.05)


async def test_lost_connection_takes_everything_with_it(
    client: openai.AsyncOpenAI, deployment: Deployment, chat_engine: StubChat, speech_engine: StubSpeech
) -> None:
    chat_engine.plays(LONG)
    async with client.realtime.connect(model="owl") as connection:
        await until(connection, "conversation.created")
        await connection.response.create(response={"instructions": "Speak."})
        await until(connection, "response.output_audio.delta")
        raw: Any = connection._connection  # pyright: ignore[reportPrivateUsage]
        raw.transport.abort()
        await eventually(lambda: chat_engine.active == speech_engine.running == 0, 10, "nobody works for nobody")
    await eventually(lambda: not deployment.left_over(), 15, "no hold is left")


async def test_turn_is_heard_answered_and_spoken_to_its_end_though_each_worker_dies_at_it(
    client: openai.AsyncOpenAI, deployment: Deployment, chat_engine: StubChat, speech_engine: StubSpeech
) -> None:
    since = len(await deployment.usage())
    words = [f"{word} " for word in REPLY.split()]
    chat_engine.plays(Script(reply=words, token_delay_s=0.05))
    speech_engine.script.chunk_delay_s = 0.05
    async with client.realtime.connect(model="owl") as connection:
        await until(connection, "conversation.created")
        await listens(connection, turn_detection=None, transcription={"model": "dozer"})
        for part in spoken(0, 3):
            await connection.input_audio_buffer.append(audio=part)
        await connection.input_audio_buffer.commit()
        await connection.response.create()
        events = await until(connection, "conversation.item.input_audio_transcription.delta")
        await replaced(deployment.recognisers, deployment.add_recogniser)
        events += await until(connection, "response.output_audio_transcript.delta")
        await replaced(deployment.chats, deployment.add_chat)
        events += await until(connection, "response.output_audio.delta")
        await replaced(deployment.speakers, deployment.add_speaker)
        speech_engine.script.chunk_delay_s = 0.0
        events += await until(connection, "response.done")
    (heard,) = heard_in(events)
    assert heard == "tone 300 tone 300 tone 300"
    parts = [one.delta for one in events if one.type == "conversation.item.input_audio_transcription.delta"]
    assert "".join(parts).strip() == heard
    written = [one.delta for one in events if one.type == "response.output_audio_transcript.delta"]
    assert "".join(written) == answer_in(events) == "".join(words)
    charged = {event.kind: event.work for event in await deployment.usage_of(3, since)}
    assert charged["transcription"].audio_ms == 3000
    assert charged["chat"].completion_tokens == len(words)
    assert charged["speech"].audio_ms == pytest.approx(len(sound_of(events)) / 48, abs=1)
    assert len(await deployment.usage()) == since + 3


async def test_character_remembers_each_speaker_from_one_session_to_the_next_and_has_its_own_voice(
    client: openai.AsyncOpenAI, deployment: Deployment, chat_engine: StubChat, speech_engine: StubSpeech
) -> None:
    chat_engine.plays(Script(echoes=True))
    prompts: dict[tuple[str, int], list[Any]] = {}
    for speaker, pitch in (("Ada", 300), ("Bo", 500), ("Ada", 700), ("", 900)):
        headers = {"X-Callboard-Speaker": speaker} if speaker else {}
        async with client.realtime.connect(model="character/mira", extra_headers=headers) as connection:
            opened: Any = await connection.recv()
            assert (opened.session.model, opened.session.audio.output.voice) == ("character/mira",) * 2
            await listens(connection, turn_detection=None)
            events = await asks(connection, spoken(0, 1, pitch_hz=pitch))
            assert answer_in(events).strip() == f"re: tone {pitch}"
        prompts[speaker, pitch] = chat_engine.calls[-1]["messages"]
        assert speech_engine.calls[-1].voice == VOICES[1]
    first = [{"role": "user", "content": "tone 300"}, {"role": "assistant", "content": "re: tone 300"}]
    assert prompts["Ada", 300][1:] == first[:1]
    assert prompts["Bo", 500][1:] == [{"role": "user", "content": "tone 500"}]
    assert prompts["Ada", 700][1:] == [*first, {"role": "user", "content": "tone 700"}]
    assert prompts["", 900][1:] == [{"role": "user", "content": "tone 900"}]
    assert prompts["Ada", 700][0]["content"] == "You play Mira. Ada talks to you."


async def test_character_remembers_what_was_heard_of_an_answer_that_was_interrupted(
    client: openai.AsyncOpenAI, deployment: Deployment, chat_engine: StubChat
) -> None:
    chat_engine.plays(LONG)
    headers = {"X-Callboard-Speaker": "Cleo"}
    async with client.realtime.connect(model="character/mira", extra_headers=headers) as connection:
        await until(connection, "conversation.created")
        await listens(connection)
        for part in spoken(0.2, 1, 1):
            await connection.input_audio_buffer.append(audio=part)
        events = await until(connection, "response.output_audio.delta")
        while len(sound_of(events)) < 48_000:
            events += await until(connection, "response.output_audio.delta")
        chat_engine.plays(Script(reply=SENTENCES[:1]))
        for part in spoken(0.2, 1, 1, pitch_hz=500):
            await connection.input_audio_buffer.append(audio=part)
        events += await until(connection, "response.done")
        events += await until(connection, "response.done")
        assert answer_in(events).strip() == SENTENCES[0].strip()
    asked, answer, then = chat_engine.calls[-1]["messages"][1:]
    assert [asked["content"], then["content"]] == heard_in(events)
    # A second of sound was sent, and this voice tells no words' times.
    assert len(answer["content"]) >= 10
    assert REPLY.startswith(answer["content"])


async def test_bad_events_are_answered_and_the_session_goes_on(
    client: openai.AsyncOpenAI, deployment: Deployment
) -> None:
    since = len(await deployment.usage())
    async with client.realtime.connect(model="owl") as connection:
        await until(connection, "conversation.created")
        raw: Any = connection._connection  # pyright: ignore[reportPrivateUsage]
        for message in (
            b"\x00\x01",
            "{not json",
            '{"type": "session.dance"}',
            '{"type": "input_audio_buffer.commit"}',
            '{"type": "input_audio_buffer.append", "audio": "%%"}',
            '{"type": "pad", "pad": "' + "y" * 300_000 + '"}',
        ):
            await raw.send(message)
            assert (await connection.recv()).type == "error"
        await connection.session.update(session={"type": "realtime", "instructions": "Still here."})
        assert (await until(connection, "session.updated"))[-1].session.instructions == "Still here."
    with pytest.raises(Exception, match="404"):
        async with client.realtime.connect(model="nobody"):
            pass
    assert len(await deployment.usage()) == since

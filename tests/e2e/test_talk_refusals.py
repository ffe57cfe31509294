"""Who talks while every worker dies and none comes is told so in time, pays for nothing that failed, and may go on."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack
from typing import Any

import openai
import pytest

from tests.support.deployment import Deployment, eventually
from tests.support.realtime_client import answer_in, asks, spoken, until
from tests.support.sounds import encoded, melody
from tests.support.spirit_page import page
from tests.support.stub_chat import StubChat
from tests.support.stub_openai import Script

pytest.importorskip("websockets", reason="the realtime client needs it")
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(200)]

PASSWORD = "moth"
TIMEOUT_S = 5
"""How long a job may take; its client waits a little longer."""
TOLD_WITHIN_S = TIMEOUT_S + 5
SLOW_EDGE = 1
"""The edge whose spirit is long in hearing."""
LONG = Script(reply=[f"word{n} " for n in range(200)], token_delay_s=0.1)
SHORT = Script(reply=["Yes, gladly. "])
QUESTION = encoded(melody([200.0, 300.0]), "webm", "libopus")
HEARING = "callboard_stt_slots_used"
WRITTEN = 'callboard_edge_spirit_stage_seconds_count{stage="token"}'


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory, shared_chat_engine: StubChat) -> Generator[Deployment]:
    config = {
        "edge": {"request_timeout_s": TIMEOUT_S},
        "chat": {
            "pools": {"main": {"backend": "openai", "url": shared_chat_engine.url, "slots": 8}},
            "models": {"owl": {"pool": "main"}},
        },
        "tts": {
            "pools": {"booth": {"backend": "fake", "slots": 4}},
            "models": {"parrot": {"pool": "booth", "engine_model": "fake?chunk_latency_s=0.02"}},
        },
        "stt": {
            "pools": {"ear": {"backend": "fake", "slots": 4}},
            "models": {"whisper": {"pool": "ear"}, "dozer": {"pool": "ear", "engine_model": "fake?latency_s=1.5"}},
        },
        "spirit_box": {"enabled": True, "password": PASSWORD, "max_parts": 1, "transcription_model": "whisper"},
        "quota": {"lease_margin_s": 1, "reap_interval_s": 0.5},
    }
    own = Deployment(tmp_path_factory.mktemp("refusals"), config, forked=True)
    with own.accounted(own.add_recogniser, lambda: own.add_edge(spirit_box={"transcription_model": "dozer"})):
        yield own


@pytest.fixture
async def client(board: Deployment) -> AsyncGenerator[openai.AsyncOpenAI]:
    root = board.base_url
    sockets = root.replace("http", "ws", 1)
    async with openai.AsyncOpenAI(base_url=root, websocket_base_url=sockets, api_key="none", max_retries=0) as one:
        yield one


async def session(stack: AsyncExitStack, client: openai.AsyncOpenAI, ear: str, spoken_answer: bool = True) -> Any:
    """A session whose client ends the turns."""
    connection = await stack.enter_async_context(client.realtime.connect(model="owl"))
    heard: Any = {"turn_detection": None, "transcription": {"model": ear}}
    kinds: Any = ["audio"] if spoken_answer else ["text"]
    settings: Any = {"type": "realtime", "output_modalities": kinds, "audio": {"input": heard}}
    await connection.session.update(session=settings)
    await until(connection, "session.updated")
    return connection


async def begins(connection: Any) -> None:
    """Says something and wants it answered."""
    for piece in spoken(0, 1):
        await connection.input_audio_buffer.append(audio=piece)
    await connection.input_audio_buffer.commit()
    await connection.response.create()


async def test_talk_is_refused_in_its_own_form_where_no_worker_comes_again(
    board: Deployment, client: openai.AsyncOpenAI, chat_engine: StubChat
) -> None:
    since = len(await board.usage())
    async with AsyncExitStack() as stack:
        unheard = await session(stack, client, "dozer")
        unwritten = await session(stack, client, "whisper", spoken_answer=False)
        unspoken = await session(stack, client, "whisper")
        quick, slow = [await stack.enter_async_context(page(board.root_url(n), PASSWORD)) for n in (0, SLOW_EDGE)]
        chat_engine.plays(LONG)
        await begins(unspoken)
        await until(unspoken, "response.output_audio.delta")
        await begins(unwritten)
        await quick.asks(QUESTION)
        await until(unwritten, "response.output_text.delta")
        await eventually(lambda: board.edges[0].metrics().get(WRITTEN), 5, "the spirit's answer is being written")
        await begins(unheard)
        await slow.asks(QUESTION)
        await eventually(lambda: board.recognisers[-1].metrics()[HEARING] == 2, 5, "two are being heard")
        for one in (board.recognisers[-1], board.chats[-1], board.speakers[-1]):
            await asyncio.to_thread(one.running.kill)
        async with asyncio.timeout(TOLD_WITHIN_S):
            events = await until(unheard, "response.done")
            told = [one for one in events if one.type == "conversation.item.input_audio_transcription.failed"]
            assert [one.error.code for one in told] == ["deadline_exceeded"]
            assert events[-1].response.status == "failed"
            for connection in (unwritten, unspoken):
                answer = (await until(connection, "response.done"))[-1].response
                assert (answer.status, answer.status_details.error.code) == ("failed", "deadline_exceeded")
            for one in (quick, slow):
                # What a page plays where nothing is answered.
                await one.hears(1, "response")
                await eventually(lambda one=one: one.failures, 5, "the page is told why")
                assert [failure["code"] for failure in one.failures] == ["deadline_exceeded"]
        for start in (board.add_recogniser, board.add_chat, board.add_speaker):
            await asyncio.to_thread(start().wait_ready)
        chat_engine.plays(SHORT)
        for connection in (unheard, unspoken):
            assert answer_in(await asks(connection, spoken(0, 1))).strip() == "Yes, gladly."
        await quick.asks(QUESTION)
        assert [name for name, _sound in await quick.hears(2, "first_response")] == ["first_response"] * 2
    await asyncio.to_thread(board.wait_idle)
    paid = (await board.usage())[since:]
    # Three were heard before, three are answered after it; who was not heard pays nothing, and the others pay for the
    # beginnings of answers that they were sent.
    outcomes = Counter((event.kind, event.outcome) for event in paid)
    whole = {kind: outcomes.pop((kind, "stop")) for kind in ("transcription", "chat", "speech")}
    assert whole == {"transcription": 6, "chat": 3, "speech": 3}
    assert {kind for kind, _outcome in outcomes} <= {"chat", "speech"}
    begun = [event.work for event in paid if event.outcome != "stop"]
    assert max(work.completion_tokens for work in begun) < len(LONG.reply) / 2
    assert max(work.audio_ms for work in begun) < 1000 * TOLD_WITHIN_S

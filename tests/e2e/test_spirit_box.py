"""The spirit box through everything, with the client library that speaks its protocol."""

import asyncio
import time
from collections.abc import Generator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import socketio  # pyright: ignore[reportMissingTypeStubs]
from socketio.exceptions import ConnectionError as Refused  # pyright: ignore[reportMissingTypeStubs]

from callboard_contracts.quota import UsageEvent
from callboard_tts.backends.fake import MS_PER_CHARACTER
from tests.support import spirit_page
from tests.support.audio import decoded, duration_s, rms
from tests.support.deployment import Deployment, eventually, replaced
from tests.support.sounds import encoded, melody
from tests.support.stub_chat import StubChat
from tests.support.stub_openai import Script

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

PASSWORD = "moth"
BOX = {"enabled": True, "password": PASSWORD, "max_parts": 2, "pause_s": 0.1, "continuation": "More of {question}?"}
SLOW_EDGE = 1
"""The edge whose spirit hears slowly, and speaks little faster than it is heard."""
SLOW = {"speech_model": "sloth", "transcription_model": "dozer"}
QUESTIONS = [encoded(melody(pitches), "webm", "libopus") for pitches in ([200.0, 300.0], [500.0, 600.0])]
"""As Chromium's recorder writes them."""
STOP_BOUND_S = 0.25
FIRST_TOKENS = 'callboard_edge_spirit_stage_seconds_count{stage="token"}'
HEARING = "callboard_stt_slots_used"
SENTENCES = [
    "Good evening, and welcome to the old theatre. ",
    "The curtain rises in a moment. ",
    "Do not feed the owl.",
]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, shared_chat_engine: StubChat) -> Generator[Deployment]:
    config = {
        "chat": {
            "pools": {"main": {"backend": "openai", "url": shared_chat_engine.url, "slots": 8, "resume": "prefill"}},
            "models": {"owl": {"pool": "main"}},
        },
        "tts": {
            "pools": {"booth": {"backend": "fake", "slots": 2}},
            "models": {
                "parrot": {"pool": "booth", "engine_model": "fake?chunk_latency_s=0.02"},
                "sloth": {"pool": "booth", "engine_model": "fake?chunk_latency_s=0.25"},
            },
        },
        "stt": {
            "pools": {"ear": {"backend": "fake", "slots": 2}},
            "models": {"whisper": {"pool": "ear"}, "dozer": {"pool": "ear", "engine_model": "fake?latency_s=0.3"}},
        },
        "spirit_box": {**BOX, "speech_model": "parrot", "transcription_model": "whisper"},
    }
    own = Deployment(tmp_path_factory.mktemp("spirit"), config, forked=True)
    with own.accounted(own.add_recogniser, lambda: own.add_edge(spirit_box=SLOW)):
        yield own


def page(
    box: Deployment, edge: int = 0, transports: list[str] | None = None
) -> AbstractAsyncContextManager[spirit_page.Page]:
    """A connected page."""
    return spirit_page.page(box.root_url(edge), PASSWORD, transports)


async def used(box: Deployment, count: int, since: int) -> dict[str, list[UsageEvent]]:
    """So many usage events by what they are for."""
    found: dict[str, list[UsageEvent]] = {}
    for event in await box.usage_of(count, since, timeout_s=60):
        found.setdefault(event.kind, []).append(event)
    return found


async def test_two_visitors_are_each_answered_with_their_own_and_charged_like_anybody(
    box: Deployment, chat_engine: StubChat
) -> None:
    since = len(await box.usage())
    chat_engine.plays(Script(echoes=True))
    alone: list[list[bytes]] = []
    for question in QUESTIONS:
        async with page(box) as one:
            await one.client.emit("seed", {"seed": 41})
            await one.asks(question)
            heard = await one.hears(2)
            assert [name for name, _sound in heard] == ["first_response", "response"]
            assert all(rms(decoded(sound)) > 0.05 for _name, sound in heard)
            alone.append([sound for _name, sound in heard])
    assert alone[0][0] != alone[1][0]
    assert [call.get("seed") for call in chat_engine.calls] == [41, 42, 41, 42]
    assert [call["messages"][-1]["content"] for call in chat_engine.calls[:2]] == [
        "tone 200 tone 300",
        "More of tone 200 tone 300?",
    ]
    # One of them behind a proxy that lets no WebSocket through.
    async with page(box) as first, page(box, transports=["polling"]) as second:
        for pages in ((first, second), (second, first)):
            counts = len(first.heard), len(second.heard)
            for each, question in zip(pages, QUESTIONS, strict=True):
                await each.asks(question)
            for each, before, sounds in zip(pages, counts, alone, strict=True):
                told = await each.hears(before + 2)
                assert told[before:] == [("first_response", sounds[0]), ("response", sounds[1])]
        assert (first.failures, second.failures) == ([], [])
    events = await used(box, 6 + 12 + 12, since)
    assert {kind: len(found) for kind, found in events.items()} == {"transcription": 6, "chat": 12, "speech": 12}
    assert {event.work.audio_ms for event in events["transcription"]} == {2000}
    assert {event.outcome for found in events.values() for event in found} == {"stop"}


async def test_barge_in_stops_the_engine_and_the_voice_and_only_the_new_answer_begins(
    box: Deployment, chat_engine: StubChat
) -> None:
    since = len(await box.usage())
    words = [f"{word} " for word in "".join(SENTENCES * 4).split()]
    async with page(box, SLOW_EDGE) as one:
        chat_engine.plays(Script(reply=words, token_delay_s=0.1))
        await one.asks(QUESTIONS[0])
        await one.hears(1)
        chat_engine.plays(Script(reply=["Hush. "]))
        asked_at = time.time()
        await one.asks(QUESTIONS[1])
        heard = await one.hears(2, "first_response")
        assert 0 < chat_engine.left_at - asked_at < STOP_BOUND_S
        assert heard[-1][0] == "first_response"
        assert duration_s(decoded(heard[-1][1])) < duration_s(decoded(heard[0][1]))
    await asyncio.to_thread(box.wait_idle)
    events = await used(box, 6, since)
    assert [event.outcome for event in events["transcription"]] == ["stop", "stop"]
    for kind in ("chat", "speech"):
        assert {"cancelled", "stop"} <= {event.outcome for event in events[kind]}


async def test_visitor_whose_connection_is_lost_pays_for_what_was_said(box: Deployment, chat_engine: StubChat) -> None:
    since = len(await box.usage())
    words = [f"{word} " for word in "".join(SENTENCES * 4).split()]
    chat_engine.plays(Script(reply=words, token_delay_s=0.1))
    async with page(box, SLOW_EDGE) as one:
        await one.asks(QUESTIONS[0])
        await one.hears(1)
        one.client.eio.ws._response.connection.transport.abort()
        events = await used(box, 3, since)
    assert [events[kind][0].outcome for kind in ("transcription", "chat", "speech")] == [
        *("stop", "cancelled", "cancelled")
    ]
    assert 0 < events["chat"][0].work.completion_tokens < len(words)


async def test_each_worker_that_dies_at_a_question_is_followed_by_one_that_goes_on_and_is_charged_once(
    box: Deployment, chat_engine: StubChat
) -> None:
    words = [f"{word} " for word in "".join(SENTENCES).split()]
    chat_engine.plays(Script(reply=words, token_delay_s=0.05))
    edge = box.edges[SLOW_EDGE]
    since = len(await box.usage())
    async with page(box, SLOW_EDGE) as one:
        written = (await asyncio.to_thread(edge.metrics))[FIRST_TOKENS]
        await one.asks(QUESTIONS[0])
        await eventually(lambda: box.recognisers[-1].metrics()[HEARING], 10, "somebody listens")
        await replaced(box.recognisers, box.add_recogniser)
        await eventually(lambda: edge.metrics()[FIRST_TOKENS] > written, 30, "an answer is being written")
        await replaced(box.chats, box.add_chat)
        await one.hears(1)
        await replaced(box.speakers, box.add_speaker)
        heard = await one.hears(2)
        events = await used(box, 3, since)
    assert ([name for name, _sound in heard].count("first_response"), one.failures) == (1, [])
    (transcription,), (chat,), (speech,) = (events[kind] for kind in ("transcription", "chat", "speech"))
    assert transcription.work.audio_ms == 2000
    assert chat.work.completion_tokens == len(words)
    # Each piece has pauses around its tones.
    tones_ms = sum(len(word.strip()) for word in words) * MS_PER_CHARACTER
    assert tones_ms <= speech.work.audio_ms <= tones_ms + 1000 * len(SENTENCES)


async def test_wrong_password_is_told(box: Deployment) -> None:
    client: Any = socketio.AsyncClient(reconnection=False)
    told: list[Any] = []
    client.on("connect_error", told.append)
    with pytest.raises(Refused):
        await client.connect(box.root_url(), auth={"user": "seance", "password": "month"})
    assert told == [{"message": "The password is wrong."}]

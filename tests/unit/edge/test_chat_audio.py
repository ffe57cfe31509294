"""OpenAI's chat path with audio: the reply and its speech from one request, as the official client reads them."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from callboard_contracts.chat import ChatEnd, ChatFrame, ChatJob, ChatResult
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.quota import ReserveReply, ReserveRequest
from callboard_contracts.speech import BYTES_PER_MS, NarratedReply, SegmentInfo, SpeechEnd, SpeechJob
from tests.unit.edge.harness import USAGE, EdgeHarness, asking, frames, read_events, running

pytestmark = pytest.mark.unit

CHAT = "/v1/chat/completions"
CONFIG = {
    "tts": {
        "pools": {"booth": {"backend": "fake", "may_sleep": True}},
        "models": {
            "parrot": {"pool": "booth", "voices": ["ann", "bob"], "default_voice": "ann"},
            "finch": {"pool": "booth", "voices": ["cid"], "default_voice": "cid"},
        },
        "default_model": "parrot",
    }
}
SOUND = bytes(range(256)) * 20
LIMIT = ErrorInfo(code=ErrorCode.QUOTA_EXCEEDED, message="Enough for today.", limit="key.tokens_per_day")
BUSY = ErrorInfo(code=ErrorCode.QUEUE_FULL, message="So many are listening.", retry_after_s=3.0)


@pytest.fixture
async def harness() -> AsyncGenerator[EdgeHarness]:
    async with running(CONFIG) as harness:
        yield harness


def spoken(**over: Any) -> dict[str, Any]:
    """A request for a reply with audio."""
    audio = {"voice": "ann", "format": "pcm16", **over.pop("audio", {})}
    return asking(modalities=["text", "audio"], audio=audio, **over)


async def play(
    harness: EdgeHarness,
    sent: Sequence[ChatFrame],
    sound: bytes = SOUND,
    end: SpeechEnd | None = None,
) -> tuple[ChatJob, SpeechJob]:
    """A chat worker and a speech worker: the reply, then its sound in two segments and the end."""
    speech = await harness.jobs.next_speech()
    chat = await harness.worker(sent)
    half = len(sound) // 2
    for n, part in enumerate((sound[:half], sound[half:])):
        info = SegmentInfo(attempt=1, piece=n, offset_bytes=0, piece_done=True)
        harness.replies.say(speech.request_id, n, info, part)
    end = end or SpeechEnd(reason="stop", audio_ms=len(sound) // BYTES_PER_MS)
    harness.replies.say(speech.request_id, 2, SegmentInfo(attempt=1, piece=2, offset_bytes=0, end=end), b"")
    harness.jobs.finish(speech.request_id)
    return chat, speech


def plays(harness: EdgeHarness, *args: Any) -> "asyncio.Task[tuple[ChatJob, SpeechJob]]":
    task = asyncio.ensure_future(play(harness, *args))
    harness.workers.append(task)
    return task


async def test_whole_reply_has_its_sound_and_transcript(harness: EdgeHarness) -> None:
    playing = plays(harness, frames("Hoo", "."))
    status, _, body = await harness.post(CHAT, spoken())
    chat, speech = await playing
    answer = ChatCompletion.model_validate_json(body)
    (choice,) = answer.choices
    assert status == 200
    assert choice.message.audio is not None
    assert choice.message.content is None
    assert (choice.message.audio.id, choice.message.audio.transcript) == (f"audio_{chat.request_id}", "Hoo.")
    assert base64.b64decode(choice.message.audio.data) == SOUND
    assert choice.message.audio.expires_at == answer.created + 20 * 60
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.audio_tokens == 0
    assert speech.narrates == NarratedReply(edge="edge0", request_id=chat.request_id)
    assert (speech.request.model, speech.request.voice, speech.request.text) == ("parrot", "ann", "")
    await harness.all_closed()
    assert not harness.jobs.cancelled


async def test_stream_has_transcript_and_sound_in_order(harness: EdgeHarness) -> None:
    plays(harness, frames("Hoo", " hoo."))
    _, headers, body = await harness.post(CHAT, spoken(stream=True, stream_options={"include_usage": True}))
    assert headers["Content-Type"] == "text/event-stream"
    events = read_events(body)
    assert all(ChatCompletionChunk.model_validate(event) for event in events)
    deltas = [event["choices"][0]["delta"] for event in events if event["choices"]]
    audio = [delta["audio"] for delta in deltas if "audio" in delta]
    assert deltas[0]["role"] == "assistant"
    assert audio[0]["id"].startswith("audio_")
    assert "".join(part.get("transcript", "") for part in audio) == "Hoo hoo."
    assert b"".join(base64.b64decode(part.get("data", "")) for part in audio) == SOUND
    assert audio[-1]["expires_at"] > 0
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert events[-1]["usage"]["completion_tokens_details"] == {
        "text_tokens": 2,
        "audio_tokens": 0,
        "reasoning_tokens": 0,
    }


async def test_wav_says_how_long_it_is(harness: EdgeHarness) -> None:
    plays(harness, frames("Hoo."))
    _, _, body = await harness.post(CHAT, spoken(audio={"format": "wav"}))
    data = base64.b64decode(json.loads(body)["choices"][0]["message"]["audio"]["data"])
    assert data[:4] == b"RIFF"
    assert int.from_bytes(data[4:8], "little") == len(data) - 8
    assert data.endswith(SOUND)


@pytest.mark.parametrize(
    ("over", "status", "param"),
    [
        ({"audio": {"voice": "zoe"}}, 400, "audio.voice"),
        ({"audio": {"model": "crow"}}, 404, "audio.model"),
        ({"audio": {"format": "ogg"}}, 400, "audio.format"),
        ({"audio": {"format": "wav"}, "stream": True}, 400, "audio.format"),
        ({"audio": {"speed": 9}}, 400, "audio.speed"),
        ({"model": "wolf"}, 404, "model"),
        ({"modalities": ["audio"]}, 400, "modalities"),
        ({"modalities": ["text", "video"]}, 400, "modalities[1]"),
        (
            {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}, {"role": "user", "content": "Hi"}]},
            400,
            "messages[0].audio.id",
        ),
    ],
)
async def test_what_is_not_on_offer_is_refused_with_its_field(
    harness: EdgeHarness, over: dict[str, Any], status: int, param: str
) -> None:
    got, _, body = await harness.post(CHAT, spoken() | over if "modalities" in over else spoken(**over))
    assert (got, json.loads(body)["error"]["param"]) == (status, param)
    assert not harness.quota.asked
    assert harness.jobs.queued == 0


async def test_audio_without_a_format_is_refused(harness: EdgeHarness) -> None:
    status, _, body = await harness.post(CHAT, asking(modalities=["text", "audio"]))
    assert (status, json.loads(body)["error"]["param"]) == (400, "audio")


async def test_another_model_speaks_where_it_is_named(harness: EdgeHarness) -> None:
    playing = plays(harness, frames("Hoo."))
    await harness.post(CHAT, spoken(audio={"model": "finch", "voice": {"id": "cid"}}))
    _, speech = await playing
    assert (speech.request.model, speech.request.voice) == ("finch", "cid")


async def test_text_alone_is_answered_as_always(harness: EdgeHarness) -> None:
    harness.plays(frames("Hoo."))
    _, _, body = await harness.post(CHAT, asking(modalities=["text"], audio={"format": "mp3"}))
    assert json.loads(body)["choices"][0]["message"]["content"] == "Hoo."


async def test_refused_chat_gives_back_the_speech(harness: EdgeHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    granted = harness.quota.reserve

    async def reserve(request: ReserveRequest) -> ReserveReply:
        harness.quota.refusal = LIMIT if request.kind == "chat" else None
        return await granted(request)

    monkeypatch.setattr(harness.quota, "reserve", reserve)
    status, _, _ = await harness.post(CHAT, spoken())
    assert status == 429
    await harness.all_closed()
    assert harness.jobs.queued == 0
    assert not harness.quota.held
    assert len(harness.quota.released) == 1


async def test_speech_that_is_refused_before_any_sound_is_an_error(harness: EdgeHarness) -> None:
    plays(harness, [], b"", SpeechEnd(reason="error", error=BUSY))
    status, headers, body = await harness.post(CHAT, spoken(stream=True))
    assert (status, json.loads(body)["error"]["code"]) == (429, "queue_full")
    assert headers["Retry-After"] == "3"
    await harness.all_closed()
    assert len(harness.jobs.cancelled) == 1


async def test_reply_that_fails_ends_both(harness: EdgeHarness) -> None:
    failed = ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="The engine failed.")
    speaking = asyncio.ensure_future(harness.jobs.next_speech())
    harness.plays([*frames("Hoo", end=None), ChatFrame(seq=1, attempt=1, end=ChatEnd(reason="error", error=failed))])
    _, _, body = await harness.post(CHAT, spoken(stream=True))
    events = read_events(body)
    assert events[-1]["error"]["code"] == "engine_failed"
    await harness.all_closed()
    assert harness.jobs.cancelled == [(await speaking).request_id]


async def test_client_that_leaves_cancels_both(harness: EdgeHarness) -> None:
    async with harness.session.post(harness.url + CHAT, json=spoken(stream=True)) as reply:
        speech, chat = await harness.jobs.next_speech(), await harness.jobs.next_chat()
        harness.replies.send(chat.request_id, frames("Hoo", end=None)[0])
        await reply.content.readany()
    await harness.all_closed()
    assert sorted(harness.jobs.cancelled) == sorted([speech.request_id, chat.request_id])


async def test_sound_that_a_limit_ends_counts_as_too_long(harness: EdgeHarness) -> None:
    plays(harness, frames("Hoo."), SOUND, SpeechEnd(reason="limit", audio_ms=10, error=LIMIT))
    _, _, body = await harness.post(CHAT, spoken())
    answer = json.loads(body)["choices"][0]
    assert answer["finish_reason"] == "length"
    assert base64.b64decode(answer["message"]["audio"]["data"]) == SOUND


async def test_reply_without_a_word_has_no_sound(harness: EdgeHarness) -> None:
    plays(harness, frames("🙂"), b"")
    status, _, body = await harness.post(CHAT, spoken(audio={"format": "mp3"}))
    assert status == 200
    assert json.loads(body)["choices"][0]["message"]["audio"]["transcript"] == "🙂"


async def test_audio_of_an_earlier_reply_stands_for_its_text(harness: EdgeHarness) -> None:
    earlier = "0123456789abcdef" * 2
    harness.replies.results[earlier] = ChatResult(
        request_id=earlier, model="owl", text="I am an owl.", end=ChatEnd(reason="stop", usage=USAGE)
    )
    worker = harness.plays(frames("Hoo."))
    messages = [
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "audio": {"id": f"audio_{earlier}"}},
        {"role": "user", "content": "Really?"},
    ]
    await harness.post(CHAT, asking(messages=messages))
    job = await worker
    assert [message.content for message in job.request.messages] == ["Who?", "I am an owl.", "Really?"]

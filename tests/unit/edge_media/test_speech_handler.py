import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.speech_duration import max_audio_ms
from callboard_contracts.workers import PoolRecord
from callboard_edge.domain import speech_stream
from callboard_edge.media.encoder_pool import EncodingSession
from callboard_edge.media.formats import AUDIO_FORMATS, FORMATS, AudioFormat
from tests.unit.edge_media.clips import decode, tone
from tests.unit.edge_media.harness import EdgeHarness, Script, Worker, running

pytestmark = pytest.mark.unit

BODY = {"model": "voicebox", "input": "Hello there.", "voice": "ann"}
FAILURE = ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="The engine failed.")
LIMIT = ErrorInfo(
    code=ErrorCode.QUOTA_EXCEEDED, message="Enough for today.", limit="key.tokens_per_day", retry_after_s=7.2
)


@pytest.fixture
async def harness() -> AsyncIterator[EdgeHarness]:
    async with running() as harness:
        yield harness


async def two_pieces(worker: Worker) -> None:
    worker.say(tone(2.0))
    await asyncio.sleep(0.02)
    worker.say(tone(1.0))
    await asyncio.sleep(0.02)
    worker.end()


async def whole_at_once(worker: Worker) -> None:
    worker.say(tone(0.5))
    worker.end()


async def fails_at_once(worker: Worker) -> None:
    worker.end("error", FAILURE)


async def fails_after_a_piece(worker: Worker) -> None:
    worker.say(tone(1.0))
    await asyncio.sleep(0.1)
    worker.end("error", FAILURE)


async def fails_together_with_a_piece(worker: Worker) -> None:
    worker.say(tone(1.0))
    worker.end("error", FAILURE)


async def is_limited_after_a_piece(worker: Worker) -> None:
    worker.say(tone(1.0))
    await asyncio.sleep(0.1)
    worker.end("limit", LIMIT)


async def is_limited_together_with_a_piece(worker: Worker) -> None:
    worker.say(tone(1.0))
    worker.end("limit", LIMIT)


async def is_limited_at_once(worker: Worker) -> None:
    worker.end("limit", LIMIT)


async def makes_no_sound(worker: Worker) -> None:
    worker.end()


def events(raw: bytes) -> list[dict[str, Any]]:
    blocks = raw.decode().split("\n\n")
    assert blocks[-1] == ""
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks[:-1])
    return [json.loads(block.removeprefix("data: ")) for block in blocks[:-1]]


@pytest.mark.parametrize("name", AUDIO_FORMATS)
async def test_clip_arrives_whole_in_every_format(harness: EdgeHarness, name: AudioFormat) -> None:
    harness.jobs.script = two_pieces
    async with harness.client.post(harness.url(), json={**BODY, "response_format": name}) as response:
        clip = await response.read()
        assert response.status == 200
        assert response.headers["Content-Type"] == FORMATS[name].content_type
        assert response.headers["x-request-id"].startswith("req_")
        assert response.headers["x-ratelimit-limit-tokens"] == "1000"
    heard = decode(name, clip)
    assert 3.0 <= heard.seconds < 3.13
    assert heard.longest_gap_s() < 0.01


async def test_mp3_is_what_a_plain_request_gets(harness: EdgeHarness) -> None:
    harness.jobs.script = two_pieces
    headers = {"x-request-id": "mine-1"}
    async with harness.client.post(harness.url(), json={**BODY, "response_format": None}, headers=headers) as response:
        assert response.headers["Content-Type"] == "audio/mpeg"
        assert response.headers["x-request-id"] == "mine-1"
        assert decode("mp3", await response.read()).codec.startswith("mp3")


@pytest.mark.parametrize("name", AUDIO_FORMATS)
async def test_bytes_leave_before_the_rest_is_spoken(harness: EdgeHarness, name: AudioFormat) -> None:
    heard = asyncio.Event()

    async def waits_for_the_listener(worker: Worker) -> None:
        worker.say(tone(1.0))
        await asyncio.wait_for(heard.wait(), 20)
        worker.say(tone(1.0))
        worker.end()

    harness.jobs.script = waits_for_the_listener
    async with harness.client.post(harness.url(), json={**BODY, "response_format": name}) as response:
        clip = b""
        while len(clip) < 3000:
            clip += await response.content.readany()
        heard.set()
        clip += await response.read()
    assert 2.0 <= decode(name, clip).seconds < 2.13


async def late(worker: Worker) -> None:
    await asyncio.sleep(0.4)
    await two_pieces(worker)


async def test_mp3_begins_with_an_empty_tag_that_grows_while_its_pool_wakes(
    harness: EdgeHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speech_stream, "KEEP_ALIVE_S", 0.05)
    harness.known.mark_loaded(0)
    harness.known.record("tts", "booth", PoolRecord(last_started_at=0))
    harness.jobs.script = late
    async with harness.client.post(harness.url(), json=BODY) as response:
        first = await response.content.readany()
        clip = first + await response.read()
    assert first.startswith(b"ID3")
    assert len(first) < 100
    heard = decode("mp3", clip)
    assert 3.0 <= heard.seconds < 3.13
    # The tag is as long as it says, and the sound begins right behind it.
    length = int.from_bytes(clip[6:10], "big")
    size = 10 + sum((length >> 8 * n & 0x7F) << 7 * n for n in range(4))
    assert clip[size] == 0xFF
    assert clip[len(first) : size].strip(b"\0") == b""


async def test_mp3_waits_in_silence_while_a_worker_is_there(
    harness: EdgeHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speech_stream, "KEEP_ALIVE_S", 0.05)
    harness.jobs.script = late
    async with harness.client.post(harness.url(), json=BODY) as response:
        assert not (await response.read()).startswith(b"ID3")


async def test_events_of_speech_are_kept_alive_by_comments(
    harness: EdgeHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speech_stream, "KEEP_ALIVE_S", 0.05)
    harness.jobs.script = late
    async with harness.client.post(harness.url(), json={**BODY, "stream_format": "sse"}) as response:
        raw = await response.read()
    assert raw.startswith(b": keep-alive\n\n: keep-alive\n\n")
    assert events(raw.replace(b": keep-alive\n\n", b""))[-1]["type"] == "speech.audio.done"


@pytest.mark.parametrize("name", ["wav", "pcm"])
async def test_length_is_given_where_it_is_known(harness: EdgeHarness, name: AudioFormat) -> None:
    harness.jobs.script = whole_at_once
    async with harness.client.post(harness.url(), json={**BODY, "response_format": name}) as response:
        clip = await response.read()
        assert response.headers["Content-Length"] == str(len(clip))
    assert clip.endswith(tone(0.5))
    if name == "wav":
        assert int.from_bytes(clip[40:44], "little") == len(tone(0.5))


async def test_events_carry_the_clip_and_its_usage(harness: EdgeHarness) -> None:
    harness.jobs.script = two_pieces
    async with harness.client.post(harness.url(), json={**BODY, "stream_format": "sse"}) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        *deltas, done = events(await response.read())
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    clip = b"".join(base64.b64decode(event["audio"]) for event in deltas)
    assert 3.0 <= decode("mp3", clip).seconds < 3.13
    assert done["type"] == "speech.audio.done"
    assert done["usage"] == {"input_tokens": 0, "output_tokens": 300, "total_tokens": 300, "audio_ms": 3000}


async def test_job_and_hold_say_what_was_asked(harness: EdgeHarness) -> None:
    harness.jobs.script = whole_at_once
    body = {"model": "tts-1", "input": "Hi, Ann.", "voice": {"id": "both"}, "speed": 2, "instructions": "softly"}
    async with harness.client.post(harness.url(), json=body) as response:
        assert response.status == 200
        await response.read()
    (job,) = harness.jobs.jobs
    request = job.request
    assert (request.model, request.text, request.voice) == ("voicebox", "Hi, Ann.", "ann(2)+bob(1)")
    assert (request.speed, request.instructions) == (2.0, "softly")
    assert harness.jobs.pools == ["booth"]
    assert (job.room, job.utterance) == ("main", job.request_id)
    assert harness.quota.reserved[0].work.audio_ms == max_audio_ms("Hi, Ann.", 2.0, 300, 600)


async def test_voice_left_out_is_the_default_one(harness: EdgeHarness) -> None:
    harness.jobs.script = whole_at_once
    async with harness.client.post(harness.url(), json={"model": "kokoro", "input": "Hi"}) as response:
        assert response.status == 200
        await response.read()
    assert harness.jobs.jobs[0].request.voice == "af_heart"


@pytest.mark.parametrize(
    ("named", "voice"),
    [({"voice": "bob"}, "bob"), ({"voice": "kobo"}, "ann"), ({"voice": "Bob.wav"}, "bob"), ({}, "ann")],
)
async def test_a_body_without_a_model_gets_the_first_and_any_voice(
    harness: EdgeHarness, named: dict[str, str], voice: str
) -> None:
    harness.jobs.script = whole_at_once
    for name in ("Wendelin", "wendelin", "Wendelin.wav"):
        async with harness.client.post(harness.url(), json={"input": "Hi", "voice": name}) as response:
            assert response.status == 200
            await response.read()
    async with harness.client.post(harness.url(), json={"input": "Hi", **named}) as response:
        assert response.status == 200
        await response.read()
    *unknown, known = [(job.request.model, job.request.voice) for job in harness.jobs.jobs]
    assert known == ("voicebox", voice)
    assert len(set(unknown)) == 1
    assert unknown[0][1] in ("ann", "bob")


@pytest.mark.parametrize(
    ("change", "status", "param", "code"),
    [
        ({"model": "nobody"}, 404, "model", "model_not_found"),
        ({"model": ["a"]}, 400, "model", "invalid_request"),
        ({"input": None}, 400, "input", "invalid_request"),
        ({"input": ""}, 400, "input", "invalid_request"),
        ({"input": " ... "}, 400, "input", "invalid_request"),
        ({"input": "x" * 4097}, 400, "input", "text_too_long"),
        ({"voice": "nobody"}, 400, "voice", "unknown_voice"),
        ({"voice": "ann(2)+nobody"}, 400, "voice", "unknown_voice"),
        ({"voice": {"name": "ann"}}, 400, "voice", "invalid_request"),
        ({"voice": 7}, 400, "voice", "invalid_request"),
        ({"speed": 0.2}, 400, "speed", "invalid_request"),
        ({"speed": 4.5}, 400, "speed", "invalid_request"),
        ({"speed": "fast"}, 400, "speed", "invalid_request"),
        ({"speed": True}, 400, "speed", "invalid_request"),
        ({"response_format": "ogg"}, 400, "response_format", "invalid_request"),
        ({"stream_format": "ws"}, 400, "stream_format", "invalid_request"),
        ({"instructions": "x" * 5000}, 400, "instructions", "invalid_request"),
    ],
)
async def test_wrong_field_is_named_and_nothing_is_held(
    harness: EdgeHarness, change: dict[str, Any], status: int, param: str, code: str
) -> None:
    async with harness.client.post(harness.url(), json={**BODY, **change}) as response:
        error = (await response.json())["error"]
        assert response.status == status
    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")
    assert harness.quota.reserved == []
    assert harness.jobs.jobs == []
    if code == "unknown_voice":
        assert "On offer: ann, bob, alloy, both." in error["message"]
    if code == "model_not_found":
        assert "voicebox, kokoro" in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b"null", b'{"model": NaN}', b'{"speed": Infinity}', b"\xff"),
        b'{"model": "voicebox", "input": "half a pair \\ud800"}',
    ],
)
async def test_body_that_is_no_json_object_is_refused(harness: EdgeHarness, body: bytes) -> None:
    async with harness.client.post(harness.url(), data=body) as response:
        assert response.status == 400
        assert "message" in (await response.json())["error"]
    assert harness.quota.reserved == []


async def test_quota_refusal_is_a_429_with_its_limits(harness: EdgeHarness) -> None:
    harness.quota.refusal = ErrorInfo(code=ErrorCode.QUOTA_EXCEEDED, message="Enough.", retry_after_s=7)
    async with harness.client.post(harness.url(), json=BODY) as response:
        assert response.status == 429
        assert response.headers["Retry-After"] == "7"
        assert response.headers["x-ratelimit-remaining-tokens"] == "900"
    assert harness.jobs.jobs == []


async def test_full_queue_is_a_429_and_the_hold_goes_back(harness: EdgeHarness) -> None:
    harness.jobs.refusal = CallboardError(ErrorCode.QUEUE_FULL, "Too many wait.", retry_after_s=1)
    async with harness.client.post(harness.url(), json=BODY) as response:
        assert response.status == 429
        assert response.headers["Retry-After"] == "1"
    assert len(harness.quota.released) == 1


@pytest.mark.parametrize("stream_format", ["audio", "sse"])
async def test_failure_before_the_first_byte_is_a_status(harness: EdgeHarness, stream_format: str) -> None:
    harness.jobs.script = fails_at_once
    async with harness.client.post(harness.url(), json={**BODY, "stream_format": stream_format}) as response:
        assert response.status == 502
        assert response.headers["x-should-retry"] == "true"
        assert (await response.json())["error"]["code"] == "engine_failed"


async def test_failure_known_before_the_first_byte_is_a_status_without_a_retry(harness: EdgeHarness) -> None:
    harness.jobs.script = fails_together_with_a_piece
    async with harness.client.post(harness.url(), json=BODY) as response:
        assert response.status == 502
        assert response.headers["x-should-retry"] == "false"


async def test_text_that_made_no_sound_is_refused(harness: EdgeHarness) -> None:
    harness.jobs.script = makes_no_sound
    async with harness.client.post(harness.url(), json=BODY) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == "input"


@pytest.mark.parametrize("name", AUDIO_FORMATS)
async def test_failure_in_the_middle_breaks_the_connection(harness: EdgeHarness, name: AudioFormat) -> None:
    harness.jobs.script = fails_after_a_piece
    async with harness.client.post(harness.url(), json={**BODY, "response_format": name}) as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_failure_in_the_middle_resets_an_old_clients_connection(harness: EdgeHarness) -> None:
    harness.jobs.script = fails_after_a_piece
    body = json.dumps(BODY).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.port)
    head = f"POST /v1/audio/speech HTTP/1.0\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 20)
    writer.close()


async def test_failure_in_the_middle_of_events_is_an_event(harness: EdgeHarness) -> None:
    harness.jobs.script = fails_after_a_piece
    async with harness.client.post(harness.url(), json={**BODY, "stream_format": "sse"}) as response:
        *deltas, last = events(await response.read())
    assert deltas
    assert last["error"]["code"] == "engine_failed"
    assert all(event["type"] == "speech.audio.delta" for event in deltas)


@pytest.mark.parametrize("script", [is_limited_after_a_piece, is_limited_together_with_a_piece])
@pytest.mark.parametrize("name", AUDIO_FORMATS)
async def test_clip_that_a_limit_ends_is_whole_as_far_as_it_goes(
    harness: EdgeHarness, name: AudioFormat, script: Script
) -> None:
    harness.jobs.script = script
    async with harness.client.post(harness.url(), json={**BODY, "response_format": name}) as response:
        assert response.status == 200
        clip = await response.read()
    assert 1.0 <= decode(name, clip).seconds < 1.13
    assert not harness.jobs.workers[harness.jobs.jobs[0].request_id].cancelled.is_set()


@pytest.mark.parametrize("script", [is_limited_after_a_piece, is_limited_together_with_a_piece])
async def test_events_that_a_limit_ends_name_it_last(harness: EdgeHarness, script: Script) -> None:
    harness.jobs.script = script
    async with harness.client.post(harness.url(), json={**BODY, "stream_format": "sse"}) as response:
        assert response.status == 200
        *deltas, last = events(await response.read())
    clip = b"".join(base64.b64decode(event["audio"]) for event in deltas)
    assert 1.0 <= decode("mp3", clip).seconds < 1.13
    assert last == {
        "error": {
            "message": "Enough for today.",
            "type": "rate_limit_error",
            "param": None,
            "code": "rate_limit_exceeded",
            "limit": "key.tokens_per_day",
            "retry_after": 8,
        }
    }


@pytest.mark.parametrize("stream_format", ["audio", "sse"])
async def test_limit_before_the_first_sound_is_a_429(harness: EdgeHarness, stream_format: str) -> None:
    harness.jobs.script = is_limited_at_once
    async with harness.client.post(harness.url(), json={**BODY, "stream_format": stream_format}) as response:
        assert response.status == 429
        assert response.headers["Retry-After"] == "8"
        assert response.headers["x-should-retry"] == "true"
        error = (await response.json())["error"]
    assert (error["message"], error["code"]) == ("Enough for today.", "rate_limit_exceeded")


async def test_only_the_first_slice_of_a_long_text_is_held(harness: EdgeHarness) -> None:
    harness.jobs.script = whole_at_once
    text = "This is a long text with many words in it. " * 20
    async with harness.client.post(harness.url(), json={**BODY, "input": text}) as response:
        assert response.status == 200
        await response.read()
    assert max_audio_ms(text, 1.0, 300, 600) > 15_000
    assert harness.quota.reserved[0].work.audio_ms == 15_000


async def test_encoder_that_breaks_ends_the_connection(harness: EdgeHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    harness.jobs.script = two_pieces
    calls = 0
    feed = EncodingSession.feed

    async def breaks(session: EncodingSession, pcm: bytes) -> bytes:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise TimeoutError
        return await feed(session, pcm)

    monkeypatch.setattr(EncodingSession, "feed", breaks)
    async with harness.client.post(harness.url(), json=BODY) as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


@pytest.mark.parametrize("before_the_first_byte", [True, False])
async def test_client_that_leaves_stops_the_worker(harness: EdgeHarness, before_the_first_byte: bool) -> None:
    async def speaks_on(worker: Worker) -> None:
        while not before_the_first_byte and not worker.cancelled.is_set():
            worker.say(tone(0.2))
            await asyncio.sleep(0.01)
        await worker.cancelled.wait()

    harness.jobs.script = speaks_on
    request = asyncio.ensure_future(harness.client.post(harness.url(), json=BODY))
    await asyncio.wait_for(harness.jobs.enqueued.wait(), 20)
    if before_the_first_byte:
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
    else:
        response = await request
        await response.content.readany()
        response.close()
    worker = harness.jobs.workers[harness.jobs.jobs[0].request_id]
    await asyncio.wait_for(worker.cancelled.wait(), 20)
    assert not worker.resume().open


async def test_slow_client_holds_the_edge_back_and_loses_nothing(harness: EdgeHarness) -> None:
    piece = tone(2.0)
    count = 150

    async def speaks_fast(worker: Worker) -> None:
        for _piece in range(count):
            worker.say(piece)
            await asyncio.sleep(0)
        worker.end()

    harness.jobs.script = speaks_fast
    async with harness.client.post(harness.url(), json={**BODY, "response_format": "pcm"}) as response:
        clip = bytearray(await response.content.readany())
        await asyncio.wait_for(harness.replies.full.wait(), 20)
        async for chunk in response.content.iter_any():
            clip += chunk
    assert len(clip) == count * len(piece)
    assert bytes(clip) == piece * count


async def test_voices_are_listed_with_aliases(harness: EdgeHarness) -> None:
    async with harness.client.get(harness.url("/v1/audio/voices")) as response:
        voices = (await response.json())["voices"]
    assert [voice["id"] for voice in voices[:4]] == ["ann", "bob", "alloy", "both"]
    assert len(voices) == 4 + 54
    async with harness.client.get(harness.url("/v1/audio/voices?model=tts-1")) as response:
        found = (await response.json())["voices"]
    unknown = {"language": None, "gender": None}
    assert found[2] == {"id": "alloy", "name": "alloy", **unknown, "models": ["voicebox"], "alias_of": "ann"}
    async with harness.client.get(harness.url("/v1/audio/voices?model=kokoro")) as response:
        voice = (await response.json())["voices"][3]
    heart = {"id": "af_heart", "name": "af_heart", "language": "en-us", "gender": "female", "models": ["kokoro"]}
    assert voice == heart
    async with harness.client.get(harness.url("/v1/audio/voices?model=tts-1&names=true")) as response:
        assert await response.json() == {"status": "ok", "voices": ["ann", "bob", "alloy", "both"]}
    async with harness.client.get(harness.url("/v1/audio/voices?model=nobody")) as response:
        assert response.status == 404

"""`/v1/audio/transcriptions` and `/translations`, and KoboldCpp's `/api/extra/transcribe`, over the fakes."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from openai import AsyncOpenAI, BadRequestError, DefaultAsyncHttpxClient, DefaultHttpxClient, OpenAI

from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.jobs import Service
from callboard_contracts.transcription import TranscriptionEnd, TranscriptionFrame, TranscriptionResult
from callboard_contracts.workers import OfferedModel, WorkerInfo
from tests.unit.edge.harness import EdgeHarness, heard, running

pytestmark = pytest.mark.unit

TRANSCRIPTIONS, TRANSLATIONS = "/v1/audio/transcriptions", "/v1/audio/translations"
KOBOLD = "/api/extra/transcribe"
SOUND = bytes(range(256)) * 40
AUDIO_DATA = base64.b64encode(SOUND).decode()


def form(sound: bytes | None = SOUND, /, **fields: Any) -> aiohttp.FormData:
    """A form with a file, which stands first."""
    data = aiohttp.FormData()
    if sound is not None:
        data.add_field("file", sound, filename="owl.wav", content_type="audio/wav")
    for name, value in {"model": "ear", **fields}.items():
        for one in value if isinstance(value, list) else [value]:
            data.add_field(name, one)
    return data


async def ask(harness: EdgeHarness, data: Any, path: str = TRANSCRIPTIONS, **headers: str) -> tuple[int, Any, bytes]:
    """Posts a form or bytes."""
    async with harness.session.post(harness.url + path, data=data, headers=headers) as reply:
        return reply.status, reply.headers, await reply.read()


def events(body: bytes) -> list[Any]:
    """The events of a stream."""
    *blocks, rest = body.decode().split("\n\n")
    assert rest == ""
    return [json.loads(block.removeprefix("data: ")) for block in blocks if not block.startswith(":")]


def error_of(body: bytes) -> tuple[str, str | None]:
    """The code and the field of an error."""
    found = json.loads(body)["error"]
    return found["code"], found["param"]


async def assert_nothing_happened(harness: EdgeHarness) -> None:
    """Nothing was held, enqueued or kept."""
    await harness.all_closed()
    assert (harness.quota.asked, harness.jobs.queued, harness.jobs.sounds) == ([], 0, {})


async def test_text_of_a_file_is_answered_and_its_sound_is_deleted(harness: EdgeHarness) -> None:
    worker = harness.hears(heard("Hello there.", "Good night."))
    stored = asyncio.ensure_future(_sound_when_queued(harness))
    fields: dict[str, Any] = {
        "prompt": "An owl speaks.",
        "language": "en-GB",
        "temperature": "0.2",
        "hotwords": "Owl, Wren",
    }
    status, headers, body = await ask(harness, form(**fields))
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body) == {"text": "Hello there. Good night.", "usage": {"type": "duration", "seconds": 2.0}}
    job = await worker
    request = job.request
    assert (request.model, request.task, request.language, request.prompt) == (
        "ear",
        "transcribe",
        "en",
        fields["prompt"],
    )
    assert (request.temperature, request.hotwords, request.word_timestamps) == (0.2, ("Owl", "Wren"), False)
    assert (job.parts, job.sound_bytes, await stored) == (1, len(SOUND), SOUND)
    (reserve,) = harness.quota.asked
    assert (reserve.kind, reserve.work.audio_ms) == ("transcription", 30_000)
    await harness.all_closed()
    await _sound_deleted(harness)


async def _sound_when_queued(harness: EdgeHarness) -> bytes:
    while not harness.jobs.sounds:
        await asyncio.sleep(0)
    return next(iter(harness.jobs.sounds.values()))


async def _sound_deleted(harness: EdgeHarness) -> None:
    async with asyncio.timeout(20):
        while harness.jobs.sounds:
            await asyncio.sleep(0.01)


async def test_verbose_json_has_segments_and_the_words_that_are_asked_for(harness: EdgeHarness) -> None:
    harness.hears(heard("Hello there.", "Good night."))
    body = (await ask(harness, form(response_format="verbose_json")))[2]
    found = json.loads(body)
    assert (found["task"], found["language"], found["duration"]) == ("transcribe", "english", 2.0)
    assert [one["id"] for one in found["segments"]] == [0, 1]
    first = found["segments"][0]
    assert first["compression_ratio"] > 0
    assert {**first, "compression_ratio": 0} == {
        "id": 0,
        "seek": 0,
        "start": 0.0,
        "end": 1.0,
        "text": " Hello there.",
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": -0.25,
        "compression_ratio": 0,
        "no_speech_prob": 0.0,
    }
    assert "words" not in found
    for names, present in ((["word"], {"words"}), (["word", "segment"], {"words", "segments"})):
        worker = harness.hears(heard("Hello there."))
        asked = form(**{"response_format": "verbose_json", "timestamp_granularities[]": names})
        found = json.loads((await ask(harness, asked))[2])
        assert {"words", "segments"} & set(found) == present
        assert found["words"][1] == {"word": "there.", "start": 0.25, "end": 0.5}
        assert (await worker).request.word_timestamps


@pytest.mark.parametrize(
    ("asked", "content_type", "expected"),
    [
        ("text", "text/plain; charset=utf-8", "Hello <there>. Good --> night.\n"),
        (
            "srt",
            "text/plain; charset=utf-8",
            "1\n00:00:00,000 --> 00:00:01,000\nHello <there>.\n\n2\n00:00:01,000 --> 00:00:02,000\nGood -> night.\n",
        ),
        (
            "vtt",
            "text/vtt; charset=utf-8",
            "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\nHello &lt;there&gt;.\n\n"
            "00:00:01.000 --> 00:00:02.000\nGood --&gt; night.\n",
        ),
    ],
)
async def test_other_formats_are_text(harness: EdgeHarness, asked: str, content_type: str, expected: str) -> None:
    harness.hears(heard("Hello <there>.", "Good --> night."))
    status, headers, body = await ask(harness, form(response_format=asked))
    assert (status, headers["Content-Type"], body.decode()) == (200, content_type, expected)


async def test_stream_sends_text_as_it_is_heard(harness: EdgeHarness) -> None:
    harness.hears(heard("Hello there.", "Good night."))
    status, headers, body = await ask(harness, form(stream="true"))
    assert (status, headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
    *deltas, done = events(body)
    assert {one["type"] for one in deltas} == {"transcript.text.delta"}
    assert "".join(one["delta"] for one in deltas) == done["text"] == "Hello there. Good night."
    assert (done["type"], done["usage"]["type"]) == ("transcript.text.done", "tokens")


async def test_stream_that_fails_shows_the_error_after_what_was_heard(harness: EdgeHarness) -> None:
    failed = TranscriptionEnd(
        reason="error", heard_ms=1000, error=ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="It broke.")
    )
    harness.hears([*heard("Hello there.", end=None), TranscriptionFrame(seq=1, attempt=1, end=failed)])
    status, _headers, body = await ask(harness, form(stream="true"))
    assert status == 200
    delta, failure = events(body)
    assert (delta["delta"], failure["error"]["code"]) == ("Hello there.", "engine_failed")


@pytest.mark.parametrize("stream", ["true", "false"])
async def test_failure_before_any_text_keeps_its_status(harness: EdgeHarness, stream: str) -> None:
    error = ErrorInfo(code=ErrorCode.INVALID_REQUEST, message="The file is no sound.", param="file")
    harness.hears([TranscriptionFrame(seq=0, attempt=1, end=TranscriptionEnd(reason="error", error=error))])
    status, _headers, body = await ask(harness, form(stream=stream))
    assert (status, error_of(body)) == (400, ("invalid_request", "file"))


async def test_silence_is_an_empty_text(harness: EdgeHarness) -> None:
    harness.hears(heard())
    assert json.loads((await ask(harness, form()))[2])["text"] == ""
    harness.hears(heard())
    (done,) = events((await ask(harness, form(stream="true")))[2])
    assert done["text"] == ""


async def test_translation_is_a_task_whose_language_is_english(harness: EdgeHarness) -> None:
    worker = harness.hears(heard("Good evening.", language="de"))
    asked = form(response_format="verbose_json", model="whisper-1")
    found = json.loads((await ask(harness, asked, TRANSLATIONS))[2])
    assert (found["task"], found["language"], found["text"]) == ("translate", "english", "Good evening.")
    assert (await worker).request.task == "translate"


async def test_kept_result_stands_for_frames_that_are_gone(harness: EdgeHarness) -> None:
    asking = asyncio.ensure_future(ask(harness, form()))
    job = await harness.jobs.next_transcription()
    frames = heard("Hello there.")
    (segment,), end = frames[0].segments, frames[1].end
    assert end is not None
    harness.replies.transcription_results[job.request_id] = TranscriptionResult(
        request_id=job.request_id, segments=(segment,), end=end
    )
    assert json.loads((await asking)[2])["text"] == "Hello there."


async def test_later_attempt_replaces_what_was_heard(harness: EdgeHarness) -> None:
    first = heard("Hello there.", "Good", end=None)
    harness.hears([*first, *heard("Hello there.", "Good night.", attempt=2)[1:]])
    assert json.loads((await ask(harness, form()))[2])["text"] == "Hello there. Good night."


async def test_client_that_leaves_cancels_its_job_and_the_sound_is_deleted(harness: EdgeHarness) -> None:
    asking = asyncio.ensure_future(ask(harness, form(stream="true")))
    job = await harness.jobs.next_transcription()
    harness.replies.write_down(job.request_id, heard("Hello there.", end=None)[0])
    await asyncio.sleep(0.1)
    asking.cancel()
    await harness.all_closed()
    assert harness.jobs.cancelled == [job.request_id]
    await _sound_deleted(harness)


BAD: dict[str, tuple[dict[str, Any], tuple[str, str | None]]] = {
    "unknown model": ({"model": "nobody"}, ("model_not_found", "model")),
    "unknown format": ({"response_format": "pdf"}, ("invalid_request", "response_format")),
    "speakers": ({"response_format": "diarized_json"}, ("unsupported", "response_format")),
    "probabilities": ({"include[]": "logprobs"}, ("unsupported", "include")),
    "unknown include": ({"include[]": "everything"}, ("invalid_request", "include[0]")),
    "temperature": ({"temperature": "hot"}, ("invalid_request", "temperature")),
    "too hot": ({"temperature": "1.5"}, ("invalid_request", "temperature")),
    "not a number": ({"temperature": "nan"}, ("invalid_request", "temperature")),
    "language": ({"language": "what owls speak"}, ("invalid_request", "language")),
    "words without their format": (
        {"timestamp_granularities[]": "word"}, ("invalid_request", "timestamp_granularities"),
    ),
    "unknown times": (
        {"timestamp_granularities[]": "syllable", "response_format": "verbose_json"},
        ("invalid_request", "timestamp_granularities[0]"),
    ),
    "stream of captions": ({"stream": "true", "response_format": "srt"}, ("unsupported", "response_format")),
    "long prompt": ({"prompt": "x" * 5000}, ("invalid_request", "prompt")),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
async def test_wrong_fields_are_named_and_cost_nothing(harness: EdgeHarness, name: str) -> None:
    fields, expected = BAD[name]
    status, _headers, body = await ask(harness, form(**fields))
    assert (status, error_of(body)) == (404 if name == "unknown model" else 400, expected)
    await assert_nothing_happened(harness)


async def test_forms_without_one_file_are_refused(harness: EdgeHarness) -> None:
    twice = form()
    twice.add_field("file", SOUND, filename="b.wav")
    for data, message in ((form(None), "Missing"), (form(b""), "empty"), (twice, "more than one file")):
        data.add_field("padding", b"x", filename="x")
        status, _headers, body = await ask(harness, data)
        assert (status, error_of(body)) == (400, ("invalid_request", "file"))
        assert message in json.loads(body)["error"]["message"]
    await assert_nothing_happened(harness)


@pytest.mark.parametrize("content_type", ["audio/wav", "application/x-www-form-urlencoded", "text/plain"])
async def test_other_content_types_are_refused(harness: EdgeHarness, content_type: str) -> None:
    status, _headers, body = await ask(harness, SOUND, **{"Content-Type": content_type})
    assert (status, error_of(body)[0]) == (415, "unsupported_media_type")
    await assert_nothing_happened(harness)


@pytest.mark.parametrize("announced", [True, False])
async def test_large_uploads_are_refused_and_not_kept(harness: EdgeHarness, announced: bool) -> None:
    async def pieces() -> AsyncGenerator[bytes]:
        yield b'--xYz\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
        for _ in range(100):
            yield bytes(10_000)

    headers = {"Content-Type": "multipart/form-data; boundary=xYz"}
    data = b"".join([piece async for piece in pieces()]) if announced else pieces()
    status, _headers, body = await ask(harness, data, **headers)
    assert (status, error_of(body)[0]) == (413, "body_too_large")
    await assert_nothing_happened(harness)


async def test_hold_that_is_refused_stores_no_sound(harness: EdgeHarness) -> None:
    harness.quota.refusal = ErrorInfo(code=ErrorCode.QUOTA_EXCEEDED, message="No more.")
    status, _headers, body = await ask(harness, form())
    assert (status, error_of(body)[0]) == (429, "rate_limit_exceeded")
    await harness.all_closed()
    assert (harness.jobs.queued, harness.jobs.sounds) == (0, {})


async def test_sound_that_cannot_be_stored_gives_its_hold_back(harness: EdgeHarness) -> None:
    harness.jobs.sound_failure = CallboardError(ErrorCode.OVERLOADED, "Too many sounds.", retry_after_s=5.0)
    status, headers, body = await ask(harness, form())
    assert (status, error_of(body)[0], headers["Retry-After"]) == (503, "overloaded", "5")
    await harness.all_closed()
    assert (harness.jobs.queued, harness.quota.held) == (0, {})


async def test_job_that_is_not_taken_leaves_neither_hold_nor_sound(harness: EdgeHarness) -> None:
    harness.jobs.failure = CallboardError(ErrorCode.QUEUE_FULL, "Full.", retry_after_s=1.0)
    status, _headers, body = await ask(harness, form())
    assert (status, error_of(body)[0]) == (429, "queue_full")
    await harness.all_closed()
    await _sound_deleted(harness)
    assert harness.quota.held == {}


def announce(harness: EdgeHarness, **over: Any) -> None:
    """Has a worker announce what it can."""
    offered = OfferedModel(name="ear", abilities=("transcription",), **over)
    service: Service = "stt"
    harness.known.announce(
        WorkerInfo(id="w", service=service, pool="stalls", backend="fake", models=(offered,), slots=1, at=0)
    )


async def test_what_the_model_cannot_do_is_refused(harness: EdgeHarness) -> None:
    announce(harness, languages=("en",))
    words = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    cases: list[tuple[str, dict[str, Any], str]] = [
        (TRANSLATIONS, {}, "model"),
        (TRANSCRIPTIONS, words, "timestamp_granularities"),
        (TRANSCRIPTIONS, {"hotwords": "owl"}, "hotwords"),
        (TRANSCRIPTIONS, {"language": "de"}, "language"),
    ]
    for path, fields, param in cases:
        status, _headers, body = await ask(harness, form(**fields), path)
        assert (status, error_of(body)) == (400, ("unsupported", param))
    await assert_nothing_happened(harness)


async def test_models_that_hear_are_listed(harness: EdgeHarness) -> None:
    async with harness.session.get(f"{harness.url}/v1/models") as reply:
        assert "ear" in [one["id"] for one in (await reply.json())["data"]]
    async with harness.session.get(f"{harness.url}/v1/models/whisper-1") as reply:
        assert reply.status == 200
    for task, ids in {"automatic-speech-recognition": ["ear"], "text-to-speech": ["parrot"]}.items():
        async with harness.session.get(f"{harness.url}/v1/models", params={"task": task}) as reply:
            assert [one["id"] for one in (await reply.json())["data"]] == ids
    async with harness.session.get(f"{harness.url}/v1/models?task=juggling") as reply:
        assert (reply.status, error_of(await reply.read())[1]) == (400, "task")


@pytest.mark.parametrize("prefix", ["", "data:audio/wav;base64,"])
@pytest.mark.parametrize("path", [TRANSCRIPTIONS, KOBOLD])
async def test_json_with_base64_is_taken_as_koboldcpp_takes_it(harness: EdgeHarness, path: str, prefix: str) -> None:
    worker = harness.hears(heard("Hello there.", "(wind howls)", "[BLANK_AUDIO]"))
    stored = asyncio.ensure_future(_sound_when_queued(harness))
    body = {"audio_data": prefix + AUDIO_DATA, "prompt": "", "suppress_non_speech": True, "langcode": "auto"}
    status, _headers, answer = await harness.post(path, body)
    only_speech = path == KOBOLD
    text = "Hello there." if only_speech else "Hello there. (wind howls) [BLANK_AUDIO]"
    assert (status, json.loads(answer)["text"]) == (200, text)
    assert (await worker).request.language is None
    assert await stored == SOUND


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain"])
async def test_koboldcpps_json_is_taken_however_it_is_labelled(harness: EdgeHarness, content_type: str) -> None:
    worker = harness.hears(heard("Hello there."))
    body = json.dumps({"audio_data": AUDIO_DATA}).encode()
    async with harness.session.post(harness.url + KOBOLD, data=body, headers={"Content-Type": content_type}) as reply:
        assert (reply.status, await reply.json()) == (200, {"text": "Hello there."})
    await worker


async def test_koboldcpp_takes_a_form_too_and_counts_what_it_wrote_down(harness: EdgeHarness) -> None:
    worker = harness.hears(heard("Guten Abend.", language="de"))
    status, _headers, answer = await ask(harness, form(model="koboldcpp", langcode="de"), KOBOLD)
    assert (status, json.loads(answer)) == (200, {"text": "Guten Abend."})
    assert (await worker).request.language == "de"
    async with harness.session.get(f"{harness.url}/api/extra/perf") as reply:
        assert (await reply.json())["total_transcribe_gens"] == 1
    async with harness.session.get(f"{harness.url}/api/extra/version") as reply:
        assert (await reply.json())["transcribe"] is True


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "audio_data"),
        ({"audio_data": ""}, 400, "audio_data"),
        ({"audio_data": "no base64!"}, 400, "audio_data"),
        ({"audio_data": "data:audio/wav"}, 400, "audio_data"),
        ({"audio_data": 7}, 400, "audio_data"),
        ({"audio_data": "A" * 280_000}, 413, "audio_data"),
    ],
)
async def test_wrong_base64_is_refused_in_koboldcpps_form(
    harness: EdgeHarness, body: dict[str, Any], status: int, param: str
) -> None:
    found, _headers, answer = await harness.post(KOBOLD, body)
    assert (found, json.loads(answer)["detail"]["param"]) == (status, param)
    await assert_nothing_happened(harness)


async def test_site_without_such_a_model_says_so_in_each_protocol() -> None:
    async with running({"stt": {"pools": {}, "models": {}}}) as deaf:
        deaf_status, _headers, body = await ask(deaf, form())
        assert (deaf_status, error_of(body)[0]) == (404, "model_not_found")
        status, _headers, answer = await deaf.post(KOBOLD, {"audio_data": AUDIO_DATA})
        assert (status, json.loads(answer)["detail"]["code"]) == (400, "unsupported")
        async with deaf.session.get(f"{deaf.url}/api/extra/version") as reply:
            assert (await reply.json())["transcribe"] is False


@asynccontextmanager
async def package(harness: EdgeHarness) -> AsyncGenerator[AsyncOpenAI]:
    """The `openai` package, pointed at the edge."""
    http = DefaultAsyncHttpxClient(headers={"Connection": "close"})
    async with AsyncOpenAI(base_url=harness.url + "/v1", api_key="none", max_retries=0, http_client=http) as client:
        yield client


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
async def test_openai_package_reads_every_format(harness: EdgeHarness) -> None:
    file = ("owl.wav", SOUND, "audio/wav")
    async with package(harness) as client:
        create = client.audio.transcriptions.create
        harness.hears(heard("Hello there."))
        found = await create(model="whisper-1", file=file)
        assert (found.text, found.usage.seconds if found.usage and found.usage.type == "duration" else 0) == (
            "Hello there.",
            1.0,
        )
        worker = harness.hears(heard("Hello there."))
        verbose = await create(
            model="ear",
            file=file,
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
            language="en",
            prompt="An owl.",
            temperature=0.5,
        )
        assert (verbose.duration, verbose.language, [one.word for one in verbose.words or ()]) == (
            1.0,
            "english",
            ["Hello", "there."],
        )
        assert [(one.start, one.end, one.text) for one in verbose.segments or ()] == [(0.0, 1.0, " Hello there.")]
        assert (await worker).request.temperature == 0.5
        for response_format, beginning in (("text", "Hello there."), ("srt", "1\n00:00"), ("vtt", "WEBVTT")):
            harness.hears(heard("Hello there."))
            text: Any = await create(model="ear", file=file, response_format=response_format)  # pyright: ignore[reportArgumentType,reportCallIssue]
            assert text.startswith(beginning)
        harness.hears(heard("Guten Abend."))
        assert (await client.audio.translations.create(model="ear", file=file)).text == "Guten Abend."  # pyright: ignore[reportDeprecated]


async def test_openai_package_streams_and_shows_errors(harness: EdgeHarness) -> None:
    file = ("owl.wav", SOUND, "audio/wav")
    async with package(harness) as client:
        harness.hears(heard("Hello there.", "Good night."))
        stream = await client.audio.transcriptions.create(model="ear", file=file, stream=True)
        seen = [event async for event in stream]
        assert "".join(event.delta for event in seen if event.type == "transcript.text.delta") == (
            "Hello there. Good night."
        )
        assert seen[-1].type == "transcript.text.done"
        with pytest.raises(BadRequestError, match="empty"):
            await client.audio.transcriptions.create(model="ear", file=("owl.wav", b"", "audio/wav"))
        with pytest.raises(BadRequestError, match="probabilities"):
            await client.audio.transcriptions.create(model="ear", file=file, include=["logprobs"])


async def test_openai_package_works_without_async_too(harness: EdgeHarness) -> None:
    harness.hears(heard("Hello there."))

    def ask_once() -> str:
        http = DefaultHttpxClient(headers={"Connection": "close"})
        with OpenAI(base_url=harness.url + "/v1", api_key="none", max_retries=0, http_client=http) as client:
            return client.audio.transcriptions.create(model="ear", file=("owl.wav", SOUND, "audio/wav")).text

    assert await asyncio.to_thread(ask_once) == "Hello there."

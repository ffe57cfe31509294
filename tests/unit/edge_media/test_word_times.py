"""Word timestamps as a client of `/v1/audio/speech` gets them."""

import base64
import json
from collections.abc import AsyncIterator

import pytest

from callboard_contracts.speech import BYTES_PER_MS, AudioSegment, SegmentInfo, SpokenWord
from callboard_edge.domain.reorder import SpeechReorderBuffer
from callboard_edge.domain.word_times import TimedWord, WordClock
from callboard_edge.media.formats import AUDIO_FORMATS, FORMATS, AudioFormat
from tests.unit.edge_media.clips import decode, tone
from tests.unit.edge_media.harness import EdgeHarness, Worker, running

pytestmark = pytest.mark.unit

BODY = {
    "model": "voicebox",
    "input": "Dr. No left.",
    "voice": "ann",
    "response_format": "pcm",
    "stream_format": "sse",
    "timestamp_granularities": ["word"],
}


@pytest.fixture
async def harness() -> AsyncIterator[EdgeHarness]:
    async with running() as harness:
        yield harness


async def two_pieces(worker: Worker) -> None:
    worker.say(
        tone(0.5),
        SpokenWord(word="Dr.", start_ms=0, end_ms=200),
        SpokenWord(word="No", start_ms=210, end_ms=499),
    )
    worker.say(tone(0.25), SpokenWord(word="left.", start_ms=50, end_ms=249))
    worker.end()


async def test_words_come_before_their_sound_and_count_from_the_beginning(harness: EdgeHarness) -> None:
    harness.jobs.script = two_pieces
    async with harness.client.post(harness.url(), json=BODY) as response:
        assert response.status == 200
        raw = await response.read()
    sounds = [base64.b64encode(sound).decode() for sound in (tone(0.5), tone(0.25))]
    assert raw.decode().split("\n\n")[:4] == [
        'data: {"type":"speech.audio.words","words":'
        '[{"word":"Dr.","start":0.0,"end":0.2},{"word":"No","start":0.21,"end":0.499}]}',
        f'data: {{"type":"speech.audio.delta","audio":"{sounds[0]}"}}',
        'data: {"type":"speech.audio.words","words":[{"word":"left.","start":0.55,"end":0.749}]}',
        f'data: {{"type":"speech.audio.delta","audio":"{sounds[1]}"}}',
    ]
    assert json.loads(raw.decode().split("\n\n")[4].removeprefix("data: "))["type"] == "speech.audio.done"
    assert harness.jobs.jobs[0].request.word_times


async def test_events_without_the_request_are_as_before(harness: EdgeHarness) -> None:
    harness.jobs.script = two_pieces
    async with harness.client.post(harness.url(), json={**BODY, "timestamp_granularities": None}) as response:
        await response.read()
    assert not harness.jobs.jobs[0].request.word_times


@pytest.mark.parametrize("name", AUDIO_FORMATS)
async def test_times_hold_for_the_decoded_audio_of_every_format(harness: EdgeHarness, name: AudioFormat) -> None:
    async def late_word(worker: Worker) -> None:
        worker.say(bytes(300 * BYTES_PER_MS) + tone(0.5), SpokenWord(word="left.", start_ms=300, end_ms=800))
        worker.end()

    harness.jobs.script = late_word
    async with harness.client.post(harness.url(), json={**BODY, "response_format": name}) as response:
        lines = (await response.read()).decode().strip().split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    clip = b"".join(base64.b64decode(event["audio"]) for event in events if event["type"] == "speech.audio.delta")
    (word,) = next(event["words"] for event in events if event["type"] == "speech.audio.words")
    assert decode(name, clip).silent_before_s(2000) == pytest.approx(word["start"], abs=0.01)


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"stream_format": "audio"}, 400, "unsupported"),
        ({"stream_format": None}, 400, "unsupported"),
        ({"model": "kokoro", "voice": "af_heart"}, 400, "unsupported"),
        ({"timestamp_granularities": ["segment"]}, 400, "invalid_request"),
        ({"timestamp_granularities": "word"}, 400, "invalid_request"),
    ],
)
async def test_what_cannot_be_told_is_refused(
    harness: EdgeHarness, change: dict[str, object], status: int, code: str
) -> None:
    async with harness.client.post(harness.url(), json={**BODY, **change}) as response:
        error = (await response.json())["error"]
        assert (response.status, error["code"]) == (status, code)
        assert "timestamp_granularities" in error["param"]
    assert harness.jobs.jobs == []


def segment(
    n: int, offset_ms: int, length_ms: int, *words: SpokenWord, attempt: int = 1, piece: int = 0
) -> AudioSegment:
    info = SegmentInfo(attempt=attempt, piece=piece, offset_bytes=offset_ms * BYTES_PER_MS, words=words)
    return AudioSegment(n, info, bytes(length_ms * BYTES_PER_MS))


def word(name: str, start_ms: int, end_ms: int) -> SpokenWord:
    return SpokenWord(word=name, start_ms=start_ms, end_ms=end_ms)


def test_repeats_of_another_worker_give_each_word_once_at_its_time() -> None:
    first, second, third = word("one", 0, 900), word("two", 950, 1400), word("three", 100, 400)
    buffer, clock = SpeechReorderBuffer(), WordClock(delay_ms=46)
    arriving = [
        segment(0, 0, 1000, first, second),
        # Another worker begins again, with segments of another length.
        segment(1, 0, 600, first, attempt=2),
        segment(2, 600, 900, second, attempt=2),
        segment(3, 0, 500, third, attempt=2, piece=1),
    ]
    ready = [one for each in arriving for one in buffer.feed([each])]
    assert sum(len(one.pcm) for one in ready) == 2000 * BYTES_PER_MS
    assert [found for one in ready for found in clock.words_of(one)] == [
        TimedWord("one", 46, 946),
        TimedWord("two", 996, 1446),
        TimedWord("three", 1646, 1946),
    ]


def test_only_formats_without_a_way_to_say_so_have_a_delay() -> None:
    assert {name for name, info in FORMATS.items() if info.delay_ms} == {"mp3", "aac"}

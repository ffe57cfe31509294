"""What Callboard adds to Kokoro: time to the first sound, time for a whole text, seams, and nothing left out."""

import asyncio
import http.client
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from callboard_contracts.headers import SEGMENT
from callboard_contracts.speech import SegmentInfo
from callboard_tts.domain.boundaries import Pause
from callboard_tts.domain.pieces import Piece, split_text
from tests.benchmarks.child import LineProcess
from tests.benchmarks.figures import Figure
from tests.support.audio import Samples, pcm_samples
from tests.support.deployment import Deployment
from tests.support.models import SPEECH_MODEL, VOICE, built_in_config, missing_model_files, model_file

FIRST_BYTE_MS = 60.0
WHOLE_SHARE = 1.15
SEAM_MS = 10.0
LONG_CHARACTERS = 4_000
START_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 600.0
BYTES_PER_SECOND = 48_000
PAIRS_A_ROUND = 3
REST_S = 0.5
"""Between two turns, since the threads of kokoro-onnx alone keep the processor busy for a while after their work."""
QUIET = 0.004
WINDOW = 60
"""Two and a half milliseconds: the grain in which a seam's silence is measured."""

PARAGRAPH = (
    "Good evening, and banner to the old theatre by the river. The curtain rises in a moment, so please find your "
    "seats. Tonight the company gives a send_load about a storm, two brothers and an owl that can count. "
    "Nobody has ever left before the end, although the roof leaks a little when it rains. "
    "If you hear knocking below the stage, do not be afraid; it is only the pump. "
)
SHORT_LINE = "Hello there, it is good to see you."

NOTES = """\
Kokoro's int8 ONNX file and one voice, through Callboard with the `kokoro_onnx` backend and one slot, and by kokoro-onnx
alone in a process of its own with the same text and voice; the two take turns, half a second apart. The first piece is
what Callboard cuts off the start of the text to be heard soon. A seam is the place between two pieces: what counts is
the silence there beyond the pause that the text calls for.
"""


@dataclass(frozen=True, slots=True)
class SpeechCost:
    """What was measured."""

    figures: list[Figure]


@dataclass(frozen=True, slots=True)
class Heard:
    """One speech as a client got it; `gap_s` is how far the sound ever fell behind somebody who listens."""

    pcm: bytes
    first_s: float
    whole_s: float
    gap_s: float
    request_id: str


class BareEngine(LineProcess):
    """kokoro-onnx in a process of its own."""

    def __init__(self) -> None:
        voice = model_file("tts.voices_file") / f"{VOICE}.bin"
        model = model_file("tts.model_file")
        super().__init__("kokoro-onnx alone", "tests.benchmarks.bare_kokoro", str(model), str(voice))
        assert self.line() == "ready"

    def speak(self, text: str) -> tuple[float, float]:
        """Seconds of work and seconds of sound for a text."""
        found = json.loads(self.ask(json.dumps(text)))
        return found["took_s"], found["audio_s"]


def measure(folder: Path, *, quick: bool) -> SpeechCost | str:
    """Measures a set of processes beside the bare engine; a text says why it could not."""
    missing = missing_model_files()
    if missing:
        return f"model files missing: {', '.join(missing)}"
    deployment = Deployment(folder, built_in_config(), sync="processes", log_level="info")
    try:
        deployment.start(chats=0)
        key = deployment.create_key("standard")
        with BareEngine() as bare:
            cost = _measure(deployment, key, bare, rounds=3 if quick else 7)
        deployment.stop()
    finally:
        deployment.abandon()
    return cost


def _measure(deployment: Deployment, key: str, bare: BareEngine, rounds: int) -> SpeechCost:
    pieces = split_text(PARAGRAPH, "en-us")
    hear(deployment, key, PARAGRAPH)
    first_alone, first_through = _first_sounds(deployment, key, bare, pieces[0].text, rounds)
    whole_alone: list[float] = []
    whole_through: list[float] = []
    heard: list[Heard] = []
    for _ in range(rounds):
        time.sleep(REST_S)
        one = hear(deployment, key, PARAGRAPH)
        heard.append(one)
        whole_through.append(one.whole_s)
        time.sleep(REST_S)
        whole_alone.append(bare.speak(PARAGRAPH)[0])
    long_text = _long_text()
    long_pieces = split_text(long_text, "en-us")
    long_alone_s, long_audio_s = bare.speak(long_text)
    long_heard = hear(deployment, key, long_text)
    seams = _seams(deployment, heard[-1], pieces) + _seams(deployment, long_heard, long_pieces)
    spoken = _spoken_pieces(deployment, long_heard)
    short_alone, short_beside = _short_lines(deployment, key, long_text, rounds)
    figures = [
        Figure(f"first piece alone ({len(pieces[0].text)} characters), p50", median(first_alone) * 1000, "ms"),
        Figure("first PCM byte through Callboard, p50", median(first_through) * 1000, "ms"),
        Figure(
            "first PCM byte after the first piece alone, p50",
            median(through - alone for alone, through in zip(first_alone, first_through, strict=True)) * 1000,
            "ms",
            FIRST_BYTE_MS,
        ),
        Figure(f"whole text alone ({len(PARAGRAPH)} characters), p50", median(whole_alone), "s"),
        Figure("whole text through Callboard, p50", median(whole_through), "s"),
        Figure("whole text, times the bare time", median(whole_through) / median(whole_alone), "x", WHOLE_SHARE),
        Figure(f"silence beyond the pause, worst of {len(seams)} seams", max(seams), "ms", SEAM_MS),
        Figure("sound that came too late for a listener, worst", max(one.gap_s for one in heard) * 1000, "ms"),
        Figure(f"text of {len(long_text)} characters, times the bare time", long_heard.whole_s / long_alone_s, "x"),
        Figure(f"its pieces spoken, of {len(long_pieces)}", spoken, "pieces", float(len(long_pieces)), "higher"),
        Figure("its sound, times that of kokoro-onnx alone", _audio_s(long_heard) / long_audio_s, "x"),
        Figure("first PCM byte of a short line alone, p50", median(short_alone), "s"),
        Figure(f"the same beside a text of {len(long_text)} characters, p50", median(short_beside), "s"),
        Figure("resident memory of the speech worker", deployment.speakers[0].running.resident_mb, "MB"),
    ]
    return SpeechCost(figures)


def _first_sounds(
    deployment: Deployment, key: str, bare: BareEngine, first_piece: str, rounds: int
) -> tuple[list[float], list[float]]:
    """Seconds to the first sound, alone and through Callboard, in pairs.

    One and the same piece takes up to a third longer at one moment than at another on a machine that others share, so
    the two of a pair follow at once on each other, and each comes first in every second pair.
    """
    alone: list[float] = []
    through: list[float] = []
    for number in range(rounds * PAIRS_A_ROUND):
        for turn in (number % 2, 1 - number % 2):
            time.sleep(REST_S)
            if turn:
                start, connection, reply = _ask(deployment, key, PARAGRAPH)
                reply.read1(2)
                through.append(time.monotonic() - start)
                connection.close()
            else:
                alone.append(bare.speak(first_piece)[0])
    return alone, through


def _short_lines(deployment: Deployment, key: str, long_text: str, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds to the first sound of a short line, alone and while a long text is spoken on the same slot."""
    alone: list[float] = []
    beside: list[float] = []
    for number in range(rounds):
        time.sleep(REST_S)
        alone.append(_first_sound(deployment, key, SHORT_LINE))
        _, long, reply = _ask(deployment, key, long_text)
        reply.read1(2)
        # Other moments of the long text's pieces each time.
        time.sleep(number * 0.4)
        beside.append(_first_sound(deployment, key, SHORT_LINE))
        long.close()
    return alone, beside


def _first_sound(deployment: Deployment, key: str, text: str) -> float:
    start, connection, reply = _ask(deployment, key, text)
    reply.read1(2)
    took_s = time.monotonic() - start
    connection.close()
    return took_s


def _ask(
    deployment: Deployment, key: str, text: str
) -> tuple[float, http.client.HTTPConnection, http.client.HTTPResponse]:
    """Asks for PCM; returns also when, by the monotonic clock."""
    body = json.dumps({"model": SPEECH_MODEL, "voice": VOICE, "input": text, "response_format": "pcm"})
    port = int(deployment.edges[0].config["edge"]["port"])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_TIMEOUT_S)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    start = time.monotonic()
    connection.request("POST", "/v1/audio/speech", body, headers)
    reply = connection.getresponse()
    if reply.status != 200:
        raise RuntimeError(f"speech failed: {reply.status}: {reply.read()[:500]!r}")
    return start, connection, reply


def hear(deployment: Deployment, key: str, text: str) -> Heard:
    """Asks for PCM and takes it as it comes."""
    since = len(asyncio.run(deployment.usage()))
    start, connection, reply = _ask(deployment, key, text)
    pcm = bytearray()
    first_s = 0.0
    gap_s = 0.0
    while part := reply.read1(65_536):
        now = time.monotonic() - start
        first_s = first_s or now
        gap_s = max(gap_s, (now - first_s) - len(pcm) / BYTES_PER_SECOND)
        pcm += part
    whole_s = time.monotonic() - start
    connection.close()
    return Heard(bytes(pcm), first_s, whole_s, gap_s, _utterance(deployment, since))


def _utterance(deployment: Deployment, since: int) -> str:
    """The id of the newest speech, as its usage event tells it; the event follows the last byte by a moment."""
    (event,) = asyncio.run(deployment.usage_of(1, since))
    return event.request_id


def _segments(deployment: Deployment, heard: Heard) -> list[tuple[SegmentInfo, int]]:
    messages = asyncio.run(deployment.read("AUDIO", f"audio.*.{heard.request_id}.*"))
    return [(SegmentInfo.model_validate_json(message.headers[SEGMENT]), len(message.data)) for message in messages]


def _spoken_pieces(deployment: Deployment, heard: Heard) -> int:
    return len({info.piece for info, length in _segments(deployment, heard) if length > BYTES_PER_SECOND // 10})


def _seams(deployment: Deployment, heard: Heard, pieces: Sequence[Piece]) -> list[float]:
    """The silence around each place between two pieces, less the pause that belongs there, in milliseconds."""
    config: dict[str, Any] = built_in_config()["tts"]
    pauses = {
        Pause.NONE: 0.0,
        Pause.CLAUSE: float(config.get("comma_pause_ms", 300)),
        Pause.SENTENCE: float(config.get("sentence_pause_ms", 600)),
    }
    samples = pcm_samples(heard.pcm)
    at = 0
    found: list[float] = []
    for info, length in _segments(deployment, heard):
        at += length
        if info.piece_done and info.piece + 1 < len(pieces):
            wanted = pauses[pieces[info.piece + 1].pause_before]
            found.append(_silence_around(samples, at // 2) - wanted)
    return found


def _silence_around(samples: Samples, place: int) -> float:
    """The length of the quiet stretch that holds a place or touches it, in milliseconds."""
    count = len(samples) // WINDOW
    quiet = np.sqrt(np.mean(np.square(samples[: count * WINDOW].reshape(count, WINDOW)), axis=1)) < QUIET
    last = min(count - 1, place // WINDOW)
    first = last
    while first > 0 and quiet[first - 1]:
        first -= 1
    while last < count and quiet[last]:
        last += 1
    return (last - first) * WINDOW / 24.0


def _audio_s(heard: Heard) -> float:
    return len(heard.pcm) / BYTES_PER_SECOND


def _long_text() -> str:
    """Four thousand characters of sentences that all differ."""
    who = ("owl", "pilot", "miller", "clown", "queen", "tailor")
    text = ""
    number = 0
    while len(text) < LONG_CHARACTERS:
        text += f"Line {number} of the evening tells how the {who[number % len(who)]} crossed the river. "
        number += 1
    text = text[:LONG_CHARACTERS].rpartition(". ")[0] + ". "
    return text + ("And so on " * LONG_CHARACTERS)[: LONG_CHARACTERS - len(text) - 1].rstrip() + "."

"""What Callboard adds to Whisper: the time to write a sound down, over the time of faster-whisper alone."""

import asyncio
import http.client
import json
import time
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from callboard_cli.models.catalogue import select
from callboard_contracts.config import SiteSection
from callboard_kit.model_files import model_path
from tests.benchmarks.child import LineProcess
from tests.benchmarks.figures import Figure
from tests.benchmarks.speech_cost import ANSWER_TIMEOUT_S, PARAGRAPH, REST_S, hear
from tests.support.deployment import Deployment
from tests.support.forms import FORM, form
from tests.support.models import built_in_config, missing_model_files
from tests.support.processes import Table, merged
from tests.support.sounds import wav

WHISPER = "whisper-base"
SPOKEN_RATE_HZ = 24_000
TIMES_ALONE = 1.1

NOTES = """\
A paragraph that Kokoro spoke is written down by Whisper base: by one worker of `callboard up` with the `faster_whisper`
backend, as a client waits for it, and by faster-whisper alone in a process of its own with the same file and settings.
The two take turns, half a second apart. The real-time factor is the time divided by the length of the sound.
"""


@dataclass(frozen=True, slots=True)
class RecognitionCost:
    """What was measured."""

    figures: list[Figure]


class BareWhisper(LineProcess):
    """faster-whisper in a process of its own."""

    def __init__(self) -> None:
        model = str(model_path(SiteSection(), WHISPER))
        super().__init__("faster-whisper alone", "tests.benchmarks.bare_whisper", model)

    def hear(self, file: Path) -> dict[str, Any]:
        """Writes a file down; returns its figures."""
        return json.loads(self.ask(json.dumps(str(file))))


def measure(folder: Path, *, quick: bool) -> RecognitionCost | str:
    """Measures a set of processes beside the bare engine; a text says why it could not."""
    if missing := missing_hearing_files():
        return f"model files missing: {', '.join(missing)}"
    deployment = Deployment(folder, hearing_config(), sync="processes", log_level="info")
    try:
        deployment.start(chats=0)
        deployment.add_recogniser().wait_ready()
        key = deployment.create_key("standard")
        sound = folder / "paragraph.wav"
        sound.write_bytes(wav(np.frombuffer(hear(deployment, key, PARAGRAPH).pcm, np.int16), SPOKEN_RATE_HZ))
        with BareWhisper() as bare:
            figures = _measure(deployment, key, bare, sound, rounds=5 if quick else 15)
        deployment.stop()
    finally:
        deployment.abandon()
    return RecognitionCost(figures)


def missing_hearing_files() -> list[str]:
    """The names of the files of all three engines that are not there."""
    folder = model_path(SiteSection(), WHISPER).parent
    missing = [file.name for file in select([WHISPER]) if not (folder / file.name).exists()]
    return [*missing_model_files(), *missing]


def hearing_config() -> Table:
    """What `callboard up` runs, with its recogniser."""
    text = files("callboard_cli").joinpath("callboard.toml").read_text(encoding="utf-8")
    return merged(built_in_config(), {"stt": tomllib.loads(text)["stt"]})


def _measure(deployment: Deployment, key: str, bare: BareWhisper, sound: Path, rounds: int) -> list[Figure]:
    content = sound.read_bytes()
    alone: list[float] = []
    through: list[float] = []
    told: Any = {}
    words = 0
    # One of each goes before, so that both are warm.
    for number in range(rounds + 1):
        for turn in (number % 2, 1 - number % 2):
            time.sleep(REST_S)
            if turn:
                took_s, words = _transcribed(deployment, key, content)
                through.append(took_s)
            else:
                told = bare.hear(sound)
                alone.append(told["took_s"])
    audio_s = float(told["audio_s"])
    pairs = list(zip(alone[1:], through[1:], strict=True))
    (event, *_) = asyncio.run(deployment.usage())[-1:]
    assert abs(event.work.audio_ms / 1000 - audio_s) < 0.01, event
    return [
        Figure(f"real-time factor of faster-whisper alone ({audio_s:.0f} s), p50", median(alone[1:]) / audio_s, "x"),
        Figure("real-time factor through Callboard, p50", median(through[1:]) / audio_s, "x"),
        Figure("time through Callboard, times that alone, p50", median(b / a for a, b in pairs), "x", TIMES_ALONE),
        Figure(f"words through Callboard, of {told['words']} alone", words, "words"),
        Figure("resident memory of the recogniser", deployment.recognisers[0].running.resident_mb, "MB"),
    ]


def _transcribed(deployment: Deployment, key: str, content: bytes) -> tuple[float, int]:
    """Seconds until a client has the text, and how many words it has."""
    port = int(deployment.edges[0].config["edge"]["port"])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_TIMEOUT_S)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": FORM}
    start = time.monotonic()
    connection.request("POST", "/v1/audio/transcriptions", form({"model": "whisper-1"}, content), headers)
    reply = connection.getresponse()
    body = reply.read()
    took_s = time.monotonic() - start
    connection.close()
    if reply.status != 200:
        raise RuntimeError(f"transcription failed: {reply.status}: {body[:500]!r}")
    return took_s, len(json.loads(body)["text"].split())

"""How fast the engines for GPUs are, alone: `python -m tests.benchmarks.gpu_cost [--device cuda] [--quick]`.

It stands apart from the other figures because it runs where nothing but the engines is installed: it needs
`callboard-tts[torch]` and Kokoro's model folder for torch, and `callboard-stt[whisper]` and a Whisper model.
"""

import argparse
import asyncio
import json
import random
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, aclosing
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from callboard_contracts.config import SiteSection
from callboard_contracts.transcription import TranscriptionRequest, text_of
from callboard_kit.memory_limit import limit_memory, used_bytes
from callboard_kit.model_files import model_path
from tests.benchmarks.child import LineProcess
from tests.benchmarks.figures import Figure, percentile, table

RATE_HZ = 24_000
HEARD_RATE_HZ = 16_000
VOICE = "af_heart"
LENGTHS = (20, 60, 120, 240)
FIRST_PIECE = "Hello there, it is good to see you."
WHO = ("owl", "pilot", "miller", "clown", "queen", "tailor", "doctor", "sailor", "baker", "judge")
DID = ("crossed the river", "climbed the tower", "counted the stars", "closed the theatre", "sang to the moon")
WHEN = ("before the rain came", "at a quarter to nine", "while everybody slept", "without a word", "for the last time")
WORKER_TEXTS = 40
QUICK_WORKER_TEXTS = 2


class Spoken(NamedTuple):
    """A piece of sound, and the seconds that it took."""

    took_s: float
    samples: Any


def main() -> None:
    """Measures what is there, and prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu_cost", description=__doc__)
    parser.add_argument("parts", nargs="*", default=["speech", "recognition"], help="speech, recognition")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="cuda")
    parser.add_argument("--kokoro", type=Path, default=model_path(SiteSection(), "kokoro-82m"))
    parser.add_argument("--voices", type=Path, default=model_path(SiteSection(), "kokoro-voices"))
    parser.add_argument("--whisper", type=Path, default=model_path(SiteSection(), "whisper-base"))
    parser.add_argument("--sound", type=Path, default=Path("spoken.npz"), help="what speech writes, to be heard back")
    parser.add_argument(
        "--workers", type=int, nargs="*", default=[1, 2, 4, 8], help="how many processes share the card"
    )
    parser.add_argument("--memory-limit-mib", type=int, help="as a pool's memory_limit_mib")
    parser.add_argument("--quick", action="store_true", help="fewer samples, for a look")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    limit_memory(arguments.memory_limit_mib)
    if arguments.worker is not None:
        asyncio.run(_worker(arguments))
        return
    if "speech" in arguments.parts:
        print("\n".join(["## Kokoro", "", *table(asyncio.run(_speech(arguments))), ""]), flush=True)
    if "recognition" in arguments.parts:
        print("\n".join(["## Whisper", "", *table(asyncio.run(_recognition(arguments))), ""]), flush=True)


def texts(seed: int, characters: int, count: int) -> list[str]:
    """Different texts of about so many characters, the same for the same seed."""
    chance = random.Random(seed)
    found: list[str] = []
    for _ in range(count):
        text = ""
        while len(text) < characters:
            text += f"The {chance.choice(WHO)} {chance.choice(DID)} {chance.choice(WHEN)}. "
        end = text.rfind(" ", 0, characters + 1)
        found.append(text[:end].rstrip(" .") + ".")
    return found


async def _speech(arguments: argparse.Namespace) -> list[Figure]:
    few = arguments.quick
    figures: list[Figure] = []
    engine, ready_s = await _kokoro(arguments, slots=8)
    figures.append(Figure("start to ready, warm-up included", ready_s, "s"))
    first = [await _speak(engine, FIRST_PIECE) for _ in range(3 if few else 20)]
    figures.append(Figure("first piece of 35 characters, first time", first[0].took_s * 1000, "ms"))
    figures.append(Figure("the same, p50", median(one.took_s for one in first) * 1000, "ms"))
    said: list[str] = []
    kept: list[Any] = []
    for length in LENGTHS:
        wanted = texts(length, length, 2 if few else 16)
        spoken = [await _speak(engine, text) for text in wanted]
        said += wanted[:3]
        kept += [one.samples for one in spoken[:3]]
        name = f"piece of {length} characters ({_sound_s(spoken) / len(spoken):.1f} s)"
        figures += [
            Figure(f"{name}, p50", median(one.took_s for one in spoken) * 1000, "ms"),
            Figure(f"{name}, p95", percentile([one.took_s for one in spoken], 0.95) * 1000, "ms"),
            Figure(f"{name}, seconds of sound a second", _sound_s(spoken) / sum(o.took_s for o in spoken), "x"),
        ]
    for slots in (1, 2) if few else (1, 2, 4, 8):
        wanted = texts(100 + slots, 150, (1 if few else 12) * slots)
        began = time.monotonic()
        spoken = await _side_by_side(slots, [_speaking(engine, text) for text in wanted])
        figures += [
            Figure(f"{slots} slots, seconds of sound a second", _sound_s(spoken) / (time.monotonic() - began), "x"),
            Figure(f"{slots} slots, a piece of 150 characters, p50", median(o.took_s for o in spoken) * 1000, "ms"),
        ]
    figures += _memory(arguments)
    await engine.close()
    for workers in arguments.workers:
        figures.append(Figure(f"{workers} workers, seconds of sound a second", _workers(arguments, workers), "x"))
    np.savez(arguments.sound, *kept)
    arguments.sound.with_suffix(".json").write_text(json.dumps(said), encoding="utf-8")
    return figures


async def _kokoro(arguments: argparse.Namespace, slots: int) -> tuple[Any, float]:
    from callboard_tts.backends.kokoro import KokoroEngine

    began = time.monotonic()
    engine = KokoroEngine(arguments.kokoro, arguments.voices, slots, None, arguments.device)
    await engine.load()
    return engine, time.monotonic() - began


async def _speak(engine: Any, text: str) -> Spoken:
    from callboard_tts.domain.ports import PieceRequest
    from callboard_tts.domain.voices import choose_voice

    piece = PieceRequest(0, text, choose_voice(VOICE, None, engine.voices()), 1.0, "kokoro")
    began = time.monotonic()
    async with aclosing(engine.synthesise(piece)) as parts:
        samples = np.concatenate([part.samples async for part in parts])
    return Spoken(time.monotonic() - began, samples)


def _speaking(engine: Any, text: str) -> Callable[[], Awaitable[Spoken]]:
    return lambda: _speak(engine, text)


async def _side_by_side(lanes: int, works: Sequence[Callable[[], Awaitable[Any]]]) -> list[Any]:
    """Does all the works, so many at a time."""
    waiting = list(reversed(works))
    done: list[Any] = []

    async def lane() -> None:
        while waiting:
            done.append(await waiting.pop()())

    async with asyncio.TaskGroup() as group:
        for _ in range(lanes):
            group.create_task(lane())
    return done


def _sound_s(spoken: Sequence[Spoken]) -> float:
    return sum(one.samples.size for one in spoken) / RATE_HZ


def _workers(arguments: argparse.Namespace, count: int) -> float:
    """Seconds of sound that so many processes on the device make in a second."""
    options = ["--device", arguments.device, "--kokoro", str(arguments.kokoro), "--voices", str(arguments.voices)]
    options += ["--quick"] if arguments.quick else []
    with ExitStack() as stack:
        processes = [
            stack.enter_context(LineProcess("a worker", "tests.benchmarks.gpu_cost", *options, "--worker", str(number)))
            for number in range(count)
        ]
        for process in processes:
            process.line()
        began = time.monotonic()
        for process in processes:
            process.say("go")
        return sum(float(process.line()) for process in processes) / (time.monotonic() - began)


async def _worker(arguments: argparse.Namespace) -> None:
    engine, _ = await _kokoro(arguments, 1)
    wanted = texts(1_000 + arguments.worker, 150, QUICK_WORKER_TEXTS if arguments.quick else WORKER_TEXTS)
    print("ready", flush=True)
    await asyncio.to_thread(input)
    print(_sound_s([await _speak(engine, text) for text in wanted]), flush=True)


async def _recognition(arguments: argparse.Namespace) -> list[Figure]:
    from callboard_stt.backends.faster_whisper import FasterWhisperEngine

    figures: list[Figure] = []
    began = time.monotonic()
    engine = FasterWhisperEngine(arguments.whisper, 8, None, arguments.device, 1, 60.0)
    await engine.load()
    figures.append(Figure("start to ready", time.monotonic() - began, "s"))
    said: list[str] = json.loads(arguments.sound.with_suffix(".json").read_text(encoding="utf-8"))
    with np.load(arguments.sound) as archive:
        sounds = [_for_whisper(archive[name]) for name in archive.files]
    heard = [await _hear(engine, sound) for sound in sounds]
    figures.append(Figure("first sound, first time", heard[0][0] * 1000, "ms"))
    wrong = sum(_wrong_words(text, told) for text, (_, told) in zip(said, heard, strict=True))
    figures.append(Figure(f"words heard wrong, of {sum(len(text.split()) for text in said)}", wrong, "words"))
    every = np.concatenate(sounds)
    # No more than was spoken: sound that repeats itself has Whisper try again and again.
    for seconds in (2, 5, 10, 25, 60):
        sound = every[: seconds * HEARD_RATE_HZ]
        took = [(await _hear(engine, sound))[0] for _ in range(3 if arguments.quick else 10)]
        figures.append(Figure(f"sound of {seconds} s, p50", median(took) * 1000, "ms"))
        figures.append(Figure(f"sound of {seconds} s, real-time factor", median(took) / seconds, "x"))
    sound = every[: 10 * HEARD_RATE_HZ]
    for slots in (1, 2) if arguments.quick else (1, 2, 4, 8):
        works = [lambda: _hear(engine, sound)] * (slots * (2 if arguments.quick else 8))
        began = time.monotonic()
        took = [one[0] for one in await _side_by_side(slots, works)]
        whole_s = time.monotonic() - began
        figures.append(Figure(f"{slots} slots, seconds of sound a second", 10 * len(took) / whole_s, "x"))
        figures.append(Figure(f"{slots} slots, a sound of 10 s, p50", median(took) * 1000, "ms"))
    figures += _memory(arguments)
    await engine.close()
    return figures


async def _hear(engine: Any, samples: Any) -> tuple[float, str]:
    from callboard_stt.domain.ports import Sound

    request = TranscriptionRequest(model="whisper")
    began = time.monotonic()
    segments: list[Any] = []
    async with aclosing(engine.transcribe("whisper", Sound(samples, b"", "wav"), request)) as found:
        async for recognised in found:
            segments += recognised.segments
    return time.monotonic() - began, text_of(segments)


def _for_whisper(samples: Any) -> Any:
    moments = np.arange(0, samples.size, RATE_HZ / HEARD_RATE_HZ)
    return (np.interp(moments, np.arange(samples.size), samples).clip(-1, 1) * 32767).astype(np.int16)


def _wrong_words(said: str, heard: str) -> int:
    """The edits between two texts in words, whatever their marks."""
    wanted, told = (["".join(filter(str.isalnum, word)) for word in text.lower().split()] for text in (said, heard))
    row = list(range(len(told) + 1))
    for number, word in enumerate(wanted, 1):
        before, row[0] = row[0], number
        for place, other in enumerate(told, 1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (word != other))
    return row[-1]


def _memory(arguments: argparse.Namespace) -> list[Figure]:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    figures = [
        Figure("resident memory of the process", int(status["VmRSS"].split()[0]) / 1024, "MiB"),
        Figure("of it, what memory_limit_mib counts", used_bytes() / 1024**2, "MiB"),
    ]
    if arguments.device == "cuda":
        told = subprocess.run(
            ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        figures.append(Figure("memory of the card in use", float(told.stdout.split()[0]), "MiB"))
    return figures


if __name__ == "__main__":
    main()

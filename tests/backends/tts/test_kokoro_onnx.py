"""The real Kokoro through ONNX Runtime."""

import asyncio
import itertools
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from callboard_contracts.speech import SAMPLE_RATE_HZ
from callboard_tts.backends.kokoro_onnx import KokoroOnnxEngine
from callboard_tts.domain.boundaries import Pause
from callboard_tts.domain.pieces import split_text
from callboard_tts.domain.ports import PieceRequest
from callboard_tts.domain.pronunciation import NO_WORDS
from callboard_tts.domain.sound import Trimmer, quiet_stretches
from callboard_tts.domain.splitting import Limits
from callboard_tts.domain.voices import choose_voice
from callboard_tts.domain.words import piece_words
from callboard_worker.engine import EngineUnavailable
from tests.backends.tts.kokoro_files import MODEL, VOICES, real_files_missing, write_voices
from tests.backends.tts.suite import TEXT, Rig, SpeechEngineSuite, speak
from tests.support.memory import anonymous_bytes

pytestmark = [
    pytest.mark.backend,
    pytest.mark.timeout(400),
    # misaki opens its second Japanese dictionary with a deprecated call when a word first needs it.
    pytest.mark.filterwarnings("ignore:Dictionary.create:DeprecationWarning"),
    pytest.mark.skipif(bool(real_files_missing()), reason=str(real_files_missing())),
]


class OnnxRig(Rig):
    def __init__(self) -> None:
        self.onnx = KokoroOnnxEngine(MODEL, VOICES)
        self.engine = self.onnx

    async def busy(self) -> int:
        return self.onnx.active

    def breaks(self, text: str) -> PieceRequest:
        return replace(self.piece(text), voice=replace(self.choice(), language="xx"))


_loaded: list[OnnxRig] = []
"""The engine is loaded once for the module; nothing in it belongs to an event loop."""


@pytest.fixture
async def rig() -> OnnxRig:
    if not _loaded:
        rig = OnnxRig()
        await rig.engine.load()
        _loaded.append(rig)
    return _loaded[0]


class TestKokoroOnnx(SpeechEngineSuite):
    pass


def seconds(sound: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
    trimmer = Trimmer()
    return (trimmer.feed(sound).size + trimmer.finish().size) / SAMPLE_RATE_HZ


@pytest.mark.slow
@pytest.mark.parametrize(
    ("voice", "text"),
    [
        ("bf_emma", "The owl is on the roof tonight."),
        ("ef_dora", "El búho está en el tejado esta noche."),
        ("ff_siwis", "Le hibou est sur le toit ce soir."),
        ("hf_alpha", "उल्लू आज रात छत पर है।"),
        ("if_sara", "Il gufo è sul tetto stasera."),
        ("jf_alpha", "梟は今夜、屋根の上にいます。"),
        ("pf_dora", "A coruja está no telhado hoje à noite."),
        ("zf_xiaobei", "猫头鹰今晚在屋顶上。"),
    ],
)
async def test_every_language_is_spoken(rig: OnnxRig, voice: str, text: str) -> None:
    choice = choose_voice(voice, None, rig.engine.voices())
    assert 0.8 < seconds(await speak(rig.engine, replace(rig.piece(text), voice=choice))) < 6


@pytest.mark.slow
async def test_speed_between_whole_numbers_is_honoured(rig: OnnxRig) -> None:
    usual = seconds(await speak(rig.engine, rig.piece()))
    assert seconds(await speak(rig.engine, rig.piece(speed=1.5))) == pytest.approx(usual / 1.5, rel=0.2)
    assert seconds(await speak(rig.engine, rig.piece(speed=0.5))) == pytest.approx(usual * 2, rel=0.2)


def silences_ms(sound: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> list[float]:
    """The silences inside a piece that are long enough to be pauses."""
    inner = quiet_stretches(sound)
    return [
        (end - begin) * 1000 / SAMPLE_RATE_HZ
        for begin, end in inner
        if begin and end < sound.size - SAMPLE_RATE_HZ // 100 and end - begin > SAMPLE_RATE_HZ // 5
    ]


@pytest.mark.slow
@pytest.mark.parametrize("voice", ["af_heart", "am_adam", "bf_emma"])
async def test_pauses_of_one_kind_are_equal(rig: OnnxRig, voice: str) -> None:
    text = (
        "It rained. Nobody spoke. He had walked for three days. On the fourth morning he came to a river! Was it far?"
    )
    piece = replace(
        rig.piece(text),
        voice=choose_voice(voice, None, rig.engine.voices()),
        pauses_ms={Pause.NONE: 0, Pause.CLAUSE: 300, Pause.SENTENCE: 600},
    )
    sound = await speak(rig.engine, piece)
    # A worker that takes over makes the same sound again.
    assert np.array_equal(await speak(rig.engine, piece), sound)
    # The last one is the pause after the piece, which its end makes.
    assert silences_ms(sound[: -SAMPLE_RATE_HZ // 2]) == pytest.approx([600] * 4, abs=50)


def spectrum_db(
    sound: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The mean power in each band up to 8 kHz, in decibels."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, 1024)[::512] * np.hanning(1024)
    power = np.mean(np.square(np.abs(np.fft.rfft(frames, axis=1))), axis=0)
    return 10 * np.log10(power[: 8000 * 1024 // SAMPLE_RATE_HZ] + 1e-9)


@pytest.mark.slow
async def test_blend_sounds_unlike_its_parts(rig: OnnxRig) -> None:
    spectra: list[np.ndarray[tuple[int], np.dtype[np.float64]]] = []
    for voice in ("af_bella", "am_adam", "af_bella(2)+am_adam(1)"):
        choice = choose_voice(voice, None, rig.engine.voices())
        spectra.append(spectrum_db(await speak(rig.engine, replace(rig.piece(), voice=choice))))
    from_bella, from_adam = (float(np.sqrt(np.mean(np.square(spectra[2] - part)))) for part in spectra[:2])
    # Measured: 4.6 and 6.6 dB; the two voices are 10 dB apart, and the same voice twice 0 dB.
    assert 2 < from_bella < from_adam


async def test_memory_for_long_pieces_is_given_back(rig: OnnxRig) -> None:
    await speak(rig.engine, rig.piece("Hello there."))
    before = anonymous_bytes()
    for words in (24, 34, 44):
        await speak(rig.engine, rig.piece("owl " * words))
    assert anonymous_bytes() < before + 100 * 1024 * 1024


@pytest.mark.slow
async def test_two_slots_speak_at_once() -> None:
    engine = KokoroOnnxEngine(MODEL, VOICES, slots=2)
    await engine.load()
    rig = OnnxRig()
    rig.engine = engine
    try:
        first, second = await asyncio.gather(speak(engine, rig.piece()), speak(engine, rig.piece()))
        assert first.size == second.size
    finally:
        await engine.close()


async def test_engine_that_is_not_loaded_is_unavailable(rig: OnnxRig) -> None:
    with pytest.raises(EngineUnavailable, match="not loaded"):
        await speak(KokoroOnnxEngine(MODEL, VOICES), rig.piece())


async def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="callboard models fetch"):
        await KokoroOnnxEngine(tmp_path / "none.onnx", VOICES).load()
    with pytest.raises(EngineUnavailable, match="no voices"):
        await KokoroOnnxEngine(MODEL, tmp_path / "none").load()


async def test_damaged_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(EngineUnavailable, match=r"bad\.onnx"):
        await KokoroOnnxEngine(tmp_path / "bad.onnx", write_voices(tmp_path / "voices", "af_one")).load()


PAUSES_MS = {Pause.NONE: 0, Pause.CLAUSE: 300, Pause.SENTENCE: 600}


async def timed(rig: OnnxRig, text: str, speed: float = 1.0) -> tuple[list[tuple[str, float, float]], float]:
    """The words of a text of one piece with their times in seconds, and the length of its sound."""
    (piece,) = split_text(text, "en-us", Limits(clause_words=99, targets=(1000,), bounds=(1000,)))
    words = piece_words(piece, "en-us", NO_WORDS)
    request = replace(rig.piece(piece.text, speed), pauses_ms=PAUSES_MS, words=[spoken for _name, spoken in words])
    found: list[tuple[str, float, float]] = []
    trimmer, length = Trimmer(), 0
    async with aclosing(rig.engine.synthesise(request)) as parts:
        async for part in parts:
            length += trimmer.feed(part.samples).size
            found += [
                (words[index][0], (begin - trimmer.trimmed) / SAMPLE_RATE_HZ, (end - trimmer.trimmed) / SAMPLE_RATE_HZ)
                for index, begin, end in part.words
            ]
    return found, (length + trimmer.finish().size) / SAMPLE_RATE_HZ


@pytest.mark.parametrize("speed", [1.0, 0.7])
async def test_words_are_timed_as_the_text_writes_them(rig: OnnxRig, speed: float) -> None:
    text = "Dr. Smith paid $25.50 for 3 owls, of the old kind. It was 10:30 p.m. in town."
    words, length_s = await timed(rig, text, speed)
    assert [name for name, _begin, _end in words] == text.split()
    at = 0.0
    for _name, begin, end in words:
        assert at - 1e-6 <= begin < end <= length_s
        at = end
    assert words[0][1] == pytest.approx(0, abs=0.005)
    assert words[-1][2] == pytest.approx(length_s, abs=0.005)
    times = {name: (begin, end) for name, begin, end in words}
    # "Twenty-five dollars and fifty cents" is the longest, and a pause follows each mark.
    assert max(times, key=lambda name: times[name][1] - times[name][0]) == "$25.50"
    assert times["It"][0] - times["kind."][1] > 0.4
    assert times["of"][0] - times["owls,"][1] > 0.15


async def test_asking_for_times_changes_no_sound(rig: OnnxRig) -> None:
    piece = replace(rig.piece(), pauses_ms=PAUSES_MS)
    plain = await speak(rig.engine, piece)
    assert np.array_equal(await speak(rig.engine, replace(piece, words=TEXT.split())), plain)


async def test_given_phonemes_are_what_is_spoken(rig: OnnxRig) -> None:
    usual, given, same = [
        await speak(rig.engine, rig.piece(f"I say {word} now."))
        for word in ("tomato", "[tomato](/təˈmɑːtoʊ/)", "[potato](/təˈmɑːtoʊ/)")
    ]
    assert np.array_equal(given, same)
    assert usual.size != given.size or not np.array_equal(usual, given)
    # Phonemes that no voice knows leave the word as it is written.
    unknown = await speak(rig.engine, rig.piece("I say [tomato](/番茄/) now."))
    assert np.array_equal(unknown, usual)


@pytest.mark.slow
async def test_piece_over_the_phoneme_limit_is_spoken_whole_and_its_words_go_on(rig: OnnxRig) -> None:
    text = "The owl is on the roof tonight and it can count to ten. "
    once_s = seconds(await speak(rig.engine, rig.piece(text)))
    words = (text * 11).split()
    request = replace(rig.piece(" ".join(words)), pauses_ms=PAUSES_MS, words=words)
    async with aclosing(rig.engine.synthesise(request)) as stream:
        parts = [part async for part in stream]
    assert len(parts) > 1
    assert sum(part.samples.size for part in parts) > once_s * 9 * SAMPLE_RATE_HZ
    times = [time for part in parts for time in part.words]
    assert [time.number for time in times] == list(range(len(words)))
    assert all(before.end <= after.begin + SAMPLE_RATE_HZ // 100 for before, after in itertools.pairwise(times))

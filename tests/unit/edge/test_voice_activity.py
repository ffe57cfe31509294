"""Speech is told from silence, noise, hum and clicks, and a live sound is cut into turns."""

import numpy as np
import pytest
from numpy.typing import NDArray

from callboard_contracts.errors import CallboardError
from callboard_edge.domain.input_audio import InputAudio, SpeechStarted, Turn
from callboard_edge.domain.voice_activity import TurnDetection, VoiceActivity
from callboard_edge.media.telephone import TelephoneEncoder, decoded

pytestmark = pytest.mark.unit

RATE_HZ = 24_000
Sound = NDArray[np.float64]


def silence(seconds: float, rate_hz: int = RATE_HZ) -> Sound:
    """Nothing."""
    return np.zeros(int(seconds * rate_hz))


def noise(seconds: float, level_db: float, slope: float, rate_hz: int = RATE_HZ) -> Sound:
    """Noise whose power falls with the frequency's power of `slope`: white 0, pink 1, brown 2."""
    size = int(seconds * rate_hz)
    spectrum = np.fft.rfft(np.random.default_rng(5).normal(size=size))
    frequency = np.maximum(np.arange(spectrum.size), 20 * seconds)
    return scaled(np.fft.irfft(spectrum / frequency ** (slope / 2), size), level_db)


def speech(seconds: float, level_db: float, pitch_hz: float = 120, rate_hz: int = RATE_HZ) -> Sound:
    """Something like speech: a wandering pitch with formants, in four syllables a second."""
    moments = np.arange(int(seconds * rate_hz)) / rate_hz
    phase = 2 * np.pi * np.cumsum(pitch_hz * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * moments))) / rate_hz
    formants = ((1.0, 600, 100), (0.5, 1200, 120), (0.25, 2500, 200))
    sound = np.zeros_like(moments)
    for harmonic in range(1, int(3600 / pitch_hz)):
        gain = sum(g / (1 + ((harmonic * pitch_hz - centre) / width) ** 2) for g, centre, width in formants)
        sound += gain * np.sin(harmonic * phase)
    return scaled(sound * np.clip(0.8 * np.sin(2 * np.pi * 4 * moments) + 0.4, 0, 1), level_db)


def scaled(sound: Sound, level_db: float) -> Sound:
    return sound / np.std(sound) * 32_768 * 10 ** (level_db / 20)


def pcm(*sounds: Sound) -> NDArray[np.int16]:
    return np.clip(np.concatenate(sounds), -32_768, 32_767).astype(np.int16)


def found(
    sound: NDArray[np.int16], rate_hz: int = RATE_HZ, part: int = 700, **settings: float
) -> list[tuple[str, int]]:
    activity = VoiceActivity(rate_hz, TurnDetection(**settings))  # pyright: ignore[reportArgumentType]
    parts = (activity.feed(sound[begin : begin + part]) for begin in range(0, sound.size, part))
    return [(one.kind, one.at_ms) for some in parts for one in some]


@pytest.mark.parametrize("pitch_hz", [90, 150, 230, 300])
@pytest.mark.parametrize("rate_hz", [8000, RATE_HZ])
@pytest.mark.parametrize("level_db", [-45, -20])
def test_speech_begins_and_ends(pitch_hz: float, rate_hz: int, level_db: float) -> None:
    sound = pcm(silence(1, rate_hz), speech(2, level_db, pitch_hz, rate_hz), silence(1, rate_hz))
    (started, begin_ms), (stopped, end_ms) = found(sound, rate_hz)
    assert (started, stopped) == ("started", "stopped")
    assert 940 <= begin_ms <= 1060
    assert 2850 <= end_ms <= 3060


@pytest.mark.parametrize("snr_db", [20, 10, 6])
def test_speech_in_noise_is_heard_once_the_noise_is_known(snr_db: float) -> None:
    sound = noise(9, -35, 1)
    sound[4 * RATE_HZ : 6 * RATE_HZ] += speech(2, -35 + snr_db)
    (_, begin_ms), (_, end_ms) = found(pcm(sound))
    assert 3950 <= begin_ms <= 4150
    assert 5700 <= end_ms <= 6200


@pytest.mark.parametrize("slope", [0, 1, 2])
@pytest.mark.parametrize("level_db", [-50, -35, -18])
def test_noise_is_no_speech_from_the_start_or_suddenly(slope: float, level_db: float) -> None:
    assert found(pcm(noise(5, level_db, slope))) == []
    assert found(pcm(silence(2), noise(4, level_db, slope))) == []


def test_silence_and_clicks_are_no_speech() -> None:
    clicks = silence(3)
    clicks[24_000], clicks[40_000:40_040] = 30_000, 20_000
    assert found(pcm(silence(5))) == found(pcm(clicks)) == []


def test_hum_becomes_background() -> None:
    hum = 6000 * np.sin(2 * np.pi * 300 * np.arange(8 * RATE_HZ) / RATE_HZ)
    (_, begin_ms), (_, end_ms) = found(pcm(silence(0.5), hum, silence(1)))
    assert (begin_ms, end_ms < 4500) == (500, True)


def test_threshold_and_silence_are_as_asked() -> None:
    quiet = pcm(silence(1), speech(1, -51), silence(1))
    assert found(quiet, threshold=0.2)
    assert not found(quiet, threshold=0.9)
    pause = pcm(speech(1, -20), silence(0.6), speech(1, -20), silence(1.5))
    assert len(found(pause, silence_duration_ms=300)) == 4
    assert len(found(pause, silence_duration_ms=1000)) == 2


def test_parts_of_any_length_give_the_same() -> None:
    sound = pcm(silence(0.5), speech(1, -25), silence(1))
    assert found(sound, part=37) == found(sound, part=sound.size)


def turns(audio: InputAudio, sound: NDArray[np.int16], part: int = 2400) -> list[SpeechStarted | Turn]:
    return [one for at in range(0, sound.size, part) for one in audio.append(sound[at : at + part].tobytes())]


def test_turn_has_its_padding_and_what_lies_before_is_forgotten() -> None:
    audio = InputAudio(RATE_HZ, 60_000, TurnDetection())
    assert turns(audio, pcm(silence(30))) == []
    assert audio.kept_ms < 600
    started, turn = turns(audio, pcm(speech(1, -25), silence(1)))
    assert isinstance(started, SpeechStarted)
    assert isinstance(turn, Turn)
    assert (started.start_ms, turn.start_ms) == (29_700, 29_700)
    assert turn.end_ms - turn.start_ms == pytest.approx(len(turn.pcm) / 48, abs=1)
    assert (turn.silence_ms >= 500, 1700 <= turn.end_ms - turn.start_ms <= 1900) == (True, True)
    assert np.abs(np.frombuffer(turn.pcm, "<i2")[: 24 * 200]).max() == 0


def test_somebody_who_never_pauses_is_cut_at_the_bound() -> None:
    audio = InputAudio(RATE_HZ, 2000, TurnDetection())
    ends = [one for one in turns(audio, pcm(silence(0.5), speech(5, -25))) if isinstance(one, Turn)]
    assert [one.end_ms - one.start_ms <= 2100 for one in ends] == [True, True]


def test_without_detection_the_client_commits_and_the_bound_refuses() -> None:
    audio = InputAudio(RATE_HZ, 1000, None)
    with pytest.raises(CallboardError):
        audio.commit()
    sound = pcm(speech(1, -25)).tobytes()
    assert audio.append(sound) == ()
    with pytest.raises(CallboardError):
        audio.append(b"\0\0" * 240)
    turn = audio.commit()
    assert (turn.pcm, turn.start_ms, turn.end_ms, audio.kept_ms) == (sound, 0, 1000, 0)
    audio.append(sound)
    audio.clear()
    assert (audio.kept_ms, audio.heard_ms) == (0, 2000)


def test_half_samples_are_joined_and_forgotten_with_the_rest() -> None:
    audio = InputAudio(RATE_HZ, 1000, None)
    sound = np.arange(4800, dtype="<i2").tobytes()
    for part in (b"\7", sound):
        audio.append(part)
    audio.clear()
    for at in range(0, len(sound), 1001):
        audio.append(sound[at : at + 1001])
    assert audio.commit().pcm == sound


def test_commit_within_a_detected_turn_takes_it_all() -> None:
    audio = InputAudio(RATE_HZ, 60_000, TurnDetection())
    assert len(turns(audio, pcm(silence(1), speech(1, -25)))) == 1
    assert audio.commit().end_ms == 2000
    assert (audio.speaking, turns(audio, pcm(silence(2)))) == (False, [])


@pytest.mark.parametrize("law", ["mu", "a"])
def test_telephone_sound_comes_back_as_it_went(law: str) -> None:
    sound = (8000 * np.sin(2 * np.pi * 440 * np.arange(24_000) / 24_000)).astype("<i2").tobytes()
    encoder = TelephoneEncoder(law)  # pyright: ignore[reportArgumentType]
    codes = b"".join(encoder.encode(sound[at : at + 1000]) for at in range(0, len(sound), 1000))
    back = np.frombuffer(decoded(codes, law), "<i2")  # pyright: ignore[reportArgumentType]
    assert back.size == 8000
    assert np.std(back[100:]) == pytest.approx(8000 / 2**0.5, rel=0.02)
    peak = int(np.argmax(np.abs(np.fft.rfft(back))))
    assert abs(peak - 440) <= 1


def test_laws_are_those_of_the_telephone() -> None:
    # The loudest, the quietest and one between, as the recommendation has them.
    assert np.frombuffer(decoded(b"\x00\x80\xff\x7f\x8e", "mu"), "<i2").tolist() == [-32124, 32124, 0, 0, 17_788]
    assert np.frombuffer(decoded(b"\x2a\xaa\x55\xd5", "a"), "<i2").tolist() == [-32256, 32256, -8, 8]

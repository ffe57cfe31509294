import io
import itertools
import subprocess
import sys
import wave
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard_edge.media.formats import AUDIO_FORMATS, FORMATS, AudioFormat
from tests.unit.edge_media.clips import RATE_HZ, decode, tone

pytestmark = pytest.mark.unit

# The samples that a decoder adds at most: the codec's start delay and the padding of its last frame.
MOST_PADDING = {"mp3": 1105 + 576 + 2 * 576, "opus": 0, "aac": 1024 + 1024, "flac": 0, "wav": 0, "pcm": 0}
START_DELAY = {"mp3": 1105 + 576, "opus": 0, "aac": 1024, "flac": 0, "wav": 0, "pcm": 0}
# How much audio an encoder takes before its first output: one codec frame and what its container buffers.
FIRST_SOUND_MS = {"mp3": 50, "opus": 40, "aac": 90, "flac": 50, "wav": 10, "pcm": 10}


def encode(name: AudioFormat, parts: Iterable[bytes], total: int | None = None) -> bytes:
    encoder = FORMATS[name].build()
    if total is not None:
        encoder.set_length(total)
    encoded = b"".join(encoder.feed(part) for part in parts) + encoder.finish()
    encoder.close()
    return encoded


def cut(pcm: bytes, size: int) -> list[bytes]:
    return [pcm[start : start + size] for start in range(0, len(pcm), size)]


@pytest.mark.parametrize("name", AUDIO_FORMATS)
@pytest.mark.parametrize("seconds", [0.02, 0.5, 3.217])
def test_decoded_length_is_the_sound_and_known_padding(name: AudioFormat, seconds: float) -> None:
    pcm = tone(seconds)
    heard = decode(name, encode(name, cut(pcm, 4800)))
    extra = len(heard.samples) - len(pcm) // 2
    assert 0 <= extra <= MOST_PADDING[name]


@pytest.mark.parametrize("name", AUDIO_FORMATS)
def test_sound_survives_and_begins_after_the_known_delay(name: AudioFormat) -> None:
    heard = decode(name, encode(name, cut(tone(2.0), 4800)))
    assert heard.silent_before_s() <= START_DELAY[name] / RATE_HZ + 0.005
    assert 0.9 < heard.level(0.5, 1.5) / (8000 / 2**0.5) < 1.1


@pytest.mark.parametrize("name", AUDIO_FORMATS)
def test_one_encoder_leaves_no_seam_between_segments(name: AudioFormat) -> None:
    heard = decode(name, encode(name, cut(tone(4.0), 96_000)))
    assert heard.longest_gap_s() < 0.002


@pytest.mark.parametrize("name", AUDIO_FORMATS)
def test_first_sound_leaves_before_the_next_is_made(name: AudioFormat) -> None:
    encoder = FORMATS[name].build()
    header_bytes = {"opus": 200, "flac": 120, "wav": 44}.get(name, 0)
    fed_ms, came_bytes = 0, 0
    for part in cut(tone(1.0), 480):
        fed_ms += 10
        came_bytes += len(encoder.feed(part))
        if came_bytes > header_bytes:
            break
    encoder.close()
    assert fed_ms <= FIRST_SOUND_MS[name]


@pytest.mark.parametrize("name", AUDIO_FORMATS)
def test_bytes_keep_pace_with_the_sound(name: AudioFormat) -> None:
    encoder = FORMATS[name].build()
    sizes = [len(encoder.feed(part)) for part in cut(tone(4.0), 9600)]
    tail = len(encoder.finish())
    assert max(sizes[2:]) < 3 * sum(sizes) / len(sizes)
    assert tail <= 2 * max(sizes)


@pytest.mark.parametrize("name", AUDIO_FORMATS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_cuts_inside_samples_change_nothing(name: AudioFormat, data: st.DataObject) -> None:
    pcm = tone(0.3)
    edges = sorted(data.draw(st.lists(st.integers(0, len(pcm)), max_size=20)))
    parts = [pcm[start:end] for start, end in itertools.pairwise([0, *edges, len(pcm)])]
    assert decode(name, encode(name, parts)).samples == decode(name, encode(name, [pcm])).samples


@pytest.mark.parametrize("name", AUDIO_FORMATS)
def test_half_a_sample_at_the_end_is_dropped(name: AudioFormat) -> None:
    pcm = tone(0.3)
    assert decode(name, encode(name, [pcm, b"\x01"])).samples == decode(name, encode(name, [pcm])).samples


@pytest.mark.parametrize("name", AUDIO_FORMATS)
def test_empty_sound_ends_without_an_error(name: AudioFormat) -> None:
    encoded = encode(name, [])
    assert len(encoded) <= 400
    if name == "wav":
        with wave.open(io.BytesIO(encode("wav", [], total=0))) as reader:
            assert reader.getnframes() == 0


@pytest.mark.parametrize("name", AUDIO_FORMATS)
def test_close_in_the_middle_and_twice_is_harmless(name: AudioFormat) -> None:
    encoder = FORMATS[name].build()
    encoder.feed(tone(0.5))
    encoder.close()
    encoder.close()
    assert len(encode(name, [tone(0.5)])) > 44


def test_wav_with_a_known_length_states_it() -> None:
    pcm = tone(1.25)
    encoded = encode("wav", cut(pcm, 1000), total=len(pcm))
    assert FORMATS["wav"].total_bytes is not None
    assert len(encoded) == FORMATS["wav"].total_bytes(len(pcm))
    with wave.open(io.BytesIO(encoded)) as reader:
        assert reader.getnframes() == len(pcm) // 2
        assert reader.readframes(reader.getnframes()) == pcm
    assert int.from_bytes(encoded[4:8], "little") == len(encoded) - 8


def test_wav_of_unknown_length_reads_to_its_end() -> None:
    pcm = tone(1.25)
    with wave.open(io.BytesIO(encode("wav", [pcm]))) as reader:
        assert reader.readframes(RATE_HZ * 60) == pcm


@pytest.mark.parametrize("name", AUDIO_FORMATS)
def test_names_and_types_agree_with_the_bytes(name: AudioFormat) -> None:
    codecs = {"mp3": "mp3float", "opus": "opus", "aac": "aac", "flac": "flac", "wav": "pcm_s16le", "pcm": "pcm_s16le"}
    info = FORMATS[name]
    assert info.content_type == ("audio/mpeg" if name == "mp3" else "audio/ogg" if name == "opus" else f"audio/{name}")
    assert decode(name, encode(name, [tone(0.2)])).codec == codecs[name]


def test_codec_libraries_load_only_with_the_first_encoder() -> None:
    program = (
        "import sys, callboard_edge.media.encoder_pool\n"
        "loaded = {'av', 'lameenc', 'numpy'} & set(sys.modules)\n"
        "from callboard_edge.media.formats import FORMATS\n"
        "[FORMATS[name].build().finish() for name in FORMATS]\n"
        "print(sorted(loaded), 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=15, check=True)
    assert done.stdout.strip() == "[] False"

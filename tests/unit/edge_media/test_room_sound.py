"""The parts of a room's stream: frames, listeners, the idle loop and tags."""

import io
from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest

from callboard_contracts.config import Bitrate
from callboard_edge.media.id3 import tags
from callboard_edge.media.idle_loop import IdleLoop, IdleLoopError, read_loop
from callboard_edge.media.listener import METADATA_INTERVAL_BYTES, Listener, metadata_text
from callboard_edge.media.mp3 import FrameEncoder, frame_bytes, lame_encoder
from callboard_edge.media.room_mixer import FRAME_BYTES
from tests.support.room_speech import sounds, tone
from tests.unit.edge_media.clips import decode

pytestmark = pytest.mark.unit


class TestFrames:
    @pytest.mark.parametrize("bitrate_kbps", get_args(Bitrate))
    def test_every_bitrate_is_real(self, bitrate_kbps: int) -> None:
        encoder = FrameEncoder(bitrate_kbps)
        frames = encoder.feed(tone(1.2, 440))
        assert {len(frame) for frame in frames} == {frame_bytes(bitrate_kbps)}
        assert all(frame[0] == 0xFF and frame[1] & 0xE0 == 0xE0 for frame in frames)
        with av.open(io.BytesIO(b"".join(frames)), format="mp3") as file:
            stream = file.streams.audio[0]
            assert (stream.bit_rate, stream.sample_rate) == (
                bitrate_kbps * 1000,
                24_000 if bitrate_kbps <= 160 else 48_000,
            )

    def test_frames_are_as_long_as_the_sound_however_it_is_cut(self) -> None:
        whole, cut = FrameEncoder(320), FrameEncoder(320)
        pcm = tone(2.4, 440)
        parts = [frame for begin in range(0, len(pcm), 1152) for frame in cut.feed(pcm[begin : begin + 1152])]
        assert parts == whole.feed(pcm)
        assert 98 <= len(parts) <= 100

    @pytest.mark.parametrize("bitrate_kbps", [16, 32, 160, 320])
    def test_silence_that_is_repeated_decodes_as_if_it_had_been_encoded(self, bitrate_kbps: int) -> None:
        """Two sounds with ten seconds of silence between, through this encoder and through LAME alone."""
        first, silence, second = tone(0.48, 400), bytes(400 * FRAME_BYTES), tone(0.48, 800)
        encoder = FrameEncoder(bitrate_kbps)
        frames = encoder.feed(first + silence)
        frames += encoder.feed(second + bytes(10 * FRAME_BYTES))
        lame = lame_encoder(bitrate_kbps)
        pcm = first + silence + second + bytes(10 * FRAME_BYTES)
        parts = [lame.encode(pcm[begin : begin + FRAME_BYTES]) for begin in range(0, len(pcm), FRAME_BYTES)]
        whole = b"".join(parts)[: len(frames) * len(frames[0])]
        # One and the same frame: the encoder was not asked.
        assert len({id(frame) for frame in frames[60:400]}) == 1
        heard, expected = [np.asarray(decode("mp3", data).samples, float) for data in (b"".join(frames), whole)]
        assert len(heard) == len(expected)
        assert not heard[3 * 24_000 : 9 * 24_000].any()
        # The second sound begins at the same sample; it may be quantised a little differently.
        assert np.abs(heard - expected).max() < 700

    def test_stream_that_is_joined_in_the_middle_decodes(self) -> None:
        frames = FrameEncoder(32).feed(tone(2.4, 440))
        heard = decode("mp3", b"".join(frames[30:]))
        assert sounds(heard.samples, [440])[-1].seconds > (len(frames) - 36) * 0.024


class Wire:
    """A connection that a test stops."""

    def __init__(self, *, titles: bool = False) -> None:
        self.data = b""
        self.waiting_bytes = 0
        self.stopped = 0
        self.listener = Listener(
            self.write, lambda: self.waiting_bytes, self.stop, max_waiting_bytes=1000, timeout_s=10, titles=titles
        )

    def write(self, data: bytes) -> None:
        """Takes what is sent."""
        self.data += data

    def stop(self) -> None:
        """Notes the end."""
        self.stopped += 1


class TestListener:
    def test_what_does_not_fit_is_left_out_in_whole_frames(self) -> None:
        wire = Wire()
        assert wire.listener.send([b"a" * 100, b"b" * 100], "", 0.0) == 0
        wire.waiting_bytes = 1001
        assert wire.listener.send([b"c" * 100], "", 1.0) == 1
        wire.waiting_bytes = 1000
        assert wire.listener.send([b"d" * 100], "", 2.0) == 0
        assert wire.data == b"a" * 100 + b"b" * 100 + b"d" * 100
        assert (wire.listener.sent_bytes, wire.stopped) == (300, 0)

    def test_one_who_does_not_read_for_long_is_stopped_once(self) -> None:
        wire = Wire()
        wire.waiting_bytes = 5000
        for second in range(20):
            wire.listener.send([b"x"], "", float(second))
        assert (wire.stopped, wire.listener.too_slow, wire.data) == (1, True, b"")

    def test_one_who_reads_now_and_then_stays(self) -> None:
        wire = Wire()
        for second in range(40):
            wire.waiting_bytes = 5000 if second % 9 else 0
            wire.listener.send([b"x"], "", float(second))
        assert wire.stopped == 0

    def test_titles_stand_after_each_16000_bytes_and_only_when_they_change(self) -> None:
        wire = Wire(titles=True)
        for n in range(50):
            wire.listener.send([bytes([n]) * 960], "" if n < 10 else "Frog", 0.0)
        sound, titles = without_titles(wire.data)
        assert sound == b"".join(bytes([n]) * 960 for n in range(50))
        assert titles == ["StreamTitle='Frog';", "", ""]

    def test_title_ends_only_at_its_end(self) -> None:
        wire = Wire(titles=True)
        wire.listener.send([b"x" * METADATA_INTERVAL_BYTES], "O'Hara';StreamUrl='http://x\r\n\0" + "ö" * 5000, 0.0)
        _sound, (title,) = without_titles(wire.data)
        assert title.startswith("StreamTitle='O\u2019Hara\u2019;StreamUrl=\u2019http://x")
        assert title.count("'") == 2
        assert title.endswith("ö';")
        assert len(title.encode()) < 16 * 255

    def test_names_in_headers_are_one_line(self) -> None:
        assert metadata_text("a\r\nSet-Cookie: x\x7f") == b"aSet-Cookie: x"


def without_titles(data: bytes) -> tuple[bytes, list[str]]:
    """The sound of a stream, and its titles, as a player reads them."""
    sound, titles = b"", list[str]()
    while len(data) > METADATA_INTERVAL_BYTES:
        sound += data[:METADATA_INTERVAL_BYTES]
        length = 16 * data[METADATA_INTERVAL_BYTES]
        data = data[METADATA_INTERVAL_BYTES + 1 :]
        titles.append(data[:length].rstrip(b"\0").decode())
        data = data[length:]
    return sound + data, titles


class TestIdleLoop:
    def test_repeats_without_a_seam_and_fades_when_speech_begins_and_ends(self) -> None:
        pcm = tone(0.25, 400)
        loop = IdleLoop(pcm)
        silence = bytes(len(pcm))
        faded_in = loop.mix(silence, audible=True)
        assert faded_in[-len(pcm) // 2 :] == pcm[-len(pcm) // 2 :]
        assert loop.mix(silence, audible=True) == pcm
        out = np.frombuffer(loop.mix(tone(0.25, 1200), audible=False), "<i2").astype(int)
        mixed = out - np.frombuffer(tone(0.25, 1200), "<i2").astype(int)
        assert abs(mixed[:200]).max() > 6000
        assert not mixed[1200:].any()
        assert abs(np.diff(mixed)).max() < 1000
        assert loop.mix(silence, audible=False) == silence

    def test_loud_sound_is_clipped_and_does_not_wrap(self) -> None:
        loud = np.full(6000, 30_000, "<i2").tobytes()
        loop = IdleLoop(loud)
        loop.mix(bytes(len(loud)), audible=True)
        mixed = np.frombuffer(loop.mix(loud, audible=False), "<i2")
        assert mixed.min() >= 29_999

    def test_file_is_decoded_once_to_what_rooms_play(self, tmp_path: Path) -> None:
        file = tmp_path / "loop.mp3"
        file.write_bytes(b"".join(FrameEncoder(128).feed(tone(1.0, 440) + bytes(9600))))
        heard = sounds(np.frombuffer(read_loop(file), "<i2").tolist(), [440])
        assert [round(one.seconds, 1) for one in heard] == [1.0]

    @pytest.mark.parametrize("content", [None, b"", b"no sound at all" * 100])
    def test_file_without_sound_is_refused(self, tmp_path: Path, content: bytes | None) -> None:
        file = tmp_path / "loop.mp3"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(IdleLoopError):
            read_loop(file)


def test_tags_are_read_by_players() -> None:
    name = "pönd \u4e2d\r\n" + "x" * 1000
    data = tags(name, "album", "AIT Frog, Toad") + b"".join(FrameEncoder(160).feed(tone(0.5, 440) + bytes(9600)))
    with av.open(io.BytesIO(data), format="mp3") as file:
        found = dict(file.metadata)
    assert found["title"].startswith("pönd \u4e2dx")
    assert (found["album"], found["artist"], found["genre"]) == ("album", "AIT Frog, Toad", "Speech")
    assert sounds(decode("mp3", data).samples, [440])[0].seconds == pytest.approx(0.5, abs=0.05)

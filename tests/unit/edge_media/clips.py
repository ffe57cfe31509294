"""Test tones, and decoders for every format that are independent of the code under test."""

import io
import itertools
import math
import wave
from array import array
from dataclasses import dataclass
from fractions import Fraction

import av
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.container import InputContainer

RATE_HZ = 24_000
FFMPEG_NAMES = {"mp3": "mp3", "opus": "ogg", "aac": "aac", "flac": "flac", "wav": "wav", "pcm": "s16le"}


def tone(seconds: float, frequency_hz: float = 440.0, level: int = 8000) -> bytes:
    """A sine wave as PCM."""
    count = round(seconds * RATE_HZ)
    return array(
        "h", (round(level * math.sin(2 * math.pi * frequency_hz * n / RATE_HZ)) for n in range(count))
    ).tobytes()


@dataclass(frozen=True)
class Decoded:
    """Decoded audio: samples at 24 kHz, mono."""

    samples: "array[int]"
    codec: str

    @property
    def seconds(self) -> float:
        """The length of the audio."""
        return len(self.samples) / RATE_HZ

    def level(self, start_s: float, end_s: float) -> float:
        """The root mean square between two times."""
        part = self.samples[round(start_s * RATE_HZ) : round(end_s * RATE_HZ)]
        return math.sqrt(sum(sample * sample for sample in part) / len(part))

    def silent_before_s(self, threshold: int = 400) -> float:
        """The silence before the first sound."""
        return next(n for n, sample in enumerate(self.samples) if abs(sample) > threshold) / RATE_HZ

    def longest_gap_s(self, threshold: int = 400) -> float:
        """The longest silence between the first and the last sound."""
        loud = [n for n, sample in enumerate(self.samples) if abs(sample) > threshold]
        return max(after - before for before, after in itertools.pairwise(loud)) / RATE_HZ


def decode(name: str, data: bytes) -> Decoded:
    """Decodes audio with FFmpeg; WAV is also checked with Python's wave module."""
    if name == "pcm":
        return Decoded(array("h", data), "pcm_s16le")
    if name == "wav":
        _check_with_the_wave_module(data)
    resampler = AudioResampler(format="s16", layout="mono", rate=RATE_HZ)
    heard = array("h")
    with av.open(io.BytesIO(data), format=FFMPEG_NAMES[name]) as container:
        assert isinstance(container, InputContainer)
        stream = container.streams.audio[0]
        codec = stream.codec_context.name
        for frame in container.decode(stream):
            _collect(resampler, frame, heard)
    _collect(resampler, None, heard)
    return Decoded(heard, codec)


def _check_with_the_wave_module(data: bytes) -> None:
    with wave.open(io.BytesIO(data)) as reader:
        assert (reader.getnchannels(), reader.getsampwidth(), reader.getframerate()) == (1, 2, RATE_HZ)
        samples = reader.readframes(len(data))
        assert len(samples) // 2 <= reader.getnframes()
        assert samples == data[-len(samples) :]


def _collect(resampler: AudioResampler, frame: AudioFrame | None, heard: "array[int]") -> None:
    if frame is not None:
        frame.time_base = Fraction(1, frame.sample_rate)
        frame.pts = None
    for part in resampler.resample(frame):
        heard.frombytes(bytes(part.planes[0])[: part.samples * 2])

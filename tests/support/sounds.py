"""Sounds for what listens: tones, silence and noise, in the files that clients send."""

import io
import wave
from collections.abc import Sequence

import av
import numpy as np
from av.audio.stream import AudioStream
from av.video.stream import VideoStream
from numpy.typing import NDArray

RATE_HZ = 16_000
SPEECH_RATE_HZ = 24_000
Pcm = NDArray[np.int16]


def tone(pitch_hz: float, seconds: float) -> Pcm:
    """A tone that any recogniser hears as sound."""
    moments = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    return (8000 * np.sin(2 * np.pi * pitch_hz * moments + 0.3)).astype(np.int16)


def silence(seconds: float) -> Pcm:
    """Nothing."""
    return np.zeros(int(seconds * RATE_HZ), np.int16)


def noise(seconds: float) -> Pcm:
    """White noise, the same each time."""
    return (3000 * np.random.default_rng(7).normal(size=int(seconds * RATE_HZ))).clip(-32768, 32767).astype(np.int16)


def melody(pitches_hz: Sequence[float]) -> Pcm:
    """One second of each tone."""
    return np.concatenate([tone(pitch, 1) for pitch in pitches_hz])


def at_16_khz(pcm: bytes) -> Pcm:
    """Speech of 24 kHz, as Callboard gives it, at the rate of these sounds."""
    samples = np.frombuffer(pcm, "<i2")
    places = np.arange(0, samples.size - 1, SPEECH_RATE_HZ / RATE_HZ)
    return np.interp(places, np.arange(samples.size), samples).astype(np.int16)


def wav(pcm: Pcm, rate_hz: int = RATE_HZ) -> bytes:
    """A WAV file."""
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(pcm.astype("<i2").tobytes())
    return target.getvalue()


def encoded(pcm: Pcm, container: str, codec: str) -> bytes:
    """A file of any container and codec that FFmpeg writes."""
    target = io.BytesIO()
    with av.open(target, "w", format=container) as file:
        stream = file.add_stream(codec, rate=48_000 if codec == "libopus" else RATE_HZ)
        assert isinstance(stream, AudioStream)
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=stream.rate)
        frame = av.AudioFrame.from_ndarray(pcm.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = RATE_HZ
        fifo = av.AudioFifo()
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            fifo.write(part)
        size = stream.codec_context.frame_size or 1024
        while (piece := fifo.read(size, partial=True)) is not None:
            file.mux(stream.encode(piece))
        file.mux(stream.encode(None))
    return target.getvalue()


def film_without_sound() -> bytes:
    """A film of a few black pictures."""
    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as file:
        stream = file.add_stream("mpeg4", rate=10)
        assert isinstance(stream, VideoStream)
        stream.width = stream.height = 64
        for _ in range(5):
            picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            file.mux(stream.encode(picture))
        file.mux(stream.encode(None))
    return target.getvalue()

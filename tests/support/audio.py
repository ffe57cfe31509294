"""What a listener would notice: decoding, loudness, silence."""

import io
from dataclasses import dataclass

import av
import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 24_000
Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Silence:
    """A stretch of near silence inside a recording."""

    start_s: float
    length_ms: float


def decoded(data: bytes, container: str | None = None) -> Samples:
    """Decodes a file to mono float samples at 24 kHz; raises av.FFmpegError on a file that no player would take."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
    parts: list[Samples] = []
    with av.open(io.BytesIO(data), "r", format=container) as file:
        for frame in file.decode(audio=0):
            parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
    parts += [part.to_ndarray()[0] for part in resampler.resample(None)]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def pcm_samples(data: bytes) -> Samples:
    """Signed 16-bit little-endian PCM as floats between -1 and 1."""
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32_768)


def duration_s(samples: Samples) -> float:
    """How long the samples last."""
    return len(samples) / SAMPLE_RATE_HZ


def rms(samples: Samples) -> float:
    """The loudness of the samples, 1 being a full-scale square wave."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0


def silences(
    samples: Samples, *, below: float = 0.004, window_ms: float = 5.0, at_least_ms: float = 30.0
) -> list[Silence]:
    """Every stretch whose loudness stays under `below` in each window for at least the given time."""
    window = int(SAMPLE_RATE_HZ * window_ms / 1000)
    count = len(samples) // window
    levels = np.sqrt(np.mean(np.square(samples[: count * window].reshape(count, window)), axis=1))
    found: list[Silence] = []
    start = None
    for n, quiet in enumerate([*(levels < below), False]):
        if quiet and start is None:
            start = n
        elif not quiet and start is not None:
            length_ms = (n - start) * window_ms
            if length_ms >= at_least_ms:
                found.append(Silence(start * window_ms / 1000, length_ms))
            start = None
    return found

"""Opus, AAC and FLAC through FFmpeg's libraries, packet by packet."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream

from callboard_contracts.speech import BYTES_PER_SAMPLE, SAMPLE_RATE_HZ
from callboard_edge.media.samples import SampleAligner

_TIME_BASE = Fraction(1, SAMPLE_RATE_HZ)
_WRITE_BUFFER_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Profile:
    """FFmpeg's codec and container for a format, with their options."""

    codec: str
    container: str
    sample_format: Literal["s16", "fltp"]
    bitrate_bps: int | None
    codec_options: Mapping[str, str] = field(default_factory=dict[str, str])
    container_options: Mapping[str, str] = field(default_factory=dict[str, str])


PROFILES: dict[Literal["opus", "aac", "flac"], Profile] = {
    # One packet a page: by default Ogg collects a second of audio for each page.
    "opus": Profile(
        "libopus",
        "ogg",
        "s16",
        64_000,
        {"application": "audio", "frame_duration": "20"},
        {"page_duration": "20000"},
    ),
    # The fast coder takes half the time of the default one and is closer to the original at this bitrate.
    "aac": Profile("aac", "adts", "fltp", 96_000, {"aac_coder": "fast"}),
    # Blocks of 43 ms instead of 96 ms, and no 8 KiB of padding between the header and the first frame.
    "flac": Profile(
        "flac",
        "flac",
        "s16",
        None,
        {"frame_size": "1024", "compression_level": "5"},
        {"metadata_header_padding": "0"},
    ),
}


class _Sink:
    """The file that FFmpeg writes to; it cannot seek, so FFmpeg never rewrites a header."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._chunks.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        taken = b"".join(self._chunks)
        self._chunks.clear()
        return taken


class ContainerEncoder:
    """One stream of one codec in a container, flushed at every packet."""

    def __init__(self, profile: Profile) -> None:
        self._sink = _Sink()
        self._aligner = SampleAligner()
        self._position = 0
        self._container = av.open(
            self._sink,
            "w",
            format=profile.container,
            container_options={"flush_packets": "1", **profile.container_options},
            buffer_size=_WRITE_BUFFER_BYTES,
        )
        stream = self._container.add_stream(profile.codec, rate=SAMPLE_RATE_HZ, options=dict(profile.codec_options))
        assert isinstance(stream, AudioStream)
        stream.codec_context.layout = "mono"
        stream.codec_context.format = profile.sample_format
        if profile.bitrate_bps is not None:
            stream.codec_context.bit_rate = profile.bitrate_bps
        self._stream: AudioStream | None = stream

    def set_length(self, total_pcm_bytes: int) -> None:
        """Does nothing: these formats are made for streams."""

    def feed(self, pcm: bytes) -> bytes:
        """Returns the complete packets, with the container's header before the first ones."""
        samples = self._aligner.align(pcm)
        if samples:
            self._encode(_frame(samples, self._position))
            self._position += len(samples) // BYTES_PER_SAMPLE
        return self._sink.take()

    def finish(self) -> bytes:
        """Returns the packets that the codec still held and the container's trailer."""
        if self._stream is not None:
            self._encode(None)
            self.close()
        return self._sink.take()

    def close(self) -> None:
        """Frees the codec and the container; a FLAC encoder alone holds 7 MB."""
        if self._stream is not None:
            self._stream = None
            self._container.close()
            del self._container

    def _encode(self, frame: AudioFrame | None) -> None:
        if self._stream is None:
            return
        for packet in self._stream.encode(frame):
            self._container.mux(packet)


def _frame(samples: bytes, position: int) -> AudioFrame:
    frame = AudioFrame(format="s16", layout="mono", samples=len(samples) // BYTES_PER_SAMPLE)
    frame.sample_rate = SAMPLE_RATE_HZ
    frame.time_base = _TIME_BASE
    frame.pts = position
    # FFmpeg pads the plane for its vector code, so it is longer than its samples.
    memoryview(frame.planes[0])[: len(samples)] = samples
    return frame

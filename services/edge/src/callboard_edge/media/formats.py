"""The offered audio formats, and how to build an encoder for each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from callboard_edge.media.plain import PcmEncoder, WavEncoder

AudioFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
AUDIO_FORMATS: tuple[AudioFormat, ...] = get_args(AudioFormat)


class Encoder(Protocol):
    """Encodes the PCM (signed 16-bit little-endian, 24 kHz, mono) of one response.

    One encoder serves a whole response: a new one for each sentence would leave a gap between sentences. Calls never
    overlap but may come from any thread. PCM may be cut anywhere, also inside a sample.
    """

    def set_length(self, total_pcm_bytes: int) -> None:
        """Sets the length of all PCM before the first of it; formats that cannot use it ignore it."""
        ...

    def feed(self, pcm: bytes) -> bytes:
        """Encodes more PCM and returns the bytes that are ready, possibly none."""
        ...

    def finish(self) -> bytes:
        """Ends the stream and returns its last bytes; nothing may be fed afterwards."""
        ...

    def close(self) -> None:
        """Frees the encoder, finished or not; calling it again does nothing."""
        ...


@dataclass(frozen=True, slots=True)
class FormatInfo:
    """A format's content type and encoder."""

    content_type: str
    build: Callable[[], Encoder]
    cpu_bound: bool
    """Whether encoding takes long enough to need a thread; false where bytes pass almost unchanged."""
    total_bytes: Callable[[int], int] | None = None
    """The encoded length in bytes for a length of PCM, where the format determines it."""
    delay_ms: int = 0
    """The silence with which the decoded audio begins, where the format has no way to have players skip it."""


def _mp3() -> Encoder:
    # The codec libraries take 5 to 25 MB of memory each, so a process loads them for the first such response.
    from callboard_edge.media.mp3 import Mp3Encoder

    return Mp3Encoder()


def _container(name: Literal["opus", "aac", "flac"]) -> Callable[[], Encoder]:
    def build() -> Encoder:
        from callboard_edge.media.container import PROFILES, ContainerEncoder

        return ContainerEncoder(PROFILES[name])

    return build


FORMATS: dict[AudioFormat, FormatInfo] = {
    "mp3": FormatInfo("audio/mpeg", _mp3, cpu_bound=True, delay_ms=46),
    "opus": FormatInfo("audio/ogg", _container("opus"), cpu_bound=True),
    "aac": FormatInfo("audio/aac", _container("aac"), cpu_bound=True, delay_ms=43),
    "flac": FormatInfo("audio/flac", _container("flac"), cpu_bound=True),
    "wav": FormatInfo("audio/wav", WavEncoder, cpu_bound=False, total_bytes=WavEncoder.total_bytes),
    "pcm": FormatInfo("audio/pcm", PcmEncoder, cpu_bound=False, total_bytes=lambda n: n),
}

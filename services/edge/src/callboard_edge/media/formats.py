"""The audio formats on offer, and the one place that builds an encoder for a format."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from callboard_edge.media.plain import PcmEncoder, WavEncoder

AudioFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
AUDIO_FORMATS: tuple[AudioFormat, ...] = get_args(AudioFormat)


class Encoder(Protocol):
    """Turns one clip's PCM (signed 16-bit little-endian, 24 kHz, mono) into bytes for a client.

    One encoder serves a whole response: a new one for each sentence would leave a gap at every seam. Calls are made
    one after the other, from any thread. PCM may be cut anywhere, also inside a sample.
    """

    def expect(self, total_pcm_bytes: int) -> None:
        """Learns, before anything is fed, how long all PCM will be; formats that cannot use it ignore it."""
        ...

    def feed(self, pcm: bytes) -> bytes:
        """Takes more PCM and gives what is finished by now, possibly nothing."""
        ...

    def finish(self) -> bytes:
        """Ends the clip and gives its last bytes; nothing may be fed afterwards."""
        ...

    def close(self) -> None:
        """Frees the encoder, finished or not; further calls do nothing."""
        ...


@dataclass(frozen=True, slots=True)
class FormatInfo:
    """What is known of a format: how it is announced, how it is made, and whether making it costs noticeable time."""

    name: AudioFormat
    content_type: str
    extension: str
    build: Callable[[], Encoder]
    costly: bool
    """True for a real codec, which belongs off the event loop; false where bytes pass almost unchanged."""
    total_bytes: Callable[[int], int] | None = None
    """The clip's length in bytes for a length of PCM, where the format fixes it."""


def _mp3() -> Encoder:
    # The codecs' libraries cost 5 to 25 MB of memory each, so a process loads them only for the first such clip.
    from callboard_edge.media.mp3 import Mp3Encoder

    return Mp3Encoder()


def _container(name: Literal["opus", "aac", "flac"]) -> Callable[[], Encoder]:
    def build() -> Encoder:
        from callboard_edge.media.container import PROFILES, ContainerEncoder

        return ContainerEncoder(PROFILES[name])

    return build


FORMATS: dict[AudioFormat, FormatInfo] = {
    "mp3": FormatInfo("mp3", "audio/mpeg", "mp3", _mp3, costly=True),
    "opus": FormatInfo("opus", "audio/ogg", "opus", _container("opus"), costly=True),
    "aac": FormatInfo("aac", "audio/aac", "aac", _container("aac"), costly=True),
    "flac": FormatInfo("flac", "audio/flac", "flac", _container("flac"), costly=True),
    "wav": FormatInfo("wav", "audio/wav", "wav", WavEncoder, costly=False, total_bytes=WavEncoder.total_bytes),
    "pcm": FormatInfo("pcm", "audio/pcm", "pcm", PcmEncoder, costly=False, total_bytes=lambda n: n),
}

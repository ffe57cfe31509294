"""The process that decodes one file: FFmpeg's libraries meet what strangers send here, and nowhere else.

The file comes on standard input, 16-bit mono PCM at 16 kHz leaves on standard output, and one line of JSON on standard
error says how it went: `{"container": "mp3", "problem": null}`. A file that ends this process, or takes it too long,
costs its worker nothing.
"""

import io
import json
import resource
import sys
from collections.abc import Iterable
from typing import BinaryIO

import av
from av.audio.resampler import AudioResampler
from av.container import InputContainer
from av.error import FFmpegError
from av.logging import PANIC, set_level

SAMPLE_RATE_HZ = 16_000
BYTES_PER_SAMPLE = 2
LIMITS = {
    resource.RLIMIT_CPU: 300,
    resource.RLIMIT_DATA: 2 * 1024 * 1024 * 1024,
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_CORE: 0,
}
"""Seconds of processor time and bytes of memory; files it writes none."""
MAX_BAD_PACKETS = 200
"""A file is given up that has more damage than this."""
CONTAINERS = (
    *("aac", "ac3", "aiff", "amr", "amrnb", "amrwb", "ape", "asf", "au", "avi", "caf", "eac3", "flac", "flv", "mov"),
    *("matroska", "webm", "mp3", "mp4", "m4a", "3gp", "mpeg", "mpegts", "ogg", "tta", "w64", "wav", "wv"),
)
"""What is read. FFmpeg's playlists are not among them: those name other files and addresses, which it would open."""


def decoded(container: InputContainer, max_bytes: int) -> Iterable[bytes]:
    """The sound of a container's first track of sound, up to `max_bytes` and a little."""
    resampler = AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
    left, bad = max_bytes, 0
    for packet in container.demux(container.streams.audio[0]):
        try:
            frames = packet.decode()
        except FFmpegError:
            bad += 1
            if bad > MAX_BAD_PACKETS:
                return
            continue
        for frame in frames:
            frame.pts = None
            try:
                parts = resampler.resample(frame)
            except ValueError:
                # The sound changes its form in the middle.
                resampler = AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
                parts = resampler.resample(frame)
            for part in parts:
                pcm = bytes(part.planes[0])[: part.samples * BYTES_PER_SAMPLE]
                yield pcm
                left -= len(pcm)
        if left < 0:
            return
    for part in resampler.resample(None):
        yield bytes(part.planes[0])[: part.samples * BYTES_PER_SAMPLE]


def decode(file: bytes, max_s: float, write: BinaryIO) -> dict[str, str | None]:
    """Writes the sound of a file and returns what is known of it."""
    name: str | None = None
    sent, max_bytes = 0, int(max_s * SAMPLE_RATE_HZ) * BYTES_PER_SAMPLE
    options = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": ""}
    try:
        with av.open(io.BytesIO(file), mode="r", options=options, metadata_errors="ignore") as container:
            name = container.format.name
            if not container.streams.audio:
                return {"container": name, "problem": "silent_film" if container.streams.video else "unreadable"}
            for pcm in decoded(container, max_bytes):
                write.write(pcm)
                sent += len(pcm)
    except (FFmpegError, ValueError, MemoryError):
        # What was decoded before the damage is still the beginning of the sound.
        pass
    problem = "too_long" if sent > max_bytes else None if sent else "unreadable"
    return {"container": name, "problem": problem}


def main() -> int:
    """Decodes the file on standard input."""
    for kind, wanted in LIMITS.items():
        _, hard = resource.getrlimit(kind)
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (most, most))
    set_level(PANIC)
    report = decode(sys.stdin.buffer.read(), float(sys.argv[1]), sys.stdout.buffer)
    sys.stdout.buffer.flush()
    sys.stderr.write(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Speech in rooms as speech workers publish it, made of tones that a test can tell apart."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
import numpy as np
from numpy.typing import NDArray

from callboard_contracts import headers, subjects
from callboard_contracts.rooms import Room, RoomKind, room_id
from callboard_contracts.speech import BYTES_PER_MS, AudioSegment, SegmentInfo, SpeechEnd, UtteranceStart
from callboard_kit.bus import Bus

RATE_HZ = 24_000
WINDOW = 240
"""Ten milliseconds."""
SEGMENT_S = 0.5
QUIET = 200
"""The level below which a window counts as silent."""


def tone(seconds: float, frequency_hz: float, begin_s: float = 0.0) -> bytes:
    """A part of an endless tone: parts that follow one another join without a seam."""
    at = np.arange(round(begin_s * RATE_HZ), round(begin_s * RATE_HZ) + round(seconds * RATE_HZ))
    return (8000 * np.sin(2 * np.pi * frequency_hz * at / RATE_HZ)).astype("<i2").tobytes()


def utterance_name(number: int) -> str:
    """As the rooms service names them."""
    return f"{number:08d}-{number:032x}"


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a room's sound."""

    utterance: str
    content: UtteranceStart | AudioSegment


def spoken(
    number: int,
    seconds: float,
    frequency_hz: float,
    speaker: str = "Frog",
    *,
    expires_s: float = 60.0,
    segment_s: float = SEGMENT_S,
) -> list[Message]:
    """A whole utterance: its announcement, its sound in segments, and its end."""
    name = utterance_name(number)
    found = [Message(name, UtteranceStart(number=number, speaker=speaker, expires_at=time.time() + expires_s))]
    count = round(seconds / segment_s)
    for n in range(count):
        info = SegmentInfo(attempt=1, piece=0, offset_bytes=round(n * segment_s * 1000) * BYTES_PER_MS)
        found.append(Message(name, AudioSegment(n, info, tone(segment_s, frequency_hz, n * segment_s))))
    end = SpeechEnd(reason="stop", audio_ms=round(1000 * seconds))
    found.append(Message(name, AudioSegment(count, SegmentInfo(attempt=1, piece=1, offset_bytes=0, end=end), b"")))
    return found


async def publish(bus: Bus, room: str, messages: Sequence[Message]) -> None:
    """Publishes as the services do: each message is stored before the next."""
    for message in messages:
        content = message.content
        if isinstance(content, UtteranceStart):
            subject = subjects.room_audio(room, message.utterance, "start")
            await bus.publish_stored(subject, content.encoded(), subject)
        else:
            subject = subjects.room_audio(room, message.utterance, content.n)
            found = {headers.SEGMENT: content.info.model_dump_json(exclude_defaults=True)}
            await bus.publish_stored(subject, content.pcm, f"{subject}.{content.info.attempt}", headers=found)


@dataclass(frozen=True, slots=True)
class Sound:
    """A stretch of one tone in what a listener heard, in seconds from the beginning."""

    frequency_hz: int
    begin_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.end_s - self.begin_s


def sounds(
    samples: Sequence[int] | NDArray[np.int16], frequencies_hz: Sequence[int], quiet: int = QUIET
) -> list[Sound]:
    """The tones that were heard, one after the other, exact to ten milliseconds; below `quiet` is silence."""
    heard = np.asarray(samples, np.float64)
    heard = heard[: len(heard) // WINDOW * WINDOW].reshape(-1, WINDOW)
    at = np.arange(WINDOW) / RATE_HZ
    powers = np.stack([np.abs(heard @ np.exp(-2j * np.pi * hz * at)) for hz in frequencies_hz])
    loud = np.sqrt(np.mean(heard**2, axis=1)) > quiet
    which = np.where(loud, powers.argmax(axis=0), -1)
    found: list[Sound] = []
    begin = 0
    for n in range(1, len(which) + 1):
        if n == len(which) or which[n] != which[begin]:
            if which[begin] >= 0:
                found.append(Sound(frequencies_hz[which[begin]], begin * WINDOW / RATE_HZ, n * WINDOW / RATE_HZ))
            begin = n
    return found


@dataclass(slots=True)
class Received:
    """What a listener got: the answer's headers, and bytes with the time at which each part came."""

    status: int
    headers: dict[str, str]
    parts: list[tuple[float, bytes]]

    @property
    def data(self) -> bytes:
        """All bytes."""
        return b"".join(part for _, part in self.parts)


async def listen(session: aiohttp.ClientSession, url: str, seconds: float, **given: str) -> Received:
    """Listens for so long, counted from the answer's headers."""
    async with session.get(url, headers=given) as reply:
        found = Received(reply.status, dict(reply.headers), [])
        until = time.monotonic() + seconds
        try:
            async with asyncio.timeout(seconds):
                async for part in reply.content.iter_any():
                    found.parts.append((time.monotonic(), part))
                    if time.monotonic() > until:
                        break
        except TimeoutError:
            pass
    return found


def opened_room(kind: RoomKind, key: str, digest: str | None = None) -> Room:
    """A room as it is stored."""
    now = time.time()
    return Room(id=room_id(kind, key), kind=kind, key=key, created_at=now, active_at=now, secret_digest=digest)

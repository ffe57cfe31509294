import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from callboard_edge.media import formats
from callboard_edge.media.encoder_pool import EncoderPool
from callboard_edge.media.formats import AUDIO_FORMATS, FORMATS, AudioFormat, FormatInfo
from tests.unit.edge_media.clips import decode, tone

pytestmark = pytest.mark.unit


class GatedEncoder:
    """Waits inside each call until it is let through, and notes what happens to it."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.closed = threading.Event()
        self.inside = 0
        self.calls = 0
        self.closed_inside_a_call = False
        self.threads: set[str] = set()

    def expect(self, total_pcm_bytes: int) -> None:
        """Ignores the length."""

    def feed(self, pcm: bytes) -> bytes:
        """Gives the PCM back once the gate is open; the empty opening passes."""
        if not pcm:
            return b""
        self.calls += 1
        self.inside += 1
        self.threads.add(threading.current_thread().name)
        self.entered.set()
        self.gate.wait(5)
        self.inside -= 1
        return pcm

    def finish(self) -> bytes:
        """Gives a mark."""
        return b"end"

    def close(self) -> None:
        """Notes whether a call was still under way."""
        self.closed_inside_a_call = self.inside > 0
        self.closed.set()


async def speak(room: EncoderPool) -> bytes:
    async with room.clip("mp3") as clip:
        opening = await clip.feed(b"")
        return opening + await clip.feed(b"ab")


@pytest.fixture
async def room() -> AsyncIterator[EncoderPool]:
    room = EncoderPool()
    yield room
    room.close()


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch) -> GatedEncoder:
    encoder = GatedEncoder()
    monkeypatch.setitem(FORMATS, "mp3", FormatInfo("mp3", "audio/mpeg", "mp3", lambda: encoder, costly=True))
    return encoder


@pytest.mark.parametrize("name", AUDIO_FORMATS)
async def test_clip_through_the_room_is_whole(room: EncoderPool, name: AudioFormat) -> None:
    out = bytearray()
    async with room.clip(name) as clip:
        for segment in (tone(2.0), b"", tone(1.0)):
            for part in clip.slices(segment):
                out += await clip.feed(part)
        out += await clip.finish()
    assert 3.0 <= decode(name, bytes(out)).seconds < 3.13


async def test_first_slice_is_short_and_the_rest_stays_whole(room: EncoderPool) -> None:
    segment = tone(2.0)
    async with room.clip("mp3") as clip:
        first, rest = clip.slices(segment)
        assert len(await clip.feed(first)) > 0
        assert clip.slices(segment) == (segment,)
    async with room.clip("wav") as clip:
        assert clip.slices(segment) == (segment,)
    assert len(first) == 4800
    assert first + rest == segment


async def test_codec_work_stays_off_the_event_loop(room: EncoderPool, gated: GatedEncoder) -> None:
    gated.gate.set()
    assert await speak(room) == b"ab"
    assert gated.calls == 1
    assert all(name.startswith("encoder") for name in gated.threads)


async def test_cancelled_reader_closes_the_encoder_after_its_call(room: EncoderPool, gated: GatedEncoder) -> None:
    reader = asyncio.create_task(speak(room))
    await asyncio.to_thread(gated.entered.wait, 5)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert not gated.closed.is_set()
    gated.gate.set()
    assert await asyncio.to_thread(gated.closed.wait, 5)
    assert not gated.closed_inside_a_call


async def test_stuck_encoder_is_given_up(
    room: EncoderPool, gated: GatedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("callboard_edge.media.encoder_pool.ENCODE_TIMEOUT_S", 0.05)
    with pytest.raises(TimeoutError):
        await speak(room)
    gated.gate.set()
    assert await asyncio.to_thread(gated.closed.wait, 5)


async def test_failing_encoder_raises_and_is_closed(room: EncoderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = GatedEncoder()

    def broken(_pcm: bytes) -> bytes:
        raise ValueError("codec")

    monkeypatch.setattr(encoder, "feed", broken)
    info = FormatInfo("mp3", "audio/mpeg", "mp3", lambda: encoder, costly=True)
    monkeypatch.setitem(formats.FORMATS, "mp3", info)
    with pytest.raises(ValueError, match="codec"):
        await speak(room)
    assert encoder.closed.is_set()

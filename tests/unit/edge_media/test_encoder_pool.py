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
    """Blocks in each call until its gate opens, and records its calls."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.closed = threading.Event()
        self.inside = 0
        self.calls = 0
        self.closed_inside_a_call = False
        self.threads: set[str] = set()

    def set_length(self, total_pcm_bytes: int) -> None:
        """Ignores the length."""

    def feed(self, pcm: bytes) -> bytes:
        """Returns the PCM once the gate is open; empty PCM passes at once."""
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
        """Returns a mark."""
        return b"end"

    def close(self) -> None:
        """Records whether a call was still running."""
        self.closed_inside_a_call = self.inside > 0
        self.closed.set()


async def speak(pool: EncoderPool) -> bytes:
    async with pool.session("mp3") as session:
        opening = await session.feed(b"")
        return opening + await session.feed(b"ab")


@pytest.fixture
async def pool() -> AsyncIterator[EncoderPool]:
    pool = EncoderPool()
    yield pool
    pool.close()


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch) -> GatedEncoder:
    encoder = GatedEncoder()
    monkeypatch.setitem(FORMATS, "mp3", FormatInfo("audio/mpeg", lambda: encoder, cpu_bound=True))
    return encoder


@pytest.mark.parametrize("name", AUDIO_FORMATS)
async def test_session_encodes_a_response_whole(pool: EncoderPool, name: AudioFormat) -> None:
    out = bytearray()
    async with pool.session(name) as session:
        for segment in (tone(2.0), b"", tone(1.0)):
            for chunk in session.chunks(segment):
                out += await session.feed(chunk)
        out += await session.finish()
    assert 3.0 <= decode(name, bytes(out)).seconds < 3.13


async def test_first_chunk_is_short_and_the_rest_stays_whole(pool: EncoderPool) -> None:
    segment = tone(2.0)
    async with pool.session("mp3") as session:
        first, rest = session.chunks(segment)
        assert len(await session.feed(first)) > 0
        assert session.chunks(segment) == (segment,)
    async with pool.session("wav") as session:
        assert session.chunks(segment) == (segment,)
    assert len(first) == 4800
    assert first + rest == segment


async def test_codec_work_stays_off_the_event_loop(pool: EncoderPool, gated: GatedEncoder) -> None:
    gated.gate.set()
    assert await speak(pool) == b"ab"
    assert gated.calls == 1
    assert all(name.startswith("encoder") for name in gated.threads)


async def test_cancelled_reader_closes_the_encoder_after_its_call(pool: EncoderPool, gated: GatedEncoder) -> None:
    reader = asyncio.create_task(speak(pool))
    await asyncio.to_thread(gated.entered.wait, 5)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert not gated.closed.is_set()
    gated.gate.set()
    assert await asyncio.to_thread(gated.closed.wait, 5)
    assert not gated.closed_inside_a_call


async def test_stuck_encoder_times_out(pool: EncoderPool, gated: GatedEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callboard_edge.media.encoder_pool.ENCODE_TIMEOUT_S", 0.05)
    with pytest.raises(TimeoutError):
        await speak(pool)
    gated.gate.set()
    assert await asyncio.to_thread(gated.closed.wait, 5)


async def test_failing_encoder_raises_and_is_closed(pool: EncoderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = GatedEncoder()

    def broken(_pcm: bytes) -> bytes:
        raise ValueError("codec")

    monkeypatch.setattr(encoder, "feed", broken)
    info = FormatInfo("audio/mpeg", lambda: encoder, cpu_bound=True)
    monkeypatch.setitem(formats.FORMATS, "mp3", info)
    with pytest.raises(ValueError, match="codec"):
        await speak(pool)
    assert encoder.closed.is_set()

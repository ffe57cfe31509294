"""Runs encoders off the event loop, one clip at a time in each."""

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager

from callboard_contracts.speech import BYTES_PER_MS
from callboard_edge.media.formats import FORMATS, AudioFormat, Encoder, FormatInfo

ENCODER_THREADS = 2
ENCODE_TIMEOUT_S = 10.0
"""How long one call may wait for a thread and run; a call takes milliseconds, so this is a stuck process."""
FIRST_SLICE_BYTES = 100 * BYTES_PER_MS
"""What is encoded at once on the event loop, so that the first bytes leave without waiting for a thread: at most
0.9 ms of work in each format, where a second of audio takes 1 to 7 ms."""


class EncodingSession:
    """One clip on its way through its encoder.

    Every call answers with what the encoder has finished; nothing is held back here, so a slow reader slows the
    caller and never piles up bytes.
    """

    def __init__(self, info: FormatInfo, encoder: Encoder, pool: ThreadPoolExecutor) -> None:
        self.info = info
        self._encoder = encoder
        self._pool = pool
        self._running: Future[bytes] | None = None
        self._begun = False
        self._closed = False

    def slices(self, pcm: bytes) -> tuple[bytes, ...]:
        """Cuts a segment so that each part can be fed, and its bytes sent, before the next one is encoded."""
        if self._begun or not self.info.costly or len(pcm) <= FIRST_SLICE_BYTES:
            return (pcm,)
        return pcm[:FIRST_SLICE_BYTES], pcm[FIRST_SLICE_BYTES:]

    async def feed(self, pcm: bytes) -> bytes:
        """Encodes more PCM and gives what is finished by now, possibly nothing."""
        begun, self._begun = self._begun, True
        if not self.info.costly or (not begun and len(pcm) <= FIRST_SLICE_BYTES):
            return self._encoder.feed(pcm)
        return await self._in_thread(pcm)

    def expect(self, total_pcm_bytes: int) -> int | None:
        """Learns how long all PCM will be, before anything is fed; gives the clip's length where that fixes it."""
        self._encoder.expect(total_pcm_bytes)
        return self.info.total_bytes(total_pcm_bytes) if self.info.total_bytes is not None else None

    async def finish(self) -> bytes:
        """Ends the clip and gives its last bytes."""
        return await self._in_thread(None) if self.info.costly else self._encoder.finish()

    def close(self) -> None:
        """Frees the encoder at once, or as soon as the call that a cancelled caller left behind has returned."""
        if self._closed:
            return
        self._closed = True
        running = self._running
        if running is None or running.done():
            self._encoder.close()
        else:
            running.add_done_callback(lambda _call: self._encoder.close())

    async def _in_thread(self, pcm: bytes | None) -> bytes:
        call = self._pool.submit(self._encoder.finish) if pcm is None else self._pool.submit(self._encoder.feed, pcm)
        self._running = call
        async with asyncio.timeout(ENCODE_TIMEOUT_S):
            return await asyncio.wrap_future(call)


class EncoderPool:
    """Owns the threads that all clips of a process share.

    A clip has at most one call under way, so the work that waits for a thread is bounded by the clips that are open.
    """

    def __init__(self, threads: int = ENCODER_THREADS) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="encoder")

    @asynccontextmanager
    async def clip(self, name: AudioFormat) -> AsyncGenerator[EncodingSession]:
        """Opens a clip; its encoder is freed at the end of the context, whichever way that ends.

        The first clip of a format loads its codec's library, which takes some 60 ms; open the clip before its sound is
        there.
        """
        info = FORMATS[name]
        if info.costly:
            building = self._pool.submit(info.build)
            try:
                async with asyncio.timeout(ENCODE_TIMEOUT_S):
                    encoder = await asyncio.wrap_future(building)
            except BaseException:
                building.add_done_callback(_close_unclaimed)
                raise
        else:
            encoder = info.build()
        clip = EncodingSession(info, encoder, self._pool)
        try:
            yield clip
        finally:
            clip.close()

    def close(self) -> None:
        """Stops the threads; calls that still wait for one are dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _close_unclaimed(building: "Future[Encoder]") -> None:
    if not building.cancelled() and building.exception() is None:
        building.result().close()

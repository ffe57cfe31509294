"""Runs encoders in threads, off the event loop."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager

from callboard_contracts.speech import BYTES_PER_MS
from callboard_edge.media.formats import FORMATS, AudioFormat, Encoder, FormatInfo

ENCODER_THREADS = 2
ENCODE_TIMEOUT_S = 10.0
"""How long one call may wait for a thread and run. A call takes milliseconds; after this time something is stuck."""
FIRST_CHUNK_BYTES = 100 * BYTES_PER_MS
"""What is encoded on the event loop itself, so that the first bytes do not wait for a thread. It takes at most 0.9 ms
in each format; a second of audio takes 1 to 7 ms."""


class EncodingSession:
    """The encoding of one response.

    Each call returns what the encoder has finished. Nothing is buffered here, so a slow client slows the caller down
    and no bytes pile up.
    """

    def __init__(self, info: FormatInfo, encoder: Encoder, pool: ThreadPoolExecutor) -> None:
        self.info = info
        self._encoder = encoder
        self._pool = pool
        self._running: Future[bytes] | None = None
        self._started = False

    def chunks(self, pcm: bytes) -> tuple[bytes, ...]:
        """Splits a segment so that the first bytes can be sent before the rest is encoded."""
        if self._started or not self.info.cpu_bound or len(pcm) <= FIRST_CHUNK_BYTES:
            return (pcm,)
        return pcm[:FIRST_CHUNK_BYTES], pcm[FIRST_CHUNK_BYTES:]

    async def feed(self, pcm: bytes) -> bytes:
        """Encodes more PCM and returns the bytes that are ready, possibly none."""
        started, self._started = self._started, True
        if not self.info.cpu_bound or (not started and len(pcm) <= FIRST_CHUNK_BYTES):
            return self._encoder.feed(pcm)
        return await self._in_thread(lambda: self._encoder.feed(pcm))

    def set_length(self, total_pcm_bytes: int) -> int | None:
        """Sets the length of all PCM before the first of it; returns the encoded length if the format determines it."""
        self._encoder.set_length(total_pcm_bytes)
        return self.info.total_bytes(total_pcm_bytes) if self.info.total_bytes is not None else None

    async def finish(self) -> bytes:
        """Ends the stream and returns its last bytes."""
        return await self._in_thread(self._encoder.finish) if self.info.cpu_bound else self._encoder.finish()

    def close(self) -> None:
        """Frees the encoder, once the call that a cancelled caller may have left running has returned."""
        if self._running is None:
            self._encoder.close()
        else:
            self._running.add_done_callback(lambda _call: self._encoder.close())

    async def _in_thread(self, call: Callable[[], bytes]) -> bytes:
        self._running = self._pool.submit(call)
        async with asyncio.timeout(ENCODE_TIMEOUT_S):
            return await asyncio.wrap_future(self._running)


class EncoderPool:
    """Owns the encoder threads of a process.

    A session has at most one call in progress, so the queue for threads is bounded by the number of open sessions.
    """

    def __init__(self, threads: int = ENCODER_THREADS) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="encoder")

    @asynccontextmanager
    async def session(self, name: AudioFormat) -> AsyncGenerator[EncodingSession]:
        """Opens a session and frees its encoder at the end of the context.

        The first session of a format loads its codec's library, which takes about 60 ms; open it before the audio
        arrives.
        """
        info = FORMATS[name]
        if info.cpu_bound:
            building = self._pool.submit(info.build)
            try:
                async with asyncio.timeout(ENCODE_TIMEOUT_S):
                    encoder = await asyncio.wrap_future(building)
            except BaseException:
                building.add_done_callback(_close_unclaimed)
                raise
        else:
            encoder = info.build()
        session = EncodingSession(info, encoder, self._pool)
        try:
            yield session
        finally:
            session.close()

    def close(self) -> None:
        """Stops the threads and drops the calls that wait for one."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _close_unclaimed(building: "Future[Encoder]") -> None:
    if not building.cancelled() and building.exception() is None:
        building.result().close()

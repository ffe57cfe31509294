"""A chat worker whose engine takes ever more native memory, as a process: `python -m ... --pool NAME --config FILE`."""

import ctypes
import os
import sys
from collections.abc import AsyncGenerator

from callboard_chat import app
from callboard_chat.backends.fake import FakeEngine
from callboard_chat.domain.ports import Chunk, Continuation
from callboard_contracts.chat import ChatRequest
from callboard_worker.runtime import worker_main

PIECE_BYTES = 64 * 1024 * 1024
PIECES = 40
"""So much is taken where nothing limits it."""


class RunawayEngine(FakeEngine):
    """Allocates before it replies, and ends the process when it cannot, as native engines do."""

    async def stream(
        self, request: ChatRequest, continuation: Continuation | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """Streams the fake engine's reply, if there is memory enough."""
        libc = ctypes.CDLL(None)
        libc.malloc.restype = ctypes.c_void_p
        libc.malloc.argtypes = [ctypes.c_size_t]
        for _ in range(PIECES):
            piece = libc.malloc(PIECE_BYTES)
            if not piece:
                os.abort()
            ctypes.memset(piece, 1, PIECE_BYTES)
        async for chunk in super().stream(request, continuation):
            yield chunk


if __name__ == "__main__":
    app.build_engine = lambda *_: RunawayEngine()
    sys.exit(worker_main("chat", app.run))

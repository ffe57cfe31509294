"""A chat worker whose engine does what the last message says after the first token.

`freeze` and `kill` do that; `until FILE` goes on once there is such a file.
"""

import asyncio
import contextlib
import os
import signal
import sys
from argparse import Namespace
from collections.abc import AsyncGenerator
from pathlib import Path

from callboard_chat.app import run_worker
from callboard_chat.backends.fake import FakeEngine, FakeScript
from callboard_chat.domain.ports import Chunk, Continuation
from callboard_chat.settings import pool_settings
from callboard_contracts.chat import ChatRequest
from callboard_contracts.config import Config
from callboard_kit.lifecycle import Shutdown
from callboard_worker.runtime import worker_main

SCRIPT = FakeScript(tokens=tuple(f"w{n} " for n in range(200)), token_delay_s=0.05)
TEXT = "".join(SCRIPT.tokens)


class ScriptedEngine(FakeEngine):
    """The fake engine, with the faults that take a process along."""

    async def stream(
        self, request: ChatRequest, continuation: Continuation | None = None
    ) -> AsyncGenerator[Chunk, None]:
        asked = request.messages[-1].content
        async for chunk in super().stream(request, continuation):
            yield chunk
            if asked == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            while asked.startswith("until ") and not Path(asked.removeprefix("until ")).exists():
                await asyncio.sleep(0.02)
            while asked == "freeze":
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(3600)


async def run(config: Config, shutdown: Shutdown, arguments: Namespace) -> None:
    pool = pool_settings(config, arguments.pool)
    await run_worker(config, pool, ScriptedEngine(SCRIPT), shutdown)


if __name__ == "__main__":
    sys.exit(worker_main("chat", run))

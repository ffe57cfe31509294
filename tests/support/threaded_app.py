"""An aiohttp application that serves from a thread of the test process, so that tests can look inside it."""

import asyncio
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from aiohttp import web

START_TIMEOUT_S = 10.0


class ThreadedApp:
    """Serves an application on a free loopback port; a handler whose client goes away is cancelled."""

    def __init__(self, make_app: Callable[[], web.Application]) -> None:
        self._make_app = make_app
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stub", daemon=True)
        self._runner: web.AppRunner | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """The root of what is served."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Begins to serve, on the same port as before if it served before."""
        if not self._thread.is_alive():
            self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(START_TIMEOUT_S)
        return self

    def pause(self) -> None:
        """Stops to listen and cuts every connection, as an engine that went down."""
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result(START_TIMEOUT_S)

    def close(self) -> None:
        """Ends the server and its thread."""
        self.pause()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_TIMEOUT_S)
        self._loop.close()

    async def _open(self) -> None:
        self._runner = web.AppRunner(self._make_app(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = int(self._runner.addresses[0][1])

    async def _shut(self) -> None:
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

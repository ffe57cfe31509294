"""A headless Chromium that shows one page, driven over its DevTools protocol."""

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-port=0",
)
START_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 30.0


class Page:
    """A page that runs scripts for a test."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._calls = 0

    async def call(self, method: str, **params: Any) -> Any:
        """What a method of the protocol answers."""
        self._calls += 1
        await self._socket.send_json({"id": self._calls, "method": method, "params": params})
        async with asyncio.timeout(CALL_TIMEOUT_S):
            while (answer := await self._socket.receive_json()).get("id") != self._calls:
                pass
        assert "error" not in answer, answer
        return answer["result"]

    async def evaluate(self, script: str) -> Any:
        """The value of an expression, once its promise is kept; raises AssertionError where it throws."""
        result = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def press(self, key: str, code: int, text: str = "") -> None:
        """Presses a key and lets it go."""
        await self.hold_key(key, code, text)
        await self.let_go(key, code)

    async def hold_key(self, key: str, code: int, text: str = "") -> None:
        """Presses a key."""
        await self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **_key(key, code))

    async def let_go(self, key: str, code: int) -> None:
        """Lets a key go."""
        await self.call("Input.dispatchKeyEvent", type="keyUp", **_key(key, code))

    async def until(self, script: str, timeout_s: float = 30.0) -> None:
        """Waits until an expression is true."""
        async with asyncio.timeout(timeout_s):
            while not await self.evaluate(script):
                await asyncio.sleep(0.05)


def _key(key: str, code: int) -> dict[str, Any]:
    return {"key": key, "code": key, "windowsVirtualKeyCode": code}


@asynccontextmanager
async def page_of(url: str, *options: str) -> AsyncGenerator[Page]:
    """Shows an address, in a browser with more options."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = await asyncio.create_subprocess_exec(
            CHROMIUM,
            *OPTIONS,
            *options,
            f"--user-data-dir={folder}",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            port = await _port(Path(folder) / "DevToolsActivePort")
            async with aiohttp.ClientSession() as session:
                async with session.put(f"http://127.0.0.1:{port}/json/new?{url}") as reply:
                    address = json.loads(await reply.text())["webSocketDebuggerUrl"]
                async with session.ws_connect(address, max_msg_size=0) as socket:
                    yield Page(socket)
        finally:
            browser.terminate()
            await asyncio.wait_for(browser.wait(), CALL_TIMEOUT_S)


async def _port(file: Path) -> int:
    """The port that the browser has chosen, once it listens there."""
    async with asyncio.timeout(START_TIMEOUT_S):
        while not file.exists() or not (lines := file.read_text().split()):
            await asyncio.sleep(0.05)
    return int(lines[0])

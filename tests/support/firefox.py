"""A headless Firefox that shows one page, driven over WebDriver BiDi."""

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.browser import CALL_TIMEOUT_S, START_TIMEOUT_S, Page

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
PREFERENCES: Mapping[str, Any] = {
    "app.normandy.enabled": False,
    "app.update.disabledForTesting": True,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "media.autoplay.default": 0,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "services.settings.server": "data:,",
    "toolkit.telemetry.server": "data:,",
}
FAKE_MICROPHONE: Mapping[str, Any] = {"media.navigator.streams.fake": True, "media.navigator.permission.disabled": True}
"""A microphone that hears a tone without a pause."""


class FirefoxPage(Page):
    """A page that runs scripts for a test."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        super().__init__(socket)
        self._context = ""

    async def show(self, url: str) -> None:
        """Opens a session, and shows an address in it."""
        await self.call("session.new", capabilities={})
        tree = await self.call("browsingContext.getTree")
        self._context = tree["contexts"][0]["context"]
        await self.call("browsingContext.navigate", context=self._context, url=url, wait="complete")

    async def evaluate(self, script: str) -> Any:
        """The value of an expression, once its promise is kept; raises AssertionError where it throws."""
        answer = await self.call(
            "script.evaluate",
            expression=f"Promise.resolve({script}).then((value) => JSON.stringify(value ?? null))",
            target={"context": self._context},
            awaitPromise=True,
            userActivation=True,
        )
        assert answer["type"] == "success", answer
        return json.loads(answer["result"]["value"])

    async def hold_key(self, key: str, code: int, text: str = "") -> None:
        """Presses a key, which WebDriver names by its text."""
        del key, code
        await self._key("keyDown", text)

    async def let_go(self, key: str, code: int, text: str = " ") -> None:
        """Lets a key go."""
        del key, code
        await self._key("keyUp", text)

    async def _key(self, kind: str, value: str) -> None:
        actions = [{"type": "key", "id": "keys", "actions": [{"type": kind, "value": value}]}]
        await self.call("input.performActions", context=self._context, actions=actions)


@asynccontextmanager
async def firefox_page_of(url: str, preferences: Mapping[str, Any] = FAKE_MICROPHONE) -> AsyncGenerator[FirefoxPage]:
    """Shows an address; where the machine has no loudspeaker, sound stands still."""
    assert FIREFOX is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        set_up = {**PREFERENCES, **preferences}
        lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in set_up.items()]
        (Path(folder) / "user.js").write_text("\n".join(lines), encoding="utf-8")
        browser = await asyncio.create_subprocess_exec(
            *(FIREFOX, "--headless", "--no-remote", "--remote-debugging-port=0", "--profile", folder, "about:blank"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            port = await _port(Path(folder) / "WebDriverBiDiServer.json")
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(f"ws://127.0.0.1:{port}/session", max_msg_size=0) as socket,
            ):
                page = FirefoxPage(socket)
                await page.show(url)
                yield page
        finally:
            browser.terminate()
            await asyncio.wait_for(browser.wait(), CALL_TIMEOUT_S)


async def _port(file: Path) -> int:
    """The port that the browser has chosen, once it listens there."""
    async with asyncio.timeout(START_TIMEOUT_S):
        while not file.exists() or not (text := file.read_text(encoding="utf-8")):
            await asyncio.sleep(0.05)
    return json.loads(text)["ws_port"]

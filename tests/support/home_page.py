"""The page at the root, as a test shows and uses it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from tests.support.browser import Page, page_of

WATCH = (
    "addEventListener('securitypolicyviolation', (event) => (window.violations ||= []).push(event.blockedURI || '?'))"
)
PHONE = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
DESK = {"width": 1100, "height": 900, "deviceScaleFactor": 1, "mobile": False}
AXE = """axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']}).then(
  (found) => found.violations.flatMap((one) =>
    one.nodes.map((node) => `${one.id} ${node.target} ${node.failureSummary}`)))"""


@asynccontextmanager
async def home(url: str, screen: dict[str, Any] = DESK, *options: str) -> AsyncGenerator[Page]:
    """Shows the page; at the end nothing of its policy may have been broken, and no markup have run."""
    async with page_of("about:blank", *options) as page:
        await page.call("Page.enable")
        await page.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        await page.call("Emulation.setDeviceMetricsOverride", **screen)
        await page.call("Page.navigate", url=url)
        await page.until("document.body?.dataset.shown === 'yes'")
        yield page
        assert await page.evaluate("window.violations || []") == []
        assert await page.evaluate("window.attacked") is None


async def click(page: Page, label: str) -> None:
    """Presses a button, by what a screen reader says of it."""
    found = f"[...document.querySelectorAll('button')].find((one) => (one.ariaLabel || one.textContent) === {label!r})"
    await page.evaluate(f"{found}.click()")

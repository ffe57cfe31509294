"""The page at the root in a real browser: a chat that speaks, what is on offer, and use by phone and keyboard."""

import asyncio
import json
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from tests.support.browser import CHROMIUM, Page
from tests.support.deployment import CHAT_MODEL, Deployment, eventually, stub_config
from tests.support.home_page import AXE, PHONE, click, home
from tests.support.processes import merged
from tests.support.stub_chat import StubChat
from tests.support.stub_openai import Script
from tests.support.stub_speech import StubSpeech
from tests.support.volunteers import POP, Volunteer

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(600),
    pytest.mark.skipif(CHROMIUM is None, reason="no `chromium` on the path to show the page"),
]

MARKUP = "<img src=x onerror='window.attacked=1'><script>window.attacked=1</script>"
HOSTILE_VOICE = "<b onclick=attacked=1>alto</b>"
VOICES = ["tenor", HOSTILE_VOICE]
CHARACTER = {"display_name": f"Mira {MARKUP}", "desc": MARKUP, "greetings": [f"Hm? {MARKUP}"], "voice": "tenor"}
REPLY = [
    "Good ",
    "evening, ",
    "and ",
    "welcome ",
    "to ",
    "the ",
    "old ",
    "theatre. ",
    MARKUP,
    " Take ",
    "your ",
    "seat.",
]
ENTER = ("Enter", 13, "\r")
TAB = ("Tab", 9)
MOST_TABS = 150
LAST_LINE = "document.querySelector('#log p:last-child').innerText"
PLAYER = "document.getElementById('player')"
REACHABLE = """[...document.querySelectorAll('a, button, input, select, textarea, summary, audio, [tabindex="0"]')]
  .filter((one) => one.checkVisibility() && !one.disabled)"""
NAME = "(one) => one.id || one.getAttribute('aria-label') || one.textContent"
COUNT_SAMPLES = """
MediaSource.isTypeSupported = () => false;
window.started_s = 0;
const start = AudioBufferSourceNode.prototype.start;
AudioBufferSourceNode.prototype.start = function (at) { started_s += this.buffer.duration; start.call(this, at); };"""


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, shared_chat_engine: StubChat, shared_speech_engine: StubSpeech
) -> Generator[Deployment]:
    """A site with a character and a voice whose names try to be markup."""
    over = {
        "tts": {"models": {"parrot": {"voices": VOICES}}},
        "chat": {"pools": {"crowd": {"backend": "volunteers"}}},
    }
    config = merged(stub_config(shared_chat_engine.url, shared_speech_engine.url), over)
    deployment = Deployment(tmp_path_factory.mktemp("home"), config, forked=True)
    try:
        deployment.start(rooms=1)
        file = deployment.folder / "mira.json"
        file.write_text(json.dumps(CHARACTER), encoding="utf-8")
        deployment.command("characters", "put", str(file))
        yield deployment
        deployment.wait_idle()
        deployment.stop()
    finally:
        deployment.abandon()


async def send(page: Page, text: str) -> None:
    """Types a message and sends it."""
    await page.evaluate("document.getElementById('message').focus()")
    await page.call("Input.insertText", text=text)
    await page.press(*ENTER)


async def replied(page: Page) -> str:
    """Waits until the reply is whole, and returns it."""
    await page.until("document.getElementById('log').getAttribute('aria-busy') === 'false'")
    assert await page.evaluate("document.getElementById('chat-problem').hidden")
    return await page.evaluate(LAST_LINE)


async def test_chat_streams_text_and_speaks_while_it_streams(site: Deployment, chat_engine: StubChat) -> None:
    chat_engine.plays(Script(reply=REPLY, token_delay_s=0.3))
    async with home(site.root_url()) as page:
        await page.evaluate(f"document.getElementById('model').value = {CHAT_MODEL!r}")
        await send(page, f"Hello {MARKUP}")
        await page.until(f"{LAST_LINE}.includes('evening') && !{LAST_LINE}.includes('seat')")
        assert await page.evaluate("document.getElementById('log').getAttribute('aria-busy')") == "true"
        await page.until(f"{PLAYER}.currentTime > 0.1 && !{PLAYER}.error")
        assert await replied(page) == f"{CHAT_MODEL}\n" + "".join(REPLY)
        assert await page.evaluate("document.querySelector('#log p').innerText") == f"You\nHello {MARKUP}"
        assert await page.evaluate("document.querySelectorAll('#log img, #log script').length") == 0
        await page.until(f"{PLAYER}.ended && {PLAYER}.duration > 0.5")
        await page.until("document.getElementById('usage-text').textContent.includes('Tier: anonymous')")
        # The dialogue goes on, and without sound where none is wanted.
        chat_engine.plays(Script(reply=["Yes."]))
        await page.evaluate("document.getElementById('speak').click()")
        await send(page, "Again?")
        await page.until("document.querySelectorAll('#log p').length === 4")
        assert await replied(page) == f"{CHAT_MODEL}\nYes."
        assert [one["role"] for one in chat_engine.calls[-1]["messages"]] == ["user", "assistant", "user"]
        assert await page.evaluate(f"{PLAYER}.ended")


async def test_stop_ends_the_reply_and_an_error_is_shown_as_one(site: Deployment, chat_engine: StubChat) -> None:
    chat_engine.plays(Script(reply=REPLY * 40, token_delay_s=0.2))
    async with home(site.root_url()) as page:
        await send(page, "Go on and on.")
        await page.until(f"document.querySelector('#log p') && {LAST_LINE}.includes('evening')")
        await click(page, "Stop")
        assert len(await replied(page)) < len("".join(REPLY)) * 20
        await page.until(f"{PLAYER}.paused")
        await eventually(lambda: chat_engine.active == 0, 20, "the engine stops")
        chat_engine.plays(Script(fail_status=400, fail_times=100))
        await click(page, "New chat")
        await send(page, "Hello?")
        await page.until("!document.getElementById('chat-problem').hidden")
        assert await page.evaluate("document.getElementById('message').value") == "Hello?"
        assert await page.evaluate("document.getElementById('log').childElementCount") == 0


async def test_voices_and_characters_are_heard_and_their_names_stay_text(
    site: Deployment, chat_engine: StubChat, speech_engine: StubSpeech
) -> None:
    chat_engine.plays(Script(reply=["Hm."]))
    async with home(site.root_url()) as page:
        for label, voice in ((f"Hear {HOSTILE_VOICE}", HOSTILE_VOICE), (f"Hear {CHARACTER['display_name']}", "tenor")):
            await click(page, label)
            await page.until(f"{PLAYER}.currentTime > 0.2 && !{PLAYER}.error && {PLAYER}.ended")
            assert speech_engine.calls[-1].voice == voice
        card = "document.querySelector('#character-list').innerText"
        assert await page.evaluate(f"{card}.includes({MARKUP!r})")
        assert await page.evaluate("document.querySelectorAll('main img, main script, main b').length") == 0
        await click(page, f"Talk to {CHARACTER['display_name']}")
        assert await page.evaluate("document.activeElement.id") == "message"
        await page.call("Input.insertText", text="Hello.")
        await page.press(*ENTER)
        assert await replied(page) == f"{CHARACTER['display_name']}\nHm."
        assert speech_engine.calls[-1].voice == "tenor"
        missing = await page.evaluate("document.getElementById('talk').innerText")
        assert "this site lacks a model that hears." in missing
        assert "Start" not in missing
        shown = await page.evaluate("document.getElementById('models').innerText")
        assert CHAT_MODEL in shown
        assert "parrot" in shown
        assert "character/" not in shown


async def test_key_is_used_for_this_tab_alone(site: Deployment) -> None:
    key = await asyncio.to_thread(site.create_key, "standard")
    async with home(site.root_url()) as page:
        await page.evaluate("document.getElementById('key').focus()")
        await page.call("Input.insertText", text=key)
        await page.press(*ENTER)
        await page.until("document.getElementById('usage-text').textContent.includes('Tier: standard')")
        await page.until("document.querySelectorAll('#limits tbody tr').length > 0")
        assert await page.evaluate("JSON.stringify([localStorage.length, document.cookie, location.href])") == (
            json.dumps([0, "", f"{site.root_url()}/"], separators=(",", ":"))
        )
        await page.call("Page.reload")
        await page.until("document.getElementById('usage-text')?.textContent.includes('Tier: standard')")
        await click(page, "Forget it")
        await page.until("document.getElementById('usage-text').textContent.includes('Tier: anonymous')")
        assert await page.evaluate("sessionStorage.length") == 0


async def test_own_workers_are_paused_and_resumed_and_everybody_sees_who_is_there(site: Deployment) -> None:
    key = await asyncio.to_thread(site.create_key, "standard")
    async with aiohttp.ClientSession() as session:
        barn = Volunteer(site.root_url(), key, session, "barn", models=[MARKUP])
        await barn.pop()
        async with home(site.root_url()) as page:
            rows = "[...document.querySelectorAll('#{} tbody tr')].map((one) => one.innerText).join()"
            await page.until(f"{rows.format('live-workers')}.includes('barn')")
            assert MARKUP in await page.evaluate(rows.format("live-workers"))
            assert CHAT_MODEL in await page.evaluate(rows.format("live-models"))
            assert await page.evaluate("document.getElementById('own-workers').hidden")
            await page.evaluate(f"document.getElementById('key').value = {key!r}")
            await click(page, "Use this key")
            for pressed, status in (("Pause: barn", 403), ("Resume: barn", 200)):
                await page.until(
                    f"[...document.querySelectorAll('button')].some((one) => one.ariaLabel === {pressed!r})"
                )
                await click(page, pressed)
                async with asyncio.timeout(20):
                    while (await barn.post(POP, barn.offer))[0] != status:
                        await asyncio.sleep(0.05)
            assert "1 worker" in await page.evaluate("document.getElementById('own-text').innerText")


async def test_page_fits_a_phone_and_all_of_it_is_reached_by_keyboard(site: Deployment) -> None:
    async with home(site.root_url(), PHONE) as page:
        await page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
        assert await page.evaluate("innerWidth") == PHONE["width"]
        assert await page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        wide = f"{REACHABLE}.filter((one) => one.getBoundingClientRect().right > innerWidth).map({NAME})"
        assert await page.evaluate(wide) == []
        await page.evaluate("window.reached = new Set()")
        for _ in range(MOST_TABS):
            await page.press(*TAB)
            if await page.evaluate("document.activeElement === document.body || reached.has(document.activeElement)"):
                break
            await page.evaluate("void reached.add(document.activeElement)")
            outlined = "getComputedStyle(document.activeElement).outlineStyle !== 'none'"
            assert await page.evaluate(outlined), await page.evaluate(f"({NAME})(document.activeElement)")
        assert await page.evaluate(f"{REACHABLE}.filter((one) => !reached.has(one)).map({NAME})") == []
        assert await page.evaluate("reached.size") > 20


async def test_axe_finds_nothing_dark_or_light(site: Deployment, chat_engine: StubChat, axe: str) -> None:
    chat_engine.plays(Script(reply=["Good evening."]))
    async with home(site.root_url(), PHONE) as page:
        await send(page, "Hello.")
        await replied(page)
        await page.until("!document.getElementById('limits').hidden")
        await page.evaluate(axe)
        for scheme in ("light", "dark"):
            await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            assert await page.evaluate(AXE) == [], scheme


async def test_browser_that_cannot_feed_its_player_hears_the_samples(site: Deployment, chat_engine: StubChat) -> None:
    chat_engine.plays(Script(reply=["Good ", "evening."]))
    async with home(site.root_url()) as page:
        await page.evaluate(COUNT_SAMPLES)
        await send(page, "Hello.")
        assert (await replied(page)).endswith("Good evening.")
        await page.until("started_s > 0.2")


async def test_page_works_below_a_path_of_a_proxy(site: Deployment, chat_engine: StubChat) -> None:
    chat_engine.plays(Script(reply=["Good ", "evening."]))
    async with below_a_path(site.root_url()) as url, home(f"{url}?from=mail#chat") as page:
        addresses = await page.evaluate("[...document.querySelectorAll('#addresses input')].map((one) => one.value)")
        root = url.rstrip("/")
        assert set(addresses) == {root, f"{root}/v1", f"{root}/v1/audio/speech", f"{root}/v1/characters"}
        await send(page, "Hello.")
        assert (await replied(page)).endswith("Good evening.")
        await page.until(f"{PLAYER}.currentTime > 0.1")


@asynccontextmanager
async def below_a_path(target: str) -> AsyncGenerator[str]:
    """A proxy that shows a server below `/talk/`."""
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def forward(request: web.Request) -> web.StreamResponse:
            path = request.rel_url.raw_path.removeprefix("/talk")
            headers = {name: value for name, value in request.headers.items() if name != "Host"}
            body = await request.read()
            async with session.request(request.method, target + path, headers=headers, data=body) as reply:
                skipped = {"transfer-encoding", "content-length", "connection"}
                kept = {name: value for name, value in reply.headers.items() if name.lower() not in skipped}
                response = web.StreamResponse(status=reply.status, headers=kept)
                await response.prepare(request)
                async for part in reply.content.iter_any():
                    await response.write(part)
                return response

        app = web.Application()
        app.router.add_route("*", "/talk/{path:.*}", forward)
        runner = web.AppRunner(app)
        await runner.setup()
        listener = web.TCPSite(runner, "127.0.0.1", 0)
        await listener.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/talk/"
        finally:
            await runner.cleanup()

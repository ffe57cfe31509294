"""Talk on the page at the root, in real browsers with microphones that hear a file: held, hands-free, interrupted."""

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.browser import CHROMIUM, Page
from tests.support.deployment import Deployment, eventually, stub_config
from tests.support.firefox import FIREFOX, firefox_page_of
from tests.support.home_page import AXE, DESK, PHONE, click, home
from tests.support.processes import merged
from tests.support.sounds import RATE_HZ, Pcm, silence, wav
from tests.support.stub_chat import StubChat
from tests.support.stub_openai import Script
from tests.support.stub_speech import StubSpeech

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
in_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no `chromium` on the path to show the page")

HEARS = {"stt": {"pools": {"ear": {"backend": "fake"}}, "models": {"whisper": {"pool": "ear"}}}}
SENTENCES = ["Good evening, and welcome to the old theatre by the river. "] * 8
LONG = Script(reply=[f"{word} " for word in "".join(SENTENCES).split()], token_delay_s=0.05)
SPACE = (" ", 32, " ")
ENTER = ("Enter", 13, "\r")
STATE = "document.getElementById('talk-state').dataset.state"
ANSWER = "document.querySelector('#talk-log p:last-child')"
PLAYED = f"Number({ANSWER}?.dataset.playedMs || 0)"
LINES = "[...document.querySelectorAll('#talk-log p')].map((one) => one.innerText)"
PROBLEM = "document.getElementById('talk-problem').textContent"
FOCUSED = "document.activeElement.id"
WATCH_STATES = """window.states = [];
new MutationObserver(() => states.push(document.getElementById('talk-state').textContent))
  .observe(document.getElementById('talk-state'), { childList: true });"""
MIDDLE_OF_BUTTON = """(() => {
  const button = document.getElementById('talk-hold');
  button.scrollIntoView({ block: 'center' });
  const { x, y, width, height } = button.getBoundingClientRect();
  return { x: x + width / 2, y: y + height / 2 };
})()"""
RESAMPLED = """import('/home/resampler.js').then(({ Resampler }) =>
  [[48000, 24000, 440], [44100, 24000, 440], [24000, 48000, 440], [48000, 24000, 15000]].map(([from, to, pitch]) => {
    const resampler = new Resampler(from, to);
    const wave = (n, rate) => Math.sin((2 * Math.PI * pitch * n) / rate);
    const made = [];
    for (let n = 0; n < from; n += 128)
      made.push(...resampler.process(Float32Array.from({ length: 128 }, (_, k) => wave(n + k, from))));
    const wrong = made.slice(500, -500).map((sample, n) => Math.abs(sample - (pitch < to / 2 ? wave(n + 500, to) : 0)));
    return [Math.abs(made.length - to) < 150, Math.max(...wrong) < 0.01];
  }))"""


def voice(seconds: float) -> Pcm:
    """Four syllables a second: what takes noise away leaves them, as it does not a steady tone."""
    moments = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    pitches = sum(np.sin(2 * np.pi * 180 * n * moments) / n for n in (1, 2, 3, 5))
    return (9000 * np.sin(np.pi * 4 * moments) ** 2 * pitches).clip(-32000, 32000).astype(np.int16)


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, shared_chat_engine: StubChat, shared_speech_engine: StubSpeech
) -> Generator[Deployment]:
    """A site that hears, writes and speaks."""
    config = merged(stub_config(shared_chat_engine.url, shared_speech_engine.url), HEARS)
    deployment = Deployment(tmp_path_factory.mktemp("talk"), config, forked=True)
    try:
        deployment.start(rooms=1)
        deployment.add_recogniser().wait_ready()
        yield deployment
        deployment.wait_idle()
        deployment.command("usage", "verify")
        deployment.stop()
    finally:
        deployment.abandon()


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the microphone hears, again and again: a second of quiet, somebody who speaks, and quiet."""
    file = tmp_path_factory.mktemp("spoken") / "voice.wav"
    file.write_bytes(wav(np.concatenate([silence(1), voice(1.5), silence(4)])))
    return file


@asynccontextmanager
async def talking(site: Deployment, spoken: Path, mode: str, screen: dict[str, Any] = DESK) -> AsyncGenerator[Page]:
    """The page, once a talk has begun on it."""
    microphone = (
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={spoken}",
    )
    async with home(site.root_url(), screen, *microphone) as page:
        await page.evaluate(WATCH_STATES)
        await page.evaluate(f"document.getElementById('talk-mode').value = {mode!r}")
        await page.evaluate("document.getElementById('talk-start').focus()")
        await page.press(*ENTER)
        await page.until("['ready', 'listening', 'hearing'].includes(" + STATE + ")")
        yield page


async def say(page: Page, key: tuple[str, int, str] = SPACE) -> None:
    """Holds a key on the button until something was said."""
    loud = "document.getElementById('talk-level').value > 0.4"
    await page.hold_key(*key)
    await page.until(f"{STATE} === 'hearing'")
    await page.until(loud)
    await page.until(f"!({loud})")
    await page.let_go(*key[:2])


@in_chromium
async def test_held_by_keyboard_it_hears_answers_and_stops_when_interrupted(
    site: Deployment, spoken: Path, chat_engine: StubChat, axe: str
) -> None:
    chat_engine.plays(LONG)
    async with talking(site, spoken, "hold", PHONE) as page:
        assert await page.evaluate(FOCUSED) == "talk-hold"
        assert await page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        await say(page)
        await page.until(f"{LINES}[0]?.startsWith('You\\ntone')")
        await page.until(f"{LINES}.length === 2 && {LINES}[1].includes('evening')")
        assert await page.evaluate(f"{LINES}[1].split('evening').length") < len(SENTENCES)
        await page.until(f"{STATE} === 'speaking' && {PLAYED} > 300")
        assert await page.evaluate("window.states") == [
            "Connecting.",
            "Ready. Hold the button, or the space bar on it, while you speak.",
            "Hearing you.",
            "Thinking.",
            "Speaking.",
        ]
        await page.evaluate(axe)
        for scheme in ("light", "dark"):
            await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            assert await page.evaluate(AXE) == [], scheme
        await page.hold_key(*ENTER)
        played_ms = await page.evaluate(PLAYED)
        await page.until(f"{ANSWER}.innerText.endsWith('(interrupted)')")
        await eventually(lambda: chat_engine.active == 0, 20, "the engine stops")
        heard = (await page.evaluate(f"{LINES}[1]")).splitlines()[1].removesuffix(" … (interrupted)")
        assert "".join(SENTENCES).startswith(heard)
        assert 0 < len(heard) < len("".join(SENTENCES)) / 2
        chat_engine.plays(Script(reply=["Yes."]))
        await page.let_go(*ENTER[:2])
        await say(page)
        await page.until(f"{LINES}.at(-1).endsWith('Yes.') && {STATE} === 'ready'")
        assert await page.evaluate("Number(document.querySelectorAll('#talk-log p')[1].dataset.playedMs)") < (
            played_ms + 150
        )
        messages = chat_engine.calls[-1]["messages"]
        assert [one["role"] for one in messages] == ["system", "user", "assistant", "user"]
        assert messages[2]["content"].strip() == heard.strip()


@in_chromium
async def test_hands_free_it_is_interrupted_by_voice_muted_and_goes_on_after_a_lost_connection(
    site: Deployment, spoken: Path, chat_engine: StubChat
) -> None:
    chat_engine.plays(LONG)
    async with talking(site, spoken, "hands-free") as page:
        await page.until(f"{PLAYED} > 500")
        await page.until(f"{LINES}.some((line) => line.endsWith('(interrupted)'))")
        chat_engine.plays(Script(reply=["Yes."]))
        await click(page, "Mute")
        await page.until(f"{STATE} === 'muted'")
        assert await page.evaluate("document.getElementById('talk-level').value") == 0
        await page.call("Network.enable")
        network: dict[str, Any] = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        await page.call("Network.emulateNetworkConditions", offline=True, **network)
        await page.until(f"{STATE} === 'off' && {PROBLEM} === 'The connection was lost.'")
        await page.call("Network.emulateNetworkConditions", offline=False, **network)
        before = await page.evaluate(f"{LINES}.length")
        await click(page, "Reconnect")
        await page.until(f"{LINES}.length >= {before} + 2 && {LINES}.at(-1).endsWith('Yes.')")
        told = chat_engine.calls[-1]["messages"]
        assert [one["role"] for one in told[:4]] == ["system", "user", "assistant", "user"]
        assert told[2]["content"].startswith("Good")
        await click(page, "End")
        assert await page.evaluate(STATE) == "off"


@in_chromium
async def test_what_keeps_somebody_from_talking_is_said_in_words(site: Deployment, spoken: Path) -> None:
    async with home(site.root_url(), DESK, "--host-resolver-rules=MAP voices.example 127.0.0.1") as page:
        assert await page.evaluate(RESAMPLED) == [[True, True]] * 4
        # No microphone, as the browser was started without one.
        await click(page, "Start")
        await page.until(f"{PROBLEM} === 'There is no microphone.' && {STATE} === 'off'")
        await page.evaluate("""void (navigator.mediaDevices.getUserMedia = async () => {
          throw new DOMException('no', 'NotAllowedError'); })""")
        await click(page, "Start")
        await page.until(f"{PROBLEM}.includes('was not allowed')")
        # From here on the microphone is a tone of the page's own.
        await page.evaluate("""void (navigator.mediaDevices.getUserMedia = async () => {
          const context = new AudioContext();
          const tone = new OscillatorNode(context);
          const end = new MediaStreamAudioDestinationNode(context);
          tone.connect(end);
          tone.start();
          return (window.stream = end.stream); })""")
        for key, words in (("cb_wrong", 'at "Key and usage"'), ("schlüssel", "letters")):
            await page.evaluate(f"void sessionStorage.setItem('callboard.key', {key!r})")
            await click(page, "Start")
            await page.until(f"{PROBLEM}.includes({words!r})")
        await page.evaluate("sessionStorage.clear()")
        await click(page, "Start")
        await page.until(f"{STATE} === 'ready'")
        place = await page.evaluate(MIDDLE_OF_BUTTON)
        button: dict[str, Any] = {**place, "button": "left", "clickCount": 1}
        await page.call("Input.dispatchMouseEvent", type="mousePressed", **button)
        await page.until(f"{STATE} === 'hearing'")
        await page.call("Input.dispatchMouseEvent", type="mouseReleased", **button)
        await page.until(f"{PROBLEM}.includes('for as long as you speak') && {STATE} === 'ready'")
        await page.evaluate("stream.getTracks()[0].dispatchEvent(new Event('ended'))")
        await page.until(f"{PROBLEM} === 'The microphone is gone.'")
        assert await page.evaluate("stream.getTracks()[0].readyState") == "ended"
        await page.call("Page.navigate", url=site.root_url().replace("127.0.0.1", "voices.example"))
        await page.until("document.getElementById('talk-missing')?.textContent.includes('only over HTTPS')")
        assert await page.evaluate("document.getElementById('talk-parts').hidden")


@pytest.mark.skipif(FIREFOX is None, reason="no `firefox` on the path to show the page")
async def test_firefox_opens_microphone_and_session(site: Deployment) -> None:
    async with firefox_page_of(site.root_url()) as page:
        await page.until("document.body?.dataset.shown === 'yes'")
        await click(page, "Start")
        await page.until(f"{STATE} === 'ready' && {PROBLEM} === ''")

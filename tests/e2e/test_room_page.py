"""The page that plays a room, in a real browser."""

import asyncio

import aiohttp
import pytest

from tests.e2e.conftest import MakeBoard
from tests.support.browser import CHROMIUM, page_of
from tests.support.deployment import VOICES
from tests.support.stub_chat import StubChat, numbered

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(400),
    pytest.mark.skipif(CHROMIUM is None, reason="no `chromium` on the path to show the page"),
]

SOUND = "document.getElementById('sound')"


async def test_page_plays_the_room_and_names_who_speaks(make_deployment: MakeBoard, chat_engine: StubChat) -> None:
    deployment = await asyncio.to_thread(make_deployment, {}, rooms=1)
    chat_engine.plays(numbered(12, delay_s=0.02))
    root = deployment.root_url()
    message = {
        "join_key": "pond",
        "username": "Ada",
        "message": "Who are you?",
        "charactername": "Frog",
        "message_id": "m-1",
        "audio_voice": VOICES[0],
    }
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{root}/ait/startConversation", json={"join_key": "pond!lily"}) as reply:
            assert reply.status == 200
        async with page_of(f"{root}/ait/rooms/pond!lily") as page:
            await page.until("document.readyState === 'complete' && document.title === 'pond'")
            assert await page.evaluate("document.getElementById('room').textContent") == "pond"
            assert not await page.evaluate("document.querySelector('main').outerHTML.includes('lily')")
            assert await page.evaluate("document.getElementById('speaker').textContent") == "Nobody speaks."
            await page.evaluate(f"{SOUND}.play()")
            await page.until(f"{SOUND}.currentTime > 0.5")
            async with session.post(f"{root}/ait/postMessage", json=message) as reply:
                assert reply.status == 425
            await page.until("document.getElementById('speaker').textContent === 'Frog speaks.'")
            heard_s = await page.evaluate(f"{SOUND}.currentTime")
            await page.until("document.getElementById('speaker').textContent === 'Nobody speaks.'")
            await page.until(f"{SOUND}.currentTime > {heard_s} && !{SOUND}.paused && {SOUND}.error === null")
            assert await page.evaluate("document.getElementById('speakers').innerText.trim()") == "Frog"
    await asyncio.to_thread(deployment.wait_idle)
    await asyncio.to_thread(deployment.stop)

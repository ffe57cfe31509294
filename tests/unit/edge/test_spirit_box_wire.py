"""The spirit box on the wire: Socket.IO frame by frame, as its page sends and reads it."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import socketio  # pyright: ignore[reportMissingTypeStubs]
from socketio.exceptions import ConnectionError as Refused  # pyright: ignore[reportMissingTypeStubs]

from callboard_contracts.accounts import key_digest
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.speech import BYTES_PER_MS, SegmentInfo, SpeechEnd
from callboard_edge.protocols.spiritbox import session as sessions
from callboard_edge.protocols.spiritbox.session import MAX_WAITING, Session
from tests.unit.edge.harness import EdgeHarness, frames, heard, running

pytestmark = pytest.mark.unit

PATH = "/socket.io/?EIO=4&transport="
AUTH = '{"user":"seance","password":"moth"}'
RECORDING = b"\x1aE\xdf\xa3" + bytes(range(256)) * 8
CONTACT = '451-["contact",{"_placeholder":true,"num":0}]'
FIRST = CONTACT.replace("contact", "first_response")
MORE = CONTACT.replace("contact", "response")
CLOSED = {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED}
SETTINGS = {"enabled": True, "password": "moth", "max_parts": 1, "pause_s": 0}


@asynccontextmanager
async def edge(**settings: Any) -> AsyncGenerator[EdgeHarness]:
    async with running({"spirit_box": {**SETTINGS, **settings}}) as harness:
        yield harness


async def polled(harness: EdgeHarness, sid: str) -> list[str]:
    """The packets of one poll."""
    async with harness.session.get(f"{harness.url}{PATH}polling&sid={sid}") as reply:
        assert (reply.status, reply.content_type) == (200, "text/plain")
        return (await reply.text()).split("\x1e")


async def posted(harness: EdgeHarness, sid: str, *packets: str) -> int:
    """Sends packets of a page that polls."""
    async with harness.session.post(f"{harness.url}{PATH}polling&sid={sid}", data="\x1e".join(packets)) as reply:
        assert (await reply.text() == "ok") == (reply.status == 200)
        return reply.status


async def handshake(harness: EdgeHarness) -> Any:
    """Opens a session by polling."""
    async with harness.session.get(f"{harness.url}{PATH}polling") as reply:
        assert reply.status == 200
        told = await reply.text()
    assert told[0] == "0"
    return json.loads(told[1:])


@asynccontextmanager
async def page(harness: EdgeHarness, auth: str = AUTH) -> AsyncGenerator[aiohttp.ClientWebSocketResponse]:
    """A page with a WebSocket from the beginning, and what it was told."""
    async with harness.session.ws_connect(f"{harness.url}{PATH}websocket") as socket:
        assert (await socket.receive_str())[0] == "0"
        await socket.send_str(f"40{auth}")
        yield socket


async def answered(harness: EdgeHarness, text: str = "I am the wind.") -> None:
    """Hears, writes and speaks one answer."""
    await harness.hear(heard("Who are you?"))
    speech = await harness.jobs.next_speech()
    await harness.worker(frames(text))
    pcm = bytes(50 * BYTES_PER_MS)
    harness.replies.say(speech.request_id, 0, SegmentInfo(attempt=1, piece=0, offset_bytes=0, piece_done=True), pcm)
    end = SpeechEnd(reason="stop", audio_ms=50)
    harness.replies.say(speech.request_id, 1, SegmentInfo(attempt=1, piece=1, offset_bytes=0, end=end), b"")


def is_mp3(sound: bytes) -> bool:
    """Whether a sound begins with a frame of MPEG audio."""
    return len(sound) > 100 and sound[0] == 0xFF and sound[1] & 0xE0 == 0xE0


async def test_conversation_goes_as_the_page_has_it_frame_by_frame() -> None:
    async with edge() as harness:
        told = await handshake(harness)
        assert told["upgrades"] == ["websocket"]
        assert told["maxPayload"] > 200_000
        sid = told["sid"]
        assert await posted(harness, sid, f"40{AUTH}") == 200
        async with harness.session.ws_connect(f"{harness.url}{PATH}websocket&sid={sid}") as socket:
            waiting = asyncio.ensure_future(polled(harness, sid))
            (connected,) = await waiting
            own_sid = json.loads(connected.removeprefix("40"))["sid"]
            assert own_sid != sid
            waiting = asyncio.ensure_future(polled(harness, sid))
            await socket.send_str("2probe")
            assert await socket.receive_str() == "3probe"
            assert await waiting == ["6"]
            await socket.send_str("5")
            await socket.send_str('42["seed",{"seed":2439659}]')
            await socket.send_str(CONTACT)
            await socket.send_bytes(RECORDING)
            await answered(harness)
            assert await socket.receive_str() == FIRST
            assert is_mp3(await socket.receive_bytes())
        await harness.all_closed()
        assert harness.figure("callboard_edge_spirit_contacts_total", outcome="answered") == 1
        assert harness.figure("callboard_edge_spirit_stage_seconds_count", stage="sound") == 1


async def test_page_behind_a_proxy_without_websockets_sends_and_hears_everything_whole() -> None:
    async with edge() as harness:
        sid = (await handshake(harness))["sid"]
        await posted(harness, sid, f"40{AUTH}")
        await polled(harness, sid)
        recording = bytes(range(256)) * 700
        packets = (CONTACT, f"b{base64.b64encode(recording).decode()}")
        assert await posted(harness, sid, *packets) == 200
        async with asyncio.timeout(5):
            while not harness.jobs.sounds:
                await asyncio.sleep(0.01)
        assert list(harness.jobs.sounds.values()) == [recording]
        await answered(harness)
        first, sound = await polled(harness, sid)
        assert first == FIRST
        assert is_mp3(base64.b64decode(sound.removeprefix("b")))
        assert await posted(harness, sid, "1") == 200
        assert await posted(harness, sid, "3") == 400


WRONG_PASSWORDS = (
    "",
    '{"user":"seance","password":"month"}',
    '{"user":"ghost","password":"moth"}',
    "[]",
    '{"user":"seance"}',
    '{"user":"seance","password":7}',
)


async def test_wrong_password_is_refused_with_words_and_after_many_the_address_is_not_listened_to() -> None:
    async with edge() as harness:
        for auth, told in (*((one, "The password is wrong.") for one in WRONG_PASSWORDS), (AUTH, "try again in 1 s.")):
            async with page(harness, auth) as socket:
                refusal = await socket.receive_str()
            assert refusal.startswith('44{"message":"'), auth
            assert told in refusal, auth
            # Whoever has a key guesses no more passwords than others.
            async with page(harness, '{"user":"seance","password":"cb_key"}') as socket:
                assert (await socket.receive_str()).startswith("40{")


async def test_key_opens_the_box_and_counts_and_an_unknown_one_does_not() -> None:
    async with edge(password=None) as harness:
        auth = '{"user":"seance","password":"cb_key"}'
        async with page(harness, auth) as socket:
            assert (await socket.receive_str()).startswith("40{")
            await socket.send_str(CONTACT)
            await socket.send_bytes(RECORDING)
            await answered(harness)
            assert await socket.receive_str() == FIRST
        assert {one.key_digest for one in harness.quota.asked} == {key_digest("cb_key")}
        async with page(harness, AUTH) as socket:
            assert (await socket.receive_str()).startswith("44{")
        harness.quota.refusal = ErrorInfo(code=ErrorCode.INVALID_API_KEY, message="There is no such key.")
        async with page(harness, auth) as socket:
            assert await socket.receive_str() == '44{"message":"There is no such key."}'


async def test_visitors_with_the_password_count_under_the_sites_key() -> None:
    async with edge(api_key="cb_site") as harness, page(harness) as socket:
        assert (await socket.receive_str()).startswith("40{")
        await socket.send_str(CONTACT)
        await socket.send_bytes(RECORDING)
        await answered(harness)
        assert await socket.receive_str() == FIRST
        assert {one.key_digest for one in harness.quota.asked} == {key_digest("cb_site")}


WRONG_EVENTS = {
    "a seed that is text": ('42["seed",{"seed":"7"}]', False),
    "a seed that is true": ('42["seed",{"seed":true}]', False),
    "a seed without an object": ('42["seed",7]', False),
    "an event that nobody knows": ('42["thud"]', False),
    "a contact that is text": ('42["contact","hello"]', True),
    "a contact that is JSON": ('42["contact",{"_placeholder":true,"num":0}]', True),
}


async def test_wrong_event_is_told_and_costs_nothing_and_the_page_may_go_on() -> None:
    async with edge() as harness, page(harness) as socket:
        await socket.receive_str()
        for case, (packet, contact) in WRONG_EVENTS.items():
            await socket.send_str(packet)
            name, told = json.loads((await socket.receive_str()).removeprefix("42"))
            assert (name, told["code"]) == ("failure", "invalid_request"), case
            if contact:
                assert await socket.receive_str() == FIRST
                assert is_mp3(await socket.receive_bytes())
        assert (harness.quota.asked, harness.jobs.queued) == ([], 0)
        await socket.send_str(CONTACT)
        await socket.send_bytes(RECORDING)
        await answered(harness)
        assert await socket.receive_str() == FIRST


BROKEN: dict[str, tuple[str | bytes, ...]] = {
    "a recording out of nowhere": (RECORDING,),
    "text where a recording was announced": (CONTACT, '42["seed",{"seed":1}]'),
    "two attachments": ('452-["contact",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]',),
    "no attachment": ('450-["contact"]',),
    "broken JSON": ('42["contact"',),
    "deep JSON": (f"42{'[' * 10_000}",),
    "a number without an end": (f'42["seed",{{"seed":{"9" * 10_000}}}]',),
    "a packet as long as a recording": (f'42["{"x" * 20_000}"]',),
    "an event without a name": ("42[]",),
    "an object for an event": ("42{}",),
    "a packet of no type": ("49",),
    "another connect": (f"40{AUTH}",),
    "a recording in another namespace": ('451-/other,["contact",{"_placeholder":true,"num":0}]',),
}


async def test_packets_out_of_order_end_the_session_with_words_and_cost_nothing() -> None:
    async with edge() as harness:
        for case, sent in BROKEN.items():
            async with page(harness) as socket:
                await socket.receive_str()
                for packet in sent:
                    await (socket.send_str(packet) if isinstance(packet, str) else socket.send_bytes(packet))
                name, told = json.loads((await socket.receive_str()).removeprefix("42"))
                assert (name, told["code"]) == ("failure", "invalid_request"), case
                assert await socket.receive_str() == "41"
                assert (await socket.receive()).type in CLOSED
        for packet in ('42["seed",{"seed":1}]', CONTACT, RECORDING, "4", "49"):
            async with harness.session.ws_connect(f"{harness.url}{PATH}websocket") as socket:
                await socket.receive_str()
                await (socket.send_str(packet) if isinstance(packet, str) else socket.send_bytes(packet))
                assert (await socket.receive_str()).startswith("44{")
                assert (await socket.receive()).type in CLOSED
        assert (harness.quota.asked, harness.jobs.queued) == ([], 0)


async def test_other_namespace_is_refused_and_the_root_still_open() -> None:
    async with edge() as harness, harness.session.ws_connect(f"{harness.url}{PATH}websocket") as socket:
        await socket.receive_str()
        await socket.send_str("40/admin,{}")
        assert await socket.receive_str() == '44/admin,{"message":"Invalid namespace"}'
        await socket.send_str(f"40{AUTH}")
        assert (await socket.receive_str()).startswith("40{")


WRONG_HANDSHAKES = (
    *("", "EIO=3&transport=polling", "EIO=4", "EIO=4&transport=flashsocket", "EIO=4&transport=websocket"),
    *("EIO=4&transport=polling&sid=nobody", "EIO=4&transport=websocket&sid=nobody"),
)


async def test_wrong_handshake_is_a_line_of_text() -> None:
    async with edge() as harness:
        for query in WRONG_HANDSHAKES:
            async with harness.session.get(f"{harness.url}/socket.io/?{query}") as reply:
                assert (reply.status, reply.content_type) == (400, "text/plain"), query
            async with harness.session.post(f"{harness.url}/socket.io/?{query}", data="2") as reply:
                assert reply.status == 400, query


async def test_edge_that_stops_ends_conversations_at_once_and_begins_none() -> None:
    async with edge() as harness, page(harness) as socket:
        await socket.receive_str()
        await socket.send_str(CONTACT)
        await socket.send_bytes(RECORDING)
        job = await harness.jobs.next_transcription()
        await harness.server.stop_listening()
        assert (await socket.receive()).type in CLOSED
        assert await harness.server.wait_idle(5)
        await harness.all_closed()
        assert harness.jobs.cancelled == [job.request_id]


async def test_page_that_polls_twice_at_once_or_goes_away_is_forgotten_with_its_answer() -> None:
    async with edge() as harness:
        sid = (await handshake(harness))["sid"]
        await posted(harness, sid, f"40{AUTH}")
        await polled(harness, sid)
        await posted(harness, sid, CONTACT, f"b{base64.b64encode(RECORDING).decode()}")
        job = await harness.jobs.next_transcription()
        polling = asyncio.ensure_future(polled(harness, sid))
        await asyncio.sleep(0.05)
        polling.cancel()
        await harness.all_closed()
        assert harness.jobs.cancelled == [job.request_id]
        assert await posted(harness, sid, "3") == 400
        sid = (await handshake(harness))["sid"]
        polling = asyncio.ensure_future(polled(harness, sid))
        await asyncio.sleep(0.05)
        async with harness.session.get(f"{harness.url}{PATH}polling&sid={sid}") as reply:
            assert reply.status == 400
        assert await polling == ["1"]


async def test_silent_page_is_given_up_and_one_that_answers_pings_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "PING_INTERVAL_S", 0.05)
    monkeypatch.setattr(sessions, "PING_TIMEOUT_S", 0.2)
    monkeypatch.setattr(sessions, "JOIN_TIMEOUT_S", 0.2)
    async with edge() as harness:
        async with page(harness) as socket:
            await socket.receive_str()
            for _ in range(5):
                assert await socket.receive_str() == "2"
                await socket.send_str("3")
            while (message := await socket.receive()).type is aiohttp.WSMsgType.TEXT:
                assert message.data == "2"
            assert message.type is aiohttp.WSMsgType.CLOSE
        async with harness.session.ws_connect(f"{harness.url}{PATH}websocket") as socket:
            await socket.receive_str()
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE


async def test_failed_upgrade_leaves_the_page_polling() -> None:
    async with edge() as harness:
        sid = (await handshake(harness))["sid"]
        async with harness.session.ws_connect(f"{harness.url}{PATH}websocket&sid={sid}") as socket:
            await socket.send_str("hello")
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
        await posted(harness, sid, f"40{AUTH}")
        assert (await polled(harness, sid))[0].startswith("40{")


async def test_full_house_refuses_with_a_status_and_pages_of_foreign_origins_stay_outside() -> None:
    async with edge(max_visitors=1) as harness, page(harness) as socket:
        await socket.receive_str()
        async with page(harness) as other:
            assert "Too many visitors" in await other.receive_str()
            async with harness.session.get(f"{harness.url}{PATH}polling") as reply:
                assert reply.status == 503
    async with running({"spirit_box": SETTINGS, "edge": {"cors_origins": ["https://stage.example"]}}) as harness:
        url = f"{harness.url}{PATH}websocket"
        for origin in ("https://stage.example", harness.url):
            async with harness.session.ws_connect(url, origin=origin) as socket:
                assert (await socket.receive_str())[0] == "0"
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await harness.session.ws_connect(url, origin="https://other.example")
        assert refused.value.status == 400


async def test_recording_over_the_limit_is_refused_and_one_far_over_closes_the_connection() -> None:
    async with edge(max_contact_bytes=2048) as harness:
        async with page(harness) as socket:
            await socket.receive_str()
            await socket.send_str(CONTACT)
            await socket.send_bytes(bytes(2049))
            told = json.loads((await socket.receive_str()).removeprefix("42"))[1]
            assert told["code"] == "body_too_large"
            assert await socket.receive_str() == FIRST
            await socket.receive_bytes()
            await socket.send_str(CONTACT)
            await socket.send_bytes(bytes(200_000))
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
            assert socket.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
        assert harness.quota.asked == []


@pytest.mark.parametrize("transports", [None, ["polling"], ["websocket"]])
async def test_client_library_asks_and_hears_and_is_told_why_not(transports: list[str] | None) -> None:
    async with edge() as harness:
        client: Any = socketio.AsyncClient(reconnection=False)
        heard: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        for name in ("first_response", "failure", "disconnect", "connect_error"):
            client.on(name, lambda *told, name=name: heard.put_nowait((name, told[0] if told else None)))
        with pytest.raises(Refused):
            await client.connect(harness.url, auth={"user": "seance", "password": "month"}, transports=transports)
        assert await heard.get() == ("connect_error", {"message": "The password is wrong."})
        await client.connect(harness.url, auth={"user": "seance", "password": "moth"}, transports=transports)
        assert client.transport() == (transports or ["websocket"])[0]
        await client.emit("seed", {"seed": 7})
        await client.emit("contact", RECORDING)
        await answered(harness)
        async with asyncio.timeout(10):
            name, sound = await heard.get()
            assert (name, is_mp3(sound)) == ("first_response", True)
            await client.emit("contact", "hello")
            assert (await heard.get())[1]["code"] == "invalid_request"
            assert (await heard.get())[0] == "first_response"
            await client.disconnect()
            assert (await heard.get())[0] == "disconnect"
        await harness.all_closed()
        assert harness.figure("callboard_edge_spirit_visitors") == 0


class NoReceiver:
    """Takes nothing."""

    over = 0

    def text(self, packet: str) -> None:
        raise AssertionError(packet)

    def binary(self, data: bytes) -> None:
        raise AssertionError(data)

    def ended(self) -> None:
        self.over += 1


async def test_answer_that_has_not_left_is_taken_back_and_a_page_that_does_not_read_is_let_go() -> None:
    receiver = NoReceiver()
    session = Session("s", receiver)
    session.send("2[]")
    session.send(FIRST[1:], b"old", answer=True)
    session.take_back()
    session.send(FIRST[1:], b"new", answer=True)
    assert (await session.poll()).split("\x1e") == ["42[]", FIRST, f"b{base64.b64encode(b'new').decode()}"]
    for _ in range(MAX_WAITING + 1):
        session.send(MORE[1:], b"", answer=True)
    assert (session.is_over, receiver.over) == (True, 1)
    assert await session.poll() == "1"

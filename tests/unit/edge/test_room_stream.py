"""What a listener of a room gets over HTTP, from the answer's form to the sound."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import aiohttp
import numpy as np
import pytest
from yarl import URL

from callboard_contracts.rooms import RoomKind, room_id
from callboard_edge.media.mp3 import frame_bytes
from tests.support.room_speech import (
    Received,
    listen,
    opened_room,
    sounds,
    spoken,
    tone,
)
from tests.unit.edge.harness import EdgeHarness, running
from tests.unit.edge.test_room_feed import until
from tests.unit.edge_media.clips import decode
from tests.unit.edge_media.test_room_sound import without_titles

pytestmark = pytest.mark.unit

SETTINGS: dict[str, Any] = {"burst_s": 0.24, "pause_s": 0.24}


@asynccontextmanager
async def edge(
    *keys: str, kind: RoomKind = "ait", idle_loop: bytes | None = None, **over: Any
) -> AsyncGenerator[EdgeHarness]:
    """An edge with open rooms."""
    settings = {"room_stream": {**SETTINGS, **over}}
    async with running(settings, idle_loop=idle_loop) as harness:
        for key in keys:
            room = opened_room(kind, key)
            harness.rooms.rooms[room.id] = room
        yield harness


def say(
    harness: EdgeHarness, key: str, number: int, seconds: float, frequency_hz: float, speaker: str = "Frog"
) -> None:
    """Speaks in a room."""
    room = room_id("ait", key)
    for message in spoken(number, seconds, frequency_hz, speaker, segment_s=0.24):
        harness.audio.publish(room, message.utterance, message.content)


async def speaking_after_join(harness: EdgeHarness, listeners: int = 1) -> None:
    """Waits until so many listen."""
    await until(lambda: harness.figure("callboard_edge_room_listeners") >= listeners)


async def heard_while(
    harness: EdgeHarness, path: str, seconds: float, *said: tuple[float, float], **given: str
) -> Received:
    """Listens while utterances of these lengths and tones are spoken one after the other."""
    listening = asyncio.ensure_future(listen(harness.session, harness.url + path, seconds, **given))
    await speaking_after_join(harness)
    for number, (length_s, frequency_hz) in enumerate(said, 1):
        say(harness, "pond", number, length_s, frequency_hz)
    return await listening


async def test_utterances_are_heard_without_a_seam_and_with_the_pause_asked_for() -> None:
    async with edge("pond") as harness:
        got = await heard_while(harness, "/ait/stream/pond", 2.6, (0.96, 400), (0.48, 800))
    samples = np.asarray(decode("mp3", got.data).samples, float)
    first, second = sounds(samples.tolist(), [400, 800])
    assert (first.frequency_hz, second.frequency_hz) == (400, 800)
    assert first.seconds == pytest.approx(0.96, abs=0.05)
    assert second.seconds == pytest.approx(0.48, abs=0.05)
    assert second.begin_s - first.end_s == pytest.approx(0.24, abs=0.05)
    # The tone goes on in its phase over every segment: a seam would show as a jump.
    begin = round((first.begin_s + 0.02) * 24_000)
    steady = samples[begin : begin + round(0.9 * 24_000)]
    period = steady[: len(steady) // 60 * 60].reshape(-1, 60)
    assert np.abs(period - period.mean(axis=0)).max() < 1000


@pytest.mark.parametrize("given", [{}, {"Range": "bytes=0-"}, {"Range": "bytes=0-1"}, {"Icy-MetaData": "0"}])
async def test_answer_is_as_icecast_gives_it(given: dict[str, str]) -> None:
    async with edge("pond") as harness:
        got = await listen(harness.session, f"{harness.url}/ait/stream/pond", 0.3, **given)
    assert got.status == 200
    found = {name.lower(): value for name, value in got.headers.items()}
    assert found["content-type"] == "audio/mpeg"
    assert found["connection"] == "close"
    assert found["x-accel-buffering"] == "no"
    assert (found["icy-name"], found["icy-br"]) == ("pond", "320")
    assert found["access-control-allow-origin"] == "*"
    assert not found.keys() & {"transfer-encoding", "content-length", "icy-metaint", "content-range"}
    frame = frame_bytes(320)
    assert len(got.data) >= 10 * frame
    assert all(got.data[n] == 0xFF for n in range(0, len(got.data) - frame, frame))


async def test_head_gets_the_headers_and_no_sound() -> None:
    async with edge("pond") as harness:
        reader, writer = await asyncio.open_connection("127.0.0.1", harness.port)
        writer.write(b"HEAD /ait/stream/pond HTTP/1.1\r\nHost: x\r\nIcy-MetaData: 1\r\n\r\n")
        raw = await asyncio.wait_for(reader.read(), 20)
        writer.close()
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 OK\r\n")
    assert (b"icy-metaint: 16000" in head, b"Content-Length" in head, body) == (True, False, b"")


async def test_status_line_and_end_suit_the_oldest_players() -> None:
    async with edge("pond") as harness:
        reader, writer = await asyncio.open_connection("127.0.0.1", harness.port)
        writer.write(b"GET /ait/stream/pond HTTP/1.0\r\nIcy-MetaData: 1\r\n\r\n")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        sound = await asyncio.wait_for(reader.readexactly(5000), 20)
        assert head.startswith(b"HTTP/1.0 200 OK\r\n")
        assert sound[0] == 0xFF
        harness.streams.close()
        await asyncio.wait_for(reader.read(), 20)
        writer.close()


async def test_titles_name_the_speaker_for_those_who_ask() -> None:
    async with edge("pond") as harness:
        listening = asyncio.ensure_future(
            listen(harness.session, f"{harness.url}/ait/stream/pond", 1.5, **{"Icy-MetaData": "1"})
        )
        await speaking_after_join(harness)
        say(harness, "pond", 1, 0.48, 400, "O'Hara")
        got = await listening
    assert got.headers["icy-metaint"] == "16000"
    sound, titles = without_titles(got.data)
    assert "StreamTitle='O\u2019Hara';" in titles
    assert [one.frequency_hz for one in sounds(decode("mp3", sound).samples, [400])] == [400]


async def test_bitrate_is_chosen_from_the_list() -> None:
    async with edge("pond") as harness:
        url = f"{harness.url}/ait/stream/pond?bitrate="
        got = await listen(harness.session, url + "32", 0.5)
        assert (got.status, got.headers["icy-br"]) == (200, "32")
        assert got.data[0] == got.data[frame_bytes(32)] == 0xFF
        for wrong in ("33", "0", "abc", "", "-1", "320x"):
            async with harness.session.get(url + wrong) as reply:
                assert (reply.status, "32, 64, 128, 160, 320" in await reply.text()) == (400, True)


async def test_all_listeners_hear_the_same_through_one_encoder() -> None:
    async with edge("pond") as harness:
        url = f"{harness.url}/ait/stream/pond"
        first = asyncio.ensure_future(listen(harness.session, url, 2.0))
        await speaking_after_join(harness)
        say(harness, "pond", 1, 1.44, 400)
        await asyncio.sleep(0.5)
        second = await listen(harness.session, url, 1.0)
        whole = (await first).data
    # The second begins in the middle of the words, with the very frames that the first has got.
    assert second.data[: 20 * frame_bytes(320)] in whole
    assert sounds(decode("mp3", second.data).samples, [400])[0].begin_s < 0.3


async def test_one_who_joins_at_another_bitrate_hears_the_same_moment() -> None:
    async with edge("pond", burst_s=0.48) as harness:
        url = f"{harness.url}/ait/stream/pond"
        first = asyncio.ensure_future(listen(harness.session, url, 1.5))
        await speaking_after_join(harness)
        say(harness, "pond", 1, 2.4, 400)
        await asyncio.sleep(0.8)
        second = await listen(harness.session, f"{url}?bitrate=128", 0.3)
        await first
    assert sounds(decode("mp3", second.data).samples, [400])[0].begin_s < 0.1


async def test_idle_loop_is_heard_until_somebody_speaks() -> None:
    async with edge("pond", idle_loop=tone(0.5, 1200)) as harness:
        listening = asyncio.ensure_future(listen(harness.session, f"{harness.url}/ait/stream/pond", 2.0))
        await speaking_after_join(harness)
        await asyncio.sleep(0.4)
        say(harness, "pond", 1, 0.72, 400)
        got = await listening
    heard = [one for one in sounds(decode("mp3", got.data).samples, [400, 1200]) if one.seconds > 0.1]
    assert [one.frequency_hz for one in heard] == [1200, 400, 1200]


async def test_sound_that_comes_too_late_is_counted_and_heard() -> None:
    async with edge("pond") as harness:
        listening = asyncio.ensure_future(listen(harness.session, f"{harness.url}/ait/stream/pond", 2.0))
        await speaking_after_join(harness)
        said = spoken(1, 0.48, 400, segment_s=0.24)
        for message in said[:2]:
            harness.audio.publish(room_id("ait", "pond"), message.utterance, message.content)
        await until(lambda: harness.figure("callboard_edge_room_underruns_total") == 1)
        # The gap must be long enough to be told from no gap.
        await asyncio.sleep(0.1)
        for message in said[2:]:
            harness.audio.publish(room_id("ait", "pond"), message.utterance, message.content)
        got = await listening
        assert harness.figure("callboard_edge_room_underruns_total") == 1
    assert [round(one.seconds, 1) for one in sounds(decode("mp3", got.data).samples, [400])] == [0.2, 0.2]


async def test_room_that_nobody_hears_costs_nothing() -> None:
    async with edge("pond") as harness:
        await heard_while(harness, "/ait/stream/pond", 0.3)
        await until(lambda: not harness.audio.readers)
        assert harness.figure("callboard_edge_rooms_mixed") == 0
        spent = harness.figure("callboard_edge_room_encoding_seconds_total")
        say(harness, "pond", 1, 0.48, 400)
        await asyncio.sleep(0.2)
        assert harness.figure("callboard_edge_room_encoding_seconds_total") == spent


async def test_listener_who_does_not_read_misses_sound_and_is_disconnected() -> None:
    async with edge("pond", max_waiting_s=0.2, slow_listener_timeout_s=1) as harness:
        stalled = socket.socket()
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(stalled, ("127.0.0.1", harness.port))
        await loop.sock_sendall(stalled, b"GET /ait/stream/pond HTTP/1.1\r\nHost: x\r\n\r\n")
        await speaking_after_join(harness)
        got = await listen(harness.session, f"{harness.url}/ait/stream/pond", 2.0)
        await until(lambda: harness.figure("callboard_edge_room_listeners_dropped_total") == 1)
        stalled.close()
        assert harness.figure("callboard_edge_room_frames_dropped_total") > 20
    # Nobody else misses anything.
    assert len(got.data) / frame_bytes(320) * 0.024 > 1.9


async def test_keys_with_odd_characters() -> None:
    keys = ["a b", "ö\u4e2d", "a/b", "a\r\nX-Evil: 1", "%2e%2e", "x.m3u", "'\"<script>"]
    async with edge(*keys) as harness:
        for key in keys:
            got = await listen(harness.session, f"{harness.url}/ait/stream/{quote(key, safe='')}", 0.05)
            assert got.status == 200, key
            assert "X-Evil" not in got.headers
            async with harness.session.get(f"{harness.url}/ait/stream/{quote(key, safe='')}.m3u") as reply:
                lines = (await reply.text()).splitlines()
                assert (reply.status, len(lines)) == (200, 3), key
                assert lines[2] == f"{harness.url}/ait/stream/{quote(key, safe='')}"


async def test_room_that_is_not_open_is_told_in_words() -> None:
    async with edge("pond", kind="translation") as harness:
        for path in ("stream/pond", "stream/pond.m3u", "rooms/pond", "rooms/pond/events"):
            async with harness.session.get(f"{harness.url}/ait/{path}") as reply:
                assert (reply.status, reply.content_type) == (404, "text/plain")
        assert (await listen(harness.session, f"{harness.url}/translation/stream/pond", 0.1)).status == 200


async def test_playlist_names_the_configured_address() -> None:
    async with edge("pond", "x", "x.m3u", url="http://voices.example:8000/radio/") as harness:
        async with harness.session.get(f"{harness.url}/ait/stream/pond.m3u?bitrate=64") as reply:
            assert reply.content_type == "audio/x-mpegurl"
            assert (await reply.text()).splitlines()[-1] == (
                "http://voices.example:8000/radio/ait/stream/pond?bitrate=64"
            )
        query = "bitrate=64&x=%0Ahttp%3A%2F%2Felsewhere.example%2F"
        async with harness.session.get(URL(f"{harness.url}/ait/stream/pond.m3u?{query}", encoded=True)) as reply:
            assert [line for line in (await reply.text()).splitlines() if not line.startswith("#")] == [
                f"http://voices.example:8000/radio/ait/stream/pond?{query}"
            ]
        # A room of exactly this name comes before the playlist of another.
        got = await listen(harness.session, f"{harness.url}/ait/stream/x.m3u", 0.1)
        assert got.headers["Content-Type"] == "audio/mpeg"


async def test_page_plays_the_room_and_asks_no_other_host() -> None:
    async with edge("pond") as harness, harness.session.get(f"{harness.url}/ait/rooms/pond") as reply:
        page = await reply.text()
        assert (reply.status, reply.content_type) == (200, "text/html")
        assert "default-src 'self'" in reply.headers["Content-Security-Policy"]
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


async def test_events_tell_who_speaks() -> None:
    async with edge("pond") as harness:
        async with harness.session.get(f"{harness.url}/ait/rooms/pond/events") as reply:
            assert reply.content_type == "text/event-stream"
            assert await event(reply) == {"speaker": None}
            say(harness, "pond", 7, 0.48, 400, "Frog <b>")
            assert await event(reply) == {"number": 7, "speaker": "Frog <b>"}
            assert await event(reply) == {"speaker": None}
        await until(lambda: harness.figure("callboard_edge_rooms_mixed") == 0)


async def event(reply: aiohttp.ClientResponse) -> Any:
    """The next event of a stream."""
    async with asyncio.timeout(20):
        while True:
            line = await reply.content.readline()
            if line.startswith(b"data: "):
                return json.loads(line.removeprefix(b"data: "))


async def test_too_many_listeners_and_encoders_are_refused() -> None:
    async with edge("pond", "lake", max_listeners=2, max_encoders=1) as harness:
        url = f"{harness.url}/ait/stream/"
        one = asyncio.ensure_future(listen(harness.session, f"{url}pond", 1.0))
        await speaking_after_join(harness)
        for path in ("stream/lake", "stream/pond?bitrate=32", "rooms/lake/events"):
            async with harness.session.get(f"{harness.url}/ait/{path}") as reply:
                assert (reply.status, reply.headers["Retry-After"]) == (503, "10"), path
        two = asyncio.ensure_future(listen(harness.session, f"{url}pond", 0.5))
        await speaking_after_join(harness, 2)
        async with harness.session.get(f"{url}pond") as reply:
            assert reply.status == 503
        assert [(await got).status for got in (one, two)] == [200, 200]


async def test_shutdown_ends_streams_after_a_whole_frame() -> None:
    async with edge("pond") as harness:
        url = f"{harness.url}/ait/"
        listening = asyncio.ensure_future(listen(harness.session, f"{url}stream/pond", 10))
        async with harness.session.get(f"{url}rooms/pond/events") as watched:
            await event(watched)
            await speaking_after_join(harness)
            await until(lambda: harness.figure("callboard_edge_room_encoding_seconds_total") > 0)
            harness.streams.close()
            got = await asyncio.wait_for(listening, 20)
            assert (await asyncio.wait_for(watched.read(), 20)).strip() == b""
        assert (len(got.data) > 0, len(got.data) % frame_bytes(320)) == (True, 0)
        async with harness.session.get(f"{url}stream/pond") as reply:
            assert reply.status == 503

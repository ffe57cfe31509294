"""Clients that go away, readers that are too slow, and an edge that is told to stop."""

import asyncio
import json

import aiohttp
import pytest

from callboard_contracts.chat import ChatFrame
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_edge.domain import job_stream
from callboard_edge.http import call, text_responder
from tests.unit.edge.harness import EdgeHarness, asking, frames, read_events, said

pytestmark = pytest.mark.unit

CHAT = "/v1/chat/completions"
STOPPED = ErrorInfo(code=ErrorCode.INTERRUPTED, message="Stopping.", retry_after_s=1)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the waiting for a sign of the worker short."""
    monkeypatch.setattr(job_stream, "CANCEL_GRACE_S", 0.1)


async def hang_up(harness: EdgeHarness, *, stream: bool, until: bytes = b"") -> None:
    """Sends a request over a plain connection and closes it once some bytes have come."""
    body = json.dumps(asking(stream=stream)).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.port)
    writer.write(b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body))
    async with asyncio.timeout(20):
        if until:
            await reader.readuntil(until)
        else:
            while not harness.jobs.queued:
                await asyncio.sleep(0.01)
    writer.close()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("stream", [True, False])
async def test_client_that_leaves_while_it_waits_takes_its_job_along(stream: bool, harness: EdgeHarness) -> None:
    await hang_up(harness, stream=stream)
    await harness.all_closed()
    assert len(harness.jobs.cancelled) == 1
    assert harness.jobs.removed == harness.quota.released == harness.jobs.cancelled
    assert harness.figure("callboard_edge_clients_gone_total", route="chat_completions") == 1
    assert harness.figure("callboard_edge_open_streams", route="chat_completions") == 0


async def test_client_that_leaves_in_mid_stream_stops_the_worker(harness: EdgeHarness) -> None:
    harness.plays(frames("one ", "two ", end=None))
    await hang_up(harness, stream=True, until=b"two ")
    await harness.all_closed()
    assert len(harness.jobs.cancelled) == 1
    assert harness.quota.released == []
    assert harness.figure("callboard_edge_clients_gone_total", route="chat_completions") == 1


async def test_stream_whose_frames_say_nothing_is_kept_alive_too(
    harness: EdgeHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_responder, "KEEP_ALIVE_S", 0.1)
    thinking = [ChatFrame(seq=n, attempt=1, thinking="hm ", tokens=1) for n in range(30)]
    end = frames("done")[-1].model_copy(update={"seq": 30})
    harness.plays([*thinking, end], pause_s=0.02)
    _, _, body = await harness.post("/v1/completions", {"model": "owl", "prompt": "Hi", "stream": True})
    assert 2 <= body.count(b": keep-alive") <= 12


async def test_waiting_stream_is_kept_alive_by_comments(harness: EdgeHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_responder, "KEEP_ALIVE_S", 0.05)
    monkeypatch.setattr(text_responder, "FIRST_WAIT_S", 0.05)
    harness.plays(frames("late"), pause_s=0.2)
    status, _, body = await harness.post(CHAT, asking(stream=True))
    assert status == 200
    assert body.startswith(b": keep-alive\n\n: keep-alive\n\n")
    events = read_events(body.replace(b": keep-alive\n\n", b""))
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert said(events) == "late"


async def test_reader_that_reads_nothing_is_let_go(harness: EdgeHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "WRITE_TIMEOUT_S", 0.3)
    harness.plays(frames(*["x" * 200_000] * 60, end=None), pause_s=0.005)
    body = json.dumps(asking(stream=True)).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", harness.port, limit=1024)
    writer.write(b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body))
    async with asyncio.timeout(10):
        while not harness.jobs.cancelled:
            await asyncio.sleep(0.02)
    await harness.all_closed()
    assert harness.figure("callboard_edge_clients_gone_total", route="chat_completions") == 1
    writer.close()


async def test_edge_that_stops_ends_its_streams_in_their_own_form(harness: EdgeHarness) -> None:
    harness.plays(frames("one ", end=None))
    async with harness.session.post(harness.url + CHAT, json=asking(stream=True)) as reply:
        await reply.content.readuntil(b"one ")
        harness.replies.fail_all(STOPPED)
        rest = await reply.content.read()
    *_, last = read_events(b"data: {}" + rest[rest.index(b"\n\n") :])
    assert last["error"]["code"] == "interrupted"
    await harness.all_closed()


async def test_edge_that_stops_answers_what_waits_with_503(harness: EdgeHarness) -> None:
    waiting = asyncio.ensure_future(harness.post(CHAT, asking()))
    async with asyncio.timeout(20):
        while not harness.jobs.queued:
            await asyncio.sleep(0.01)
    harness.replies.fail_all(STOPPED)
    status, headers, body = await waiting
    assert (status, json.loads(body)["error"]["code"]) == (503, "interrupted")
    assert headers["x-should-retry"] == "true"
    await harness.all_closed()


async def test_edge_that_stops_takes_no_connection_and_keeps_none(harness: EdgeHarness) -> None:
    harness.plays(frames("one ", "two"), pause_s=0.2)
    async with harness.session.post(harness.url + CHAT, json=asking(stream=True)) as reply:
        await reply.content.readuntil(b"one ")
        await harness.server.stop_listening()
        async with aiohttp.ClientSession() as other:
            with pytest.raises(aiohttp.ClientConnectorError):
                await other.get(harness.url + "/healthz")
        assert b"[DONE]" in await reply.content.read()
    await harness.all_closed()

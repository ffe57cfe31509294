"""What a client without a key, or with bad intentions, can make the edge do: nothing without a bound."""

import asyncio
import gzip
import json
import re
import resource
import zlib

import aiohttp
import pytest
import zstandard

from callboard_contracts.config import Config
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.attempts import Attempts
from callboard_edge.http import connections, dispatcher
from callboard_edge.http.body_reader import BodyBudget, OpenBody
from callboard_edge.settings import edge_settings
from tests.unit.edge.admin_harness import TOKEN, AdminHarness, Operator
from tests.unit.edge.harness import EdgeHarness, asking, frames, running

pytestmark = pytest.mark.unit

CHAT = "/v1/chat/completions"


async def send(harness: EdgeHarness, body: bytes, **headers: str) -> tuple[int, dict[str, object]]:
    url = harness.url + CHAT
    async with harness.session.post(url, data=body, headers={"Content-Type": "application/json", **headers}) as reply:
        return reply.status, (await reply.json()).get("error", {})


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "zstd", "identity"])
async def test_compressed_body_is_read(encoding: str, harness: EdgeHarness) -> None:
    plain = json.dumps(asking()).encode()
    body = {"zstd": zstandard.compress(plain), "identity": plain}.get(encoding, gzip.compress(plain))
    worker = harness.plays(frames("x"))
    status, _ = await send(harness, body, **{"Content-Encoding": encoding})
    assert status == 200
    assert (await worker).request.messages[0].content == "Hello."


async def test_gzip_of_several_members_is_read(harness: EdgeHarness) -> None:
    plain = json.dumps(asking()).encode()
    worker = harness.plays(frames("x"))
    status, _ = await send(
        harness, gzip.compress(plain[:20]) + gzip.compress(plain[20:]), **{"Content-Encoding": "gzip"}
    )
    assert status == 200
    await worker


@pytest.mark.parametrize("encoding", ["br", "deflate", "compress", "gzip, gzip", "x"])
async def test_other_encodings_are_named_in_a_415(encoding: str, harness: EdgeHarness) -> None:
    status, error = await send(harness, b"x", **{"Content-Encoding": encoding})
    assert (status, error["type"], error["code"]) == (415, "invalid_request_error", "unsupported_media_type")
    assert "gzip or zstd" in str(error["message"])


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_bomb_is_refused_once_it_is_larger_than_a_body_may_be(encoding: str, harness: EdgeHarness) -> None:
    plain = b" " * 200_000_000
    bomb = zstandard.compress(plain) if encoding == "zstd" else zlib.compress(plain, 9, wbits=31)
    assert len(bomb) < 300_000
    bomb = bomb[:99_000] if len(bomb) > 99_000 else bomb
    status, error = await send(harness, bomb, **{"Content-Encoding": encoding})
    assert (status, error["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("body", [b"nonsense", b"", b"cut"])
async def test_broken_compression_is_a_400(encoding: str, body: bytes, harness: EdgeHarness) -> None:
    if body == b"cut":
        whole = json.dumps(asking()).encode()
        body = (zstandard.compress(whole) if encoding == "zstd" else gzip.compress(whole))[:-4]
    status, _ = await send(harness, body, **{"Content-Encoding": encoding})
    assert status == 400
    assert harness.quota.asked == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"messages": [{"role": "user", "content": ""}] * 2049}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 257}]}, "messages[0].content"),
        ({"tools": [{"type": "function", "function": {"name": "a"}}] * 129}, "tools"),
        ({"logit_bias": {str(n): 1 for n in range(1025)}}, "logit_bias"),
    ],
)
async def test_too_many_parts_are_refused_with_their_field(
    body: dict[str, object], words: str, harness: EdgeHarness
) -> None:
    async with running({"edge": {"max_body_bytes": 1_000_000}}) as roomy:
        status, error = await send(roomy, json.dumps(asking(**body)).encode())
    assert (status, error["param"]) == (400, words)


async def test_too_many_objects_and_too_deep_ones_are_refused(harness: EdgeHarness) -> None:
    async with running({"edge": {"max_body_bytes": 1_000_000}}) as roomy:
        for inside in (b"{}," * 9000, b"[]," * 9000, b"1," * 70_000):
            status, error = await send(roomy, b'{"x":[' + inside + b"1]}")
            assert status == 400
            assert str(error["message"]).startswith("The body holds more than 8192 objects and lists")
        text = json.dumps(asking(messages=[{"role": "user", "content": '{"[,' * 70_000}])).encode()
        worker = roomy.plays(frames("x"))
        status, _ = await send(roomy, text)
        assert status == 200
        await worker
    status, error = await send(harness, b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"}")
    assert (status, error["message"]) == (
        400,
        "The body is nested too deeply: its depth is over the limit of 200 objects and lists.",
    )


@pytest.mark.parametrize("tail", [b"", b"\\"])
async def test_quotes_that_never_close_are_read_once(tail: bytes, harness: EdgeHarness) -> None:
    """A body that is looked at again from each of its quotes would take hours."""
    async with running({"edge": {"max_body_bytes": 4_000_000}}) as roomy:
        status, error = await send(roomy, b"{" * 9000 + b'"' + b'\\"' * 500_000 + tail)
    assert status == 400
    assert str(error["message"]).startswith("The body holds more than")


async def test_gzip_of_very_many_members_is_refused(harness: EdgeHarness) -> None:
    status, _ = await send(harness, gzip.compress(b"") * 4000, **{"Content-Encoding": "gzip"})
    assert status == 400
    members = gzip.compress(b"") * 63 + gzip.compress(json.dumps(asking()).encode())
    worker = harness.plays(frames("x"))
    status, _ = await send(harness, members, **{"Content-Encoding": "gzip"})
    assert status == 200
    await worker


@pytest.mark.parametrize(
    ("pattern", "status"), [(r"^\p{Lu}\p{Ll}*$", 200), ("^(?=a)b", 400), ("^(a", 400), ("[b-a]", 400), (r"\p{No}", 200)]
)
async def test_patterns_are_judged_by_the_grammar_and_not_by_python(
    pattern: str, status: int, harness: EdgeHarness
) -> None:
    """Python's compiler of patterns takes minutes for some, and refuses classes that JSON schemas may have."""
    schema = {"type": "object", "properties": {"x": {"type": "string", "pattern": pattern}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    worker = harness.plays(frames("{}"))
    assert (await send(harness, json.dumps(asking(response_format=form)).encode()))[0] == status
    if status == 200:
        await worker
    worker.cancel()


async def test_request_that_no_job_can_carry_is_refused_before_a_hold(harness: EdgeHarness) -> None:
    body = json.dumps(asking(messages=[{"role": "user", "content": "Hello."}] * 500)).encode()
    harness.jobs.max_request_bytes = len(body) // 2
    status, error = await send(harness, body)
    assert (status, error["code"]) == (413, "body_too_large")
    assert harness.quota.asked == []
    harness.jobs.max_request_bytes = len(body)
    worker = harness.plays(frames("x"))
    assert (await send(harness, body))[0] == 200
    await worker


async def test_no_body_is_larger_than_a_job_can_carry() -> None:
    config = Config.model_validate({"edge": {"max_body_bytes": 4_000_000}})
    assert edge_settings(config, 1_000_000).max_body_bytes == 1_000_000
    assert edge_settings(config, 8_000_000).max_body_bytes == 4_000_000


async def test_caller_without_a_key_is_refused_before_the_body_is_read() -> None:
    async with running({"quota": {"require_key": True}}) as harness:
        harness.quota.require_key = True
        reader, writer = await asyncio.open_connection("127.0.0.1", harness.port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n{")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        assert head.startswith(b"HTTP/1.1 401 ")
        writer.close()


async def test_largest_body_gives_way_when_all_hold_too_much() -> None:
    budget = BodyBudget(100)
    small, large = OpenBody(), OpenBody()
    budget.take(large, 60)
    budget.take(small, 30)
    budget.take(small, 20)
    assert (large.gave_way, small.gave_way, budget.held_bytes) == (True, False, 50)
    with pytest.raises(CallboardError) as caught:
        budget.take(small, 51)
    assert caught.value.info.code is ErrorCode.OVERLOADED
    budget.give_back(large)
    budget.give_back(small)
    assert budget.held_bytes == 0


async def test_unfinished_bodies_leave_room_for_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "BodyBudget", lambda _most: BodyBudget(150_000))
    async with running({"edge": {"max_body_bytes": 100_000, "body_timeout_s": 10.0}}) as harness:
        senders = [await asyncio.open_connection("127.0.0.1", harness.port) for _ in range(3)]
        for _, writer in senders:
            head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n" % CHAT.encode()
            writer.write(head + b" " * 70_000)
        answers = [asyncio.ensure_future(reader.read()) for reader, _ in senders]
        done, waiting = await asyncio.wait(answers, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        answer = next(iter(done)).result()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 1\r\n" in answer
        assert len(waiting) == 2
        worker = harness.plays(frames("x"))
        status, _ = await send(harness, json.dumps(asking()).encode())
        assert status == 200
        await worker
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for _, writer in senders:
            writer.close()


async def test_connections_that_wait_for_their_clients_give_way_to_new_ones() -> None:
    async with running({"edge": {"max_connections": 5}}) as harness:
        kept = await asyncio.open_connection("127.0.0.1", harness.port)
        body = json.dumps(asking()).encode()
        head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (CHAT.encode(), len(body))
        kept[1].write(head + body)
        job = await harness.jobs.next_chat()
        unfinished = [await asyncio.open_connection("127.0.0.1", harness.port) for _ in range(12)]
        for number, (_, writer) in enumerate(unfinished):
            writer.write((b"", b"POST ", head + body[:-1])[number % 3])
        async with asyncio.timeout(20):
            for reader, _ in unfinished[:8]:
                assert await reader.read() == b""
        async with harness.session.get(harness.url + "/v1/models") as reply:
            assert reply.status == 200
        for frame in frames("x"):
            harness.replies.send(job.request_id, frame)
        harness.jobs.finish(job.request_id)
        assert (await asyncio.wait_for(kept[0].readline(), 20)).startswith(b"HTTP/1.1 200 ")
        for _, writer in (kept, *unfinished):
            writer.close()


async def test_connections_on_which_nothing_was_asked_give_way_before_those_in_use() -> None:
    async with running({"edge": {"max_connections": 5}}) as harness:
        reader, writer = await asyncio.open_connection("127.0.0.1", harness.port)

        async def status() -> bytes:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            return head.split(b" ")[1]

        assert await status() == b"200"
        idle = [await asyncio.open_connection("127.0.0.1", harness.port) for _ in range(12)]
        async with asyncio.timeout(20):
            for other, _ in idle[:8]:
                assert await other.read() == b""
            assert await status() == b"200"
        for _, other in idle:
            other.close()
        writer.close()


def test_more_connections_than_the_system_allows_are_not_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _kind, limits: asked.append(limits))
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (1024, 2048))
    assert connections.allowed_connections(1000) == 1000
    assert connections.allowed_connections(4096) == 2048 - connections.OTHER_FILES
    assert asked == [(1256, 2048), (2048, 2048)]


async def test_client_that_reads_no_whole_answers_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "WRITE_TIMEOUT_S", 0.3)
    async with running() as harness:
        _, writer = await asyncio.open_connection("127.0.0.1", harness.port, limit=1024)
        with pytest.raises(ConnectionError):  # noqa: PT012 - it is not known at which request the edge gives up
            async with asyncio.timeout(10):
                while True:
                    writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
                    await writer.drain()
                    await asyncio.sleep(0.05)
        writer.close()


@pytest.mark.parametrize(
    "path", ["/admin%2fv1/accounts", "/%61dmin/v1/accounts", "/admin/v1%2Faccounts", "/v1/../admin/v1"]
)
async def test_encoded_path_leads_nowhere(path: str) -> None:
    admin = AdminHarness()
    async with running(admin=admin.administration()) as harness:
        reader, writer = await asyncio.open_connection("127.0.0.1", harness.port)
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        answer = await asyncio.wait_for(reader.read(), 20)
        assert b"Nothing is served at this path." in answer
        writer.close()


async def test_wrong_tokens_block_their_address_ever_longer_and_a_right_one_clears_it() -> None:
    attempts = Attempts()
    waits: list[float] = []
    for _ in range(17):
        attempts.fail("a")
        waits.append(attempts.blocked_s("a"))
    assert waits[:5] == [0] * 5
    assert 0.9 < waits[5] <= 1
    assert 250 < waits[-1] <= 300
    assert attempts.blocked_s("b") == 0
    attempts.clear("a")
    assert attempts.blocked_s("a") == 0


async def test_blocked_address_is_told_when_to_come_back() -> None:
    admin = AdminHarness()
    async with running(admin=admin.administration()) as harness:
        operator = Operator(harness, admin)
        statuses = [(await operator.ask("GET", "/accounts", token="wrong"))[0] for _ in range(8)]
        assert statuses == [401] * 6 + [429] * 2
        status, headers, _ = await operator.ask("GET", "/accounts")
        assert status == 429
        assert int(headers["Retry-After"]) >= 1


@pytest.mark.parametrize("close", ["Connection: close\r\n", ""])
async def test_client_that_has_only_finished_sending_gets_its_answer(close: str, harness: EdgeHarness) -> None:
    reader, writer = await half_closed(harness, close)
    writer.write_eof()
    await asyncio.sleep(0.3)
    worker = harness.plays(frames("Hello ", "there."))
    answer = await asyncio.wait_for(reader.read(), 20)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"Hello there." in answer
    await worker
    writer.close()


@pytest.mark.parametrize("close", ["Connection: close\r\n", ""])
async def test_client_that_is_gone_is_noticed_while_nothing_is_sent(close: str, harness: EdgeHarness) -> None:
    _reader, writer = await half_closed(harness, close)
    job = await harness.jobs.next_chat()
    writer.close()
    async with asyncio.timeout(20):
        while not harness.jobs.cancelled:
            await asyncio.sleep(0.01)
    assert harness.jobs.cancelled == [job.request_id]
    await harness.all_closed()


async def half_closed(harness: EdgeHarness, close: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    body = json.dumps(asking()).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.port)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n{close}Content-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    return reader, writer


async def test_stream_that_waits_begins_at_once_with_a_comment(harness: EdgeHarness) -> None:
    timeout = aiohttp.ClientTimeout(10)
    async with harness.session.post(harness.url + CHAT, json=asking(stream=True), timeout=timeout) as reply:
        assert reply.status == 200
        assert await reply.content.readuntil(b"\n\n") == b": keep-alive\n\n"
        worker = harness.plays(frames("x"))
        assert b'"content":"x"' in await reply.content.read()
        await worker
    assert harness.figure("callboard_edge_time_to_first_byte_seconds_count", route="chat_completions") == 1

"""The HTTP of engines against a server that sends exactly what a test says."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvloop

from callboard_chat.backends import engine_http
from callboard_chat.backends.engine_http import EngineConnection, EngineHttp

pytestmark = pytest.mark.backend

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
STAYS = b"..."
"""An answer that ends with it is not followed by the end of its connection."""
LIMIT = 1_000_000


class Server:
    """Answers the requests of each connection in turn; what follows the last of them is its end."""

    def __init__(self, *connections: Sequence[bytes]) -> None:
        self._connections = list(connections)
        self.requests: list[bytes] = []
        self.left = asyncio.Event()
        self.accepted = 0
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self.accepted += 1
        answers = self._connections.pop(0) if self._connections else ()
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            for answer in answers:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                writer.write(answer)
                await writer.drain()
            if answers and answers[-1].endswith(STAYS):
                await reader.read()
        self.left.set()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def ended(self) -> None:
        """Returns when all connections have ended."""
        await asyncio.wait_for(asyncio.gather(*self._serving), 5)


@asynccontextmanager
async def connected(server: Server, *, keep: bool = True) -> AsyncGenerator[EngineHttp]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    http = EngineHttp(f"http://127.0.0.1:{port}/base/", {"X-Key": "secret"}, 2, keep=keep)
    try:
        yield http
    finally:
        http.close()
        listening.close()
        await server.ended()


async def whole(http: EngineHttp, body: bytes = b"{}") -> tuple[int, bytes]:
    connection = await http.request("POST", "/path", body)
    try:
        return connection.status, await connection.read_all(LIMIT)
    finally:
        connection.close()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Runs a coroutine on each kind of event loop, which has nothing to complain of."""

    def runs(coroutine: Any) -> Any:
        complaints: list[object] = []
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.get_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
            runner.run(asyncio.wait_for(coroutine, 10))
        assert complaints == []

    return runs


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (OK + b"Content-Length: 5\r\n\r\nhello", b"hello"),
        (CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", b"hello"),
        (OK + b"\r\nhello", b"hello"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.0 200 OK\r\n\r\nhello", b"hello"),
    ],
    ids=["length", "chunks", "to the end", "after a 100", "HTTP/1.0"],
)
def test_every_form_of_a_body_is_read(run: Callable[[Any], Any], answer: bytes, body: bytes) -> None:
    async def asks() -> None:
        server = Server([answer])
        async with connected(server) as http:
            assert await whole(http) == (200, body)
        (request,) = server.requests
        assert request.startswith(b"POST /base/path HTTP/1.1\r\nHost: 127.0.0.1:")
        assert b"\r\nX-Key: secret\r\nContent-Length: 2\r\n\r\n{}" in request

    run(asks())


def test_a_connection_is_used_again_and_one_that_was_closed_is_no_failure(run: Callable[[Any], Any]) -> None:
    async def asks() -> None:
        answer = OK + b"Content-Length: 1\r\n\r\na"
        server = Server([answer, answer], [answer])
        async with connected(server) as http:
            for _ in range(3):
                assert await whole(http) == (200, b"a")
        assert server.accepted == 2

    run(asks())


@pytest.mark.parametrize("said", [b"Connection: close\r\nContent-Length: 1\r\n\r\na", b"Content-Length: 1\r\n\r\nab"])
def test_a_connection_that_cannot_be_trusted_is_not_used_again(run: Callable[[Any], Any], said: bytes) -> None:
    async def asks() -> None:
        server = Server([OK + said, b""], [OK + b"Content-Length: 1\r\n\r\nc"])
        async with connected(server) as http:
            assert await whole(http) == (200, b"a")
            assert await whole(http) == (200, b"c")

    run(asks())


async def test_an_engine_may_be_asked_on_a_new_connection_each_time() -> None:
    answer = OK + b"Content-Length: 1\r\n\r\na"
    server = Server([answer], [answer])
    async with connected(server, keep=False) as http:
        assert [await whole(http) for _ in range(2)] == [(200, b"a")] * 2
    assert all(b"\r\nConnection: close\r\n" in request for request in server.requests)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        OK + b"A: b\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nabc",
        OK + b"X: " + b"x" * 70_000 + b"\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["nothing", "not HTTP", "half a head", "another protocol", "endless headers"],
)
def test_what_is_no_answer_is_a_lost_connection(run: Callable[[Any], Any], answer: bytes) -> None:
    async def asks() -> None:
        async with connected(Server([answer])) as http:
            with pytest.raises(ConnectionResetError):
                await http.request("POST", "/", b"")

    run(asks())


@pytest.mark.parametrize(
    "answer", [OK + b"Content-Length: 9\r\n\r\nhello", CHUNKED + b"5\r\nhello\r\n", CHUNKED + b"5\r\nhello\r\nzz\r\n"]
)
def test_a_body_that_breaks_off_is_a_lost_connection(run: Callable[[Any], Any], answer: bytes) -> None:
    async def asks() -> None:
        async with connected(Server([answer])) as http:
            connection = await http.request("POST", "/", b"")
            with pytest.raises(ConnectionResetError):
                await connection.read_all(LIMIT)

    run(asks())


@pytest.mark.parametrize("leave", [EngineConnection.close, None], ids=["closed", "cancelled"])
def test_leaving_an_unfinished_answer_ends_its_connection(run: Callable[[Any], Any], leave: Any) -> None:
    async def asks() -> None:
        server = Server([(CHUNKED + b"3\r\n" if leave else OK + b"A: ") + STAYS])
        async with connected(server) as http:
            if leave:
                leave(await http.request("POST", "/", b""))
            else:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(http.request("POST", "/", b""), 0.1)
            await asyncio.wait_for(server.left.wait(), 5)

    run(asks())


def test_a_body_without_a_length_is_not_whole_when_this_side_ends_it(run: Callable[[Any], Any]) -> None:
    async def asks() -> None:
        async with connected(Server([OK + b"\r\nhello" + STAYS])) as http:
            connection = await http.request("POST", "/", b"")
            assert await connection.read() == b"hello" + STAYS
            http.close()
            await asyncio.sleep(0)
            with pytest.raises(ConnectionResetError):
                await connection.read()

    run(asks())


def test_an_engine_waits_while_nobody_reads_and_what_is_read_together_fits_a_frame(run: Callable[[Any], Any]) -> None:
    async def asks() -> None:
        long = b"x" * 20_000_000
        async with connected(Server([OK + b"Content-Length: %d\r\n\r\n" % len(long) + long])) as http:
            connection = await http.request("POST", "/", b"")
            read = 0
            while data := await connection.read():
                assert len(data) <= 512 * 1024
                read += len(data)
                await asyncio.sleep(0.002)
            assert read == len(long)
            connection.close()

    run(asks())


async def test_kept_connections_are_bounded_in_number_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_http, "MAX_KEPT", 2)
    answer = OK + b"Content-Length: 1\r\n\r\na"
    server = Server(*[[answer, answer]] * 6)
    async with connected(server) as http:
        connections = [await http.request("POST", "/", b"") for _ in range(3)]
        for connection in connections:
            await connection.read_all(LIMIT)
            connection.close()
        assert [connection.is_open for connection in connections] == [False, True, True]
        monkeypatch.setattr(engine_http, "KEPT_S", 0.0)
        await asyncio.sleep(0.01)
        assert await whole(http) == (200, b"a")
        assert not any(connection.is_open for connection in connections)


async def test_a_server_that_is_not_there_cannot_be_asked(unused_tcp_port: int) -> None:
    with pytest.raises(OSError, match="Connect"):
        await EngineHttp(f"http://127.0.0.1:{unused_tcp_port}", {}, 1).request("POST", "/", b"")


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("ftp://host", "a"),
        ("http://", "a"),
        ("http://host", "a\r\nX: b"),
        ("http://host", "schlüssel"),
        ("http://h/ü", "a"),
    ],
)
def test_an_address_or_a_key_that_cannot_be_sent_is_refused(url: str, key: str) -> None:
    with pytest.raises(ValueError, match="an engine's address"):
        EngineHttp(url, {"Authorization": key}, 1)

"""The connection against a scripted server, which cuts what it sends at any place."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import nats.errors
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg

from callboard_kit.connection import Connection
from callboard_kit.transport import Transport
from callboard_kit.wire import parse_headers as parse

pytestmark = pytest.mark.unit

INFO = b'INFO {"server_id":"S","version":"2.15.1","headers":true,"max_payload":1048576}\r\n'
PLAIN, QUEUED, UNKNOWN = 1, 2, 9


class ScriptedServer:
    """Greets one client, then sends what it is told."""

    def __init__(self) -> None:
        self.port = 0
        self.commands: list[bytes] = []
        """The first word of each line that it was sent."""
        self._writer: asyncio.StreamWriter | None = None

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            if self._writer is not None:
                self._writer.close()
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        writer.write(INFO)
        while line := await reader.readline():
            self.commands += line.split()[:1]
            if line == b"PING\r\n":
                writer.write(b"PONG\r\n")

    async def send(self, parts: list[bytes]) -> None:
        assert self._writer is not None
        for part in parts:
            self._writer.write(part)
            await self._writer.drain()
            # Long enough that the parts are read one by one.
            await asyncio.sleep(0.001)


def message(sid: int, number: int, rng: random.Random) -> bytes:
    payload = b"%d:" % number + bytes(rng.choice(b"\r\nMSG ") for _ in range(rng.randrange(40)))
    reply = rng.choice([b"", b"answer.here "])
    if rng.random() < 0.5:
        return b"MSG test.%d %d %s%d\r\n%s\r\n" % (sid, sid, reply, len(payload), payload)
    block = b"NATS/1.0\r\nNumber: %d\r\n\r\n" % number
    sizes = len(block), len(block) + len(payload)
    return b"HMSG test.%d %d %s%d %d\r\n%s%s\r\n" % (sid, sid, reply, *sizes, block, payload)


def cut(data: bytes, rng: random.Random) -> list[bytes]:
    parts: list[bytes] = []
    while data:
        n = rng.choice([1, 2, 5, 20, 70, 300])
        parts.append(data[:n])
        data = data[n:]
    return parts


@dataclass
class Line:
    """A connection to a scripted server, and what came for the subscription of a function and that of a callback."""

    server: ScriptedServer
    connection: Connection
    plain: list[Msg]
    queued: list[Msg]


@asynccontextmanager
async def connected() -> AsyncGenerator[Line]:
    server, connection = ScriptedServer(), Connection()
    async with server.running():
        await connection.connect(f"nats://127.0.0.1:{server.port}", allow_reconnect=False)
        line = Line(server, connection, [], [])

        async def enqueue(found: Msg) -> None:
            line.queued.append(found)

        await connection.subscribe_now("test.1", line.plain.append)
        await connection.subscribe("test.2", cb=enqueue)
        yield line
        await connection.close()


@pytest.mark.parametrize("seed", range(6))
async def test_messages_arrive_whole_and_in_order_however_the_stream_is_cut(seed: int) -> None:
    rng = random.Random(seed)
    async with connected() as line:
        sids = [rng.choice([PLAIN, PLAIN, PLAIN, QUEUED, UNKNOWN]) for _ in range(300)]
        stream = b""
        for number, sid in enumerate(sids):
            stream += message(sid, number, rng)
            stream += rng.choice([b"", b"", b"", b"PING\r\n", b"+OK\r\n"])
        await line.server.send(cut(stream, rng))
        wanted = {sid: [number for number, one in enumerate(sids) if one == sid] for sid in (PLAIN, QUEUED)}
        async with asyncio.timeout(10):
            while len(line.plain) < len(wanted[PLAIN]) or len(line.queued) < len(wanted[QUEUED]):
                await asyncio.sleep(0.01)
        for found, sid in ((line.plain, PLAIN), (line.queued, QUEUED)):
            assert [int(one.data.partition(b":")[0]) for one in found] == wanted[sid]
            assert {one.subject for one in found} == {f"test.{sid}"}
            assert {one.reply for one in found} <= {"", "answer.here"}
            assert all(one.headers in (None, {"Number": one.data.partition(b":")[0].decode()}) for one in found)
        assert line.connection.stats["in_msgs"] == len(sids)


async def test_what_is_sent_in_one_turn_of_the_loop_is_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    writelines = Transport.writelines

    def count(transport: Transport, parts: list[bytes]) -> None:
        written.append(len(parts))
        writelines(transport, parts)

    async with connected() as line:
        assert await line.connection.rtt(5) > 0
        monkeypatch.setattr(Transport, "writelines", count)
        asking = [asyncio.ensure_future(line.connection.ask("test.ask", b"", 0.1)) for _ in range(3)]
        for subject in ("a", "b"):
            line.connection.send(subject, b"")
        await asyncio.gather(*asking, return_exceptions=True)
        # The subscription for the answers goes out before the first request.
        assert sum(written) == 1 + 3 + 2
        assert written[-1] >= 3
        line.connection.send("a", b"")
        await line.connection.publish("b", b"")
        assert written[-1] >= 3
        line.connection.write()
        assert written[-1] == 2


async def test_the_first_of_a_turn_that_is_in_a_hurry_goes_out_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    async with connected() as line:
        await line.connection.flush()
        monkeypatch.setattr(Transport, "writelines", lambda _transport, parts: written.append(len(parts)))
        for turn in range(2):
            written.clear()
            line.connection.send("a")
            line.connection.write_at_once()
            assert written == [1], turn
            for _ in range(3):
                line.connection.send("b")
                line.connection.write_at_once()
            assert written == [1], turn
            await asyncio.sleep(0)
            assert written == [1, 3], turn


async def test_of_several_messages_all_are_sent_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    async with connected() as line:
        line.connection.write()
        monkeypatch.setattr(Transport, "writelines", lambda _transport, parts: written.extend(parts))
        largest = b"x" * 1048576
        line.connection.send_all([("a", largest, "", None), ("b", largest, "answer.here", None)])
        with pytest.raises(nats.errors.MaxPayloadError):
            line.connection.send_all([("c", b"", "", None), ("d", largest, "", {"Note": "one byte too many"})])
        with pytest.raises(nats.errors.BadSubjectError):
            line.connection.send_all([("c", b"", "", None), ("no subject", b"", "", None)])
        line.connection.write()
        monkeypatch.undo()
        assert [command.partition(b" ")[2][:1] for command in written] == [b"a", b"b"]


async def test_payload_that_looks_like_a_message_is_none_wherever_the_stream_is_cut() -> None:
    forged = b"MSG evil 1 3\r\nbad\r\n"
    async with connected() as line:
        whole = b"MSG test.2 2 %d\r\n%s\r\n" % (len(forged), forged)
        for at in range(1, len(whole)):
            await line.server.send([whole[:at], whole[at:]])
        await line.server.send([b"MSG test.1 1 2\r\nok\r\n"])
        async with asyncio.timeout(10):
            while not line.plain or len(line.queued) < len(whole) - 1:
                await asyncio.sleep(0.01)
        assert [one.data for one in line.plain] == [b"ok"]
        assert {one.data for one in line.queued} == {forged}


async def test_headers_that_are_no_text_end_nothing() -> None:
    block = b"NATS/1.0\r\nNote: \xff\xfe\r\n\r\n"
    async with connected() as line:
        await line.server.send([b"HMSG test.1 1 %d %d\r\n%sok\r\n" % (len(block), len(block) + 2, block)])
        await line.server.send([b"MSG test.1 1 3\r\nyes\r\n"])
        async with asyncio.timeout(20):
            while len(line.plain) < 2:
                await asyncio.sleep(0.01)
        assert [one.data for one in line.plain] == [b"ok", b"yes"]


async def test_a_stream_that_is_no_protocol_ends_the_connection() -> None:
    async with connected() as line:
        await line.server.send([b"MSG test.1 1 2\r\nok\r\nMSG test.1 one two\r\nno\r\n"])
        async with asyncio.timeout(20):
            while not line.connection.is_closed:
                await asyncio.sleep(0.01)
        assert [one.data for one in line.plain] == [b"ok"]


NAMES = st.text("abcABC-", min_size=1, max_size=8)
VALUES = st.text("abc 123:;.", max_size=12).map(str.strip)


STATUSES = ["", " 404", " 503", " 404 No Messages", " 100 Idle Heartbeat", " 409 Message Size Exceeds MaxBytes"]


@given(
    st.sampled_from(STATUSES),
    st.dictionaries(NAMES, VALUES, max_size=4),
)
async def test_headers_are_read_as_the_client_itself_reads_them(status: str, headers: dict[str, str]) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    block = f"NATS/1.0{status}\r\n{lines}\r\n".encode()
    own = await Client()._process_headers(block)  # pyright: ignore[reportPrivateUsage] - what ours stands in for
    wanted = dict(own or {})
    if len(status.split()) == 1:
        # The client takes the first header for the description of a status that has none.
        wanted.pop("Description", None)
    assert (parse(block) or {}) == wanted


async def test_flush_tells_that_all_before_it_has_arrived() -> None:
    async with connected() as line:
        await line.connection.flush()
        line.server.commands.clear()
        await line.connection.subscribe("test.3")
        line.connection.send("test.4", b"x")
        await line.connection.flush()
        assert [word for word in line.server.commands if word.isupper()] == [b"SUB", b"PUB", b"PING"]

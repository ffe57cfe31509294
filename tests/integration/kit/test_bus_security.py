"""Who is let in: passwords, NKeys and TLS against a real server, and what a client that is not says."""

import asyncio
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from callboard_cli.nats.server_config import ServerOptions, configuration
from callboard_cli.nats.users import write_users
from callboard_contracts.config import Config, NatsSection
from callboard_contracts.permissions import USERS
from callboard_kit.bus import Bus, BusUnavailable
from callboard_kit.provisioning import apply_streams
from tests.support.certificates import Authority
from tests.support.children import Child
from tests.support.nats_server import NatsServer
from tests.support.processes import toml_text

pytestmark = pytest.mark.integration

SOON_S = 10.0
"""Far less than a client tries where nobody answers."""
SERVICES = {
    "edge": ("callboard_edge",),
    "quota": ("callboard_quota",),
    "rooms": ("callboard_rooms",),
    "chat": ("callboard_chat", "--pool", "main"),
    "tts": ("callboard_tts", "--pool", "booth"),
    "stt": ("callboard_stt", "--pool", "ear"),
}
COMMANDS = (("streams", "apply"), ("keys", "list"))
POOLS = {
    "chat": {"pools": {"main": {"backend": "fake"}}},
    "tts": {"pools": {"booth": {"backend": "fake"}}},
    "stt": {"pools": {"ear": {"backend": "fake"}}},
    "quota": {"metrics_port": 0},
    "rooms": {"metrics_port": 0},
    "edge": {"metrics_port": 0, "port": 0},
}

Start = Callable[..., NatsServer]


@pytest.fixture
def start(tmp_path: Path) -> Generator[Start]:
    """Starts servers with further settings."""
    servers: list[NatsServer] = []

    def started(settings: str, login: str = "") -> NatsServer:
        server = NatsServer(tmp_path / f"nats-{len(servers)}", settings=settings, login=login)
        servers.append(server)
        server.start()
        return server

    yield started
    for server in servers:
        server.kill()


async def connect(server: NatsServer, **settings: Any) -> Bus:
    section = NatsSection.model_validate({"url": server.address, **settings})
    return await Bus.connect(section, "test", lambda: None)


async def works(server: NatsServer, **settings: Any) -> None:
    """Connects, declares the streams and has one message stored."""
    bus = await connect(server, **settings)
    try:
        await apply_streams(bus, Config())
        assert (await bus.publish_stored("usage.someone", b"{}", None)).stream == "USAGE"
        await bus.clock.measure()
    finally:
        await bus.close()


async def refused(server: NatsServer, words: str, **settings: Any) -> None:
    """Connecting ends at once, and in words."""
    began = time.monotonic()
    with pytest.raises(BusUnavailable, match=words):
        await connect(server, **settings)
    assert time.monotonic() - began < SOON_S


async def test_password_or_nkey_opens_the_bus_and_another_is_refused_at_once(tmp_path: Path, start: Start) -> None:
    for nkeys, setting, named in (
        (False, "password", "the user edge or"),
        (True, "nkey_seed", "NKey of the user edge"),
    ):
        folder = tmp_path / setting
        *secrets, users = write_users(folder, nkeys=nkeys, admin_api=False)
        again = write_users(folder, nkeys=nkeys, admin_api=False)
        assert again == [*secrets, users]
        assert all(path.stat().st_mode & 0o077 == 0 for path in again)
        server = await asyncio.to_thread(start, f'include "../{setting}/server/{users.name}"')
        found = {user: path.read_text() for user, path in zip(USERS, secrets, strict=True)}
        assert len(set(found.values())) == len(USERS)
        await works(server, user="operator", **{setting: found["operator"]})
        await (await connect(server, user="chat", **{setting: found["chat"]})).close()
        other = write_users(tmp_path / f"other-{setting}", nkeys=nkeys, admin_api=False)[0].read_text()
        await refused(server, f"authorization refused: .*{named}", user="edge", **{setting: other})
        await refused(server, "authorization refused: .* a client without credentials")


async def test_tls_is_spoken_and_never_left_out(tmp_path: Path, start: Start) -> None:
    authority = Authority()
    ours = authority.issue(tmp_path / "tls", "nats")
    server = await asyncio.to_thread(start, _tls_of(ours, "server"))
    ca_file = str(ours / "ca.crt")
    await works(server, tls_ca_file=ca_file)
    foreign = Authority("others").issue(tmp_path / "others", "nats")
    await refused(server, "no trusted bus at .*certificate", tls_ca_file=str(foreign / "ca.crt"))
    await refused(server, "nats.tls_ca_file: No such file", tls_ca_file=str(tmp_path / "absent"))
    # A server that does not offer TLS, as one in the middle would, gets no credentials.
    plain = await asyncio.to_thread(start, "authorization { user: a, password: b }")
    await refused(plain, "does not speak TLS", tls_ca_file=ca_file, user="a", password="b")
    await refused(plain, "does not speak TLS", url=plain.address.replace("nats:", "tls:"), user="a", password="b")
    assert "tls error" not in plain.child.output().lower() if plain.child else False


async def test_mutual_tls_asks_for_a_certificate(tmp_path: Path, start: Start) -> None:
    authority = Authority()
    ours, client = authority.issue(tmp_path / "tls", "nats"), authority.issue(tmp_path / "client", "edge")
    server = await asyncio.to_thread(start, _tls_of(ours, "mutual"))
    ca_file, own = str(ours / "ca.crt"), {"tls_cert_file": client / "tls.crt", "tls_key_file": client / "tls.key"}
    await works(server, tls_ca_file=ca_file, **own)
    await refused(server, "no trusted bus at .*(certificate|TLS|SSL)", tls_ca_file=ca_file)


async def test_refusal_later_on_is_logged_and_tried_again(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    server = await asyncio.to_thread(start, "authorization { user: a, password: first }")
    bus = await connect(server, user="a", password="first")
    back = asyncio.Event()
    bus.on_reconnect(back.set)
    for password in ("second", "first"):
        await asyncio.to_thread(server.kill)
        server.settings = f"authorization {{ user: a, password: {password} }}"
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(20):
            while password == "second" and not any(one.message == "bus_refused" for one in caplog.records):
                await asyncio.sleep(0.02)
    async with asyncio.timeout(20):
        await back.wait()
    await bus.close()


def test_refusal_is_told_even_if_the_connection_is_reset_behind_it() -> None:
    """A reset can reach the client before it has read why."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = b'INFO {"server_id":"S","version":"2.15.1","headers":true,"max_payload":1048576,"auth_required":true}'
        writer.write(info + b"\r\n")
        await reader.readline()
        writer.write(b"-ERR 'Authorization Violation'\r\n")
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await writer.drain()
        writer.transport.abort()

    async def run() -> None:
        server = await asyncio.start_server(refuse, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        section = NatsSection.model_validate({"url": f"nats://127.0.0.1:{port}", "user": "edge", "password": "x"})
        async with server:
            for _ in range(20):
                with pytest.raises(BusUnavailable, match="authorization refused"):
                    await Bus.connect(section, "test", lambda: None)

    uvloop.run(run())


def test_wish_for_a_certificate_is_told_even_if_the_connection_is_reset_before_it_is_read(tmp_path: Path) -> None:
    tls = Authority().issue(tmp_path, "nats")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tls / "tls.crt", tls / "tls.key")

    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b'INFO {"server_id":"S","version":"2.15.1","headers":true,"max_payload":1048576,"tls_required":true}'
        )
        writer.write(b"\r\n")
        await writer.drain()
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await writer.start_tls(context)
        writer.transport.abort()

    async def run() -> None:
        server = await asyncio.start_server(reset, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        section = NatsSection.model_validate({"url": f"nats://127.0.0.1:{port}", "tls_ca_file": str(tls / "ca.crt")})
        async with server:
            began = time.monotonic()
            with pytest.raises(BusUnavailable, match=r"no trusted bus at .* may ask for a certificate"):
                await Bus.connect(section, "test", lambda: None)
            assert time.monotonic() - began < SOON_S

    asyncio.run(run())


@pytest.mark.timeout(120)
async def test_every_service_and_command_ends_with_the_reason_for_a_refusal(tmp_path: Path, start: Start) -> None:
    server = await asyncio.to_thread(start, "authorization { user: callboard, password: right }")
    config = tmp_path / "callboard.toml"
    nats = {"url": server.address, "password": "wrong"}
    config.write_text(toml_text({**POOLS, "nats": nats, "site": {"data_dir": str(tmp_path / "var")}}))
    modules = {**SERVICES, **{" ".join(words): ("callboard_cli", *words) for words in COMMANDS}}
    children = {
        name: Child([sys.executable, "-m", module, "--config", str(config), *arguments], tmp_path / f"{name}.log")
        for name, (module, *arguments) in modules.items()
    }
    for name, child in children.items():
        code = await asyncio.to_thread(child.wait, 60)
        lines = child.output().splitlines()
        assert code == 1, (name, lines)
        assert any("authorization refused: the bus at nats://127.0.0.1" in line for line in lines), (name, lines)
        assert "wrong" not in child.output()


def test_configuration_for_a_cluster_has_certificates_between_its_servers() -> None:
    options = ServerOptions(
        name="n0",
        listen="0.0.0.0:4222",
        monitor="0.0.0.0:8222",
        store="/data",
        tls="server",
        tls_folder="/tls",
        routes=["nats://n1:6222"],
    )
    text = configuration(options)
    assert text.count("verify: false") == 1
    assert text[text.index("cluster {") :].count("verify: true") == 1


def _tls_of(folder: Path, tls: Any) -> str:
    options = ServerOptions(name="x", listen="", monitor="", store="", tls=tls, tls_folder=str(folder))
    text = configuration(options)
    return text[text.index("tls {") :]

"""The configuration that `callboard nats` writes, with the oldest and the newest nats-server that Callboard claims."""

import asyncio
import io
import re
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from callboard_cli.__main__ import main
from callboard_cli.up.bus_server import write_configuration
from callboard_contracts.config import Config, NatsSection
from callboard_contracts.permissions import USERS
from callboard_kit.bus import Bus
from callboard_kit.provisioning import apply_streams
from tests.support.certificates import Authority
from tests.support.nats_server import NatsServer
from tests.support.nats_versions import NEWEST, OLDEST, binary_of

pytestmark = pytest.mark.deploy

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy" / "compose"
TIMEOUT_S = 60.0


@pytest.fixture(scope="module", params=[OLDEST, NEWEST])
def binary(request: pytest.FixtureRequest) -> str:
    return binary_of(str(request.param))


def callboard(*words: str) -> str:
    with redirect_stdout(io.StringIO()) as printed:
        assert main(words) == 0
    return printed.getvalue()


def takes(binary: str, file: Path, environ: Mapping[str, str] | None = None) -> None:
    """The server reads a configuration file, and everything that it includes, without an error."""
    tried = subprocess.run(
        [binary, "-t", "-c", str(file)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env=None if environ is None else dict(environ),
    )
    assert tried.returncode == 0, tried.stderr


def test_the_file_of_compose_is_the_command_s(binary: str, tmp_path: Path) -> None:
    assert (COMPOSE / "nats.conf").read_text() == callboard("nats", "config", "--for", "compose")
    callboard("nats", "users", "--folder", str(tmp_path / "made"))
    shutil.copytree(tmp_path / "made" / "server", tmp_path / "secret")
    takes(binary, Path(shutil.copy(COMPOSE / "nats.conf", tmp_path)))


@pytest.mark.parametrize("secret", ["password", "nkey"])
def test_a_cluster_in_kubernetes_finds_its_secrets_in_the_environment(secret: str, binary: str, tmp_path: Path) -> None:
    made = callboard("nats", "users", "--folder", str(tmp_path / "made"), *(["--nkeys"] if secret == "nkey" else []))
    values = re.findall(rf'^ +{secret}: "(.+)"$', Path(made.splitlines()[-1]).read_text(), re.MULTILINE)
    named = zip(USERS, values, strict=True)
    environ = {f"NATS_{secret}_{user}".upper(): value for user, value in named}
    text = callboard("nats", "config", "--for", "kubernetes", "--nodes", "3", "--tls", "mutual")
    Authority().issue(tmp_path / "tls", "nats")
    file = tmp_path / "nats.conf"
    file.write_text(text.replace("/etc/nats/tls", str(tmp_path / "tls")))
    users = tmp_path / "users" / "users.conf"
    users.parent.mkdir()
    users.write_text(callboard("nats", "users", *(["--nkeys"] if secret == "nkey" else [])))
    takes(binary, file, {**environ, "POD_NAME": "nats-0"})


def test_the_file_of_up_is_taken(binary: str, tmp_path: Path) -> None:
    nats = NatsSection.model_validate({"password": 'with "quotes" and \\'})
    file = write_configuration(nats, "127.0.0.1", 4222, tmp_path / "nats")
    takes(binary, file)
    assert "sync_interval: always" in file.read_text()
    synced = nats.model_copy(update={"store_dir": tmp_path / "nats" / "store"})
    takes(binary, write_configuration(synced, "127.0.0.1", 4222, tmp_path / "nats"))
    assert 'sync_interval: "1s"' in file.read_text(), "its clients sync what they rely on"


def test_indexes_of_streams_that_were_empty_are_made_anew(tmp_path: Path) -> None:
    indexes = [tmp_path / "store" / "jetstream" / "$G" / "streams" / name / "msgs" / "index.db" for name in "AB"]
    for index, size in zip(indexes, (36, 200), strict=True):
        index.parent.mkdir(parents=True)
        index.write_bytes(b"x" * size)
    write_configuration(NatsSection(), "127.0.0.1", 4222, tmp_path)
    assert [index.exists() for index in indexes] == [False, True]


async def test_the_server_keeps_the_streams(binary: str, tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats", binary=binary)
    await asyncio.to_thread(server.start)
    try:
        bus = await Bus.connect(NatsSection(url=server.url), "test", lambda: None)
        assert "QUOTA" in await apply_streams(bus, Config())
        assert await apply_streams(bus, Config()) == []
        counted = [
            await bus.publish_stored("q.used.t.units.h1", b"", f"id-{n}", headers={"Nats-Incr": "+2"}) for n in range(2)
        ]
        assert [one.value for one in counted] == [2, 4]
        await bus.close()
    finally:
        await asyncio.to_thread(server.kill)


def test_the_admin_api_is_the_edge_s_only_when_it_is_asked_for() -> None:
    assert '"quota.kudos.earn"' not in callboard("nats", "users")
    assert callboard("nats", "users", "--admin-api").count('"quota.kudos.earn"') == 1


def test_the_image_of_compose_is_the_newest_server() -> None:
    version = subprocess.run([binary_of(NEWEST), "-v"], capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    [newest] = re.findall(r"v(\d+\.\d+)", version.stdout)
    assert f"docker.io/library/nats:{newest}" in (COMPOSE / "compose.yaml").read_text()

"""Every image for a machine without a GPU: built, looked into, measured, and a whole Callboard run out of them."""

import asyncio
import json
import os
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import openai
import pytest

from callboard_contracts.config import SiteSection
from callboard_kit.model_files import model_folder
from tests.images.image_deployment import MODELS, ContainerService, ImageDeployment
from tests.support.audio import decoded, duration_s, rms
from tests.support.children import Child, wait_until
from tests.support.images import (
    STORE,
    USER,
    ContainerCommand,
    build_arguments,
    ensure_image,
    image_config,
    missing,
    size_mb,
    start_container,
)
from tests.support.models import CHAT_MODEL, SPEECH_MODEL, VOICE, built_in_config, missing_model_files
from tests.support.ports import free_port
from tests.support.processes import merged

pytestmark = [
    pytest.mark.images,
    pytest.mark.timeout(6000),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]

MOST_MB = {"edge": 215, "quota": 110, "rooms": 110, "chat": 260, "cli": 150, "tts": 950, "stt": 650, "callboard": 1500}
"""How much an image may have over its base."""
IMAGES = [name for name in build_arguments() if not name.endswith("-gpu")]
INSTALLERS = ("pip", "setuptools", "wheel", "pkg_resources", "ensurepip")
LINE = "Good evening. The owl is on the roof."


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_what_it_needs_and_no_more(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = ensure_image(image)
    over_base = size_mb(root) - size_mb(STORE / "base")
    with capsys.disabled():
        print(f"\n{image}: {over_base:.0f} MB over its base")  # noqa: T201
    assert over_base <= MOST_MB[image.removeprefix("callboard-")]
    config = image_config(image)
    assert (config["User"], config["Entrypoint"]) == ("10001:10001", ["start"])
    assert config["Healthcheck"]["Test"][:4] == ["CMD", "python", "-m", "callboard_kit.health_check"]
    members = build_arguments()[image]["MEMBER"]
    assert config["Labels"]["org.opencontainers.image.title"] == f"Callboard {members}"
    found = {path.name for path in root.glob("opt/callboard/lib/python3*/site-packages/*")}
    for pattern in ("usr/lib/python3/dist-packages/*", "usr/lib/python3*/*", "usr/share/*"):
        found |= {path.name for path in root.glob(pattern)}
    assert {tool for tool in INSTALLERS if tool in found} == ({"pip"} if members.startswith("cli") else set())
    assert "python-wheels" not in found
    ours = {name for name in found if name.startswith("callboard_") and not name.endswith("dist-info")}
    services = {f"callboard_{member.rpartition('/')[2]}" for member in members.split()}
    assert services <= ours
    assert ours - services <= {"callboard_admin", "callboard_contracts", "callboard_kit", "callboard_worker"}


def test_a_library_that_is_not_there_is_named_with_the_remedy(tmp_path: Path) -> None:
    root = ensure_image("callboard-chat")
    (library,) = (path for path in root.glob("usr/lib/*/libgomp.so.1") if path.exists())
    empty = tmp_path / "empty"
    empty.touch()
    config = tmp_path / "callboard.toml"
    config.write_text('[chat.pools.local]\nbackend = "llamacpp"\nmodel_file = "any.gguf"\n')
    tmp_path.chmod(0o755)
    mounts = {empty: f"/{library.relative_to(root)}", config: "/etc/callboard.toml"}
    command = ContainerCommand("callboard-chat", "callboard-test-library", tmp_path, mounts)
    child = start_container(command, ["--config", "/etc/callboard.toml", "--pool", "local"], {}, tmp_path / "log")
    assert child.wait(120) == 1
    last = child.output().splitlines()[-1]
    assert "libgomp.so.1 cannot be loaded: file too short; reinstall its package" in last


def test_one_container_serves_a_model_of_ones_own_and_keeps_its_keys(tmp_path: Path) -> None:
    if missing_model_files():
        pytest.skip(f"model files missing: {', '.join(missing_model_files())}")
    data = tmp_path / "data"
    data.mkdir()
    os.chown(data, USER, USER)
    tmp_path.chmod(0o755)
    port, health_port = free_port(), free_port()
    environ = {
        "KCPP_ARGS": f"--port {port} --contextsize 1024 --threads 2 --password sesame --quiet",
        "CALLBOARD_HEALTH_PORT": str(health_port),
        "CALLBOARD__EDGE__METRICS_PORT": str(health_port),
        "CALLBOARD__NATS__URL": f"nats://127.0.0.1:{free_port()}",
        **{f"CALLBOARD__{name}__METRICS_PORT": "0" for name in ("QUOTA", "ROOMS", "CHAT__POOLS__LOCAL")},
        "CALLBOARD__TTS__POOLS__LOCAL__METRICS_PORT": "0",
    }
    mounts, volumes = {model_folder(SiteSection()): "/models"}, {data: "/data"}
    for number in range(2):
        command = ContainerCommand("callboard", "callboard-test-one", tmp_path, mounts, volumes)
        child = start_container(command, [], environ, tmp_path / f"log-{number}")
        try:
            check_one_container(command, child, port)
        finally:
            child.kill()
            command.remove()


def check_one_container(command: ContainerCommand, child: Child, port: int) -> None:
    """Asks a container of the whole site for a reply and for speech, and stops it."""
    wait_until(lambda: "Ctrl-C stops" in child.output() or not child.alive, 180, "it is ready")
    checked = command.exec(["python", "-m", "callboard_kit.health_check", "readyz"])
    assert checked.returncode == 0, child.output()
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="sesame", max_retries=8) as client:
        question: Any = [{"role": "user", "content": "Hello."}]
        reply = client.chat.completions.create(model="smollm2-135m-instruct", messages=question, max_tokens=8)
        assert reply.choices[0].message.content
        spoken = client.audio.speech.create(model=SPEECH_MODEL, voice=VOICE, input=LINE, response_format="wav")
        assert duration_s(decoded(spoken.content)) > 1.0
    listed = command.exec(["callboard", "keys", "list"])
    assert listed.stdout.count("password") == 1, listed
    child.signal(signal.SIGTERM)
    assert child.wait(120) == 0, child.output()


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Generator[ImageDeployment]:
    if missing_model_files():
        pytest.skip(f"model files missing: {', '.join(missing_model_files())}")
    config = merged(built_in_config(), {"site": {"model_dir": MODELS}})
    deployment = ImageDeployment(tmp_path_factory.mktemp("images"), config, sync="always")
    # Containers see only what is mounted, as another user.
    deployment.folder.chmod(0o755)
    try:
        deployment.start(rooms=1)
        yield deployment
    finally:
        deployment.abandon()


async def test_a_stack_of_containers_answers_speaks_and_stops(board: ImageDeployment) -> None:
    for service in board.services:
        assert isinstance(service, ContainerService)
        port = f"CALLBOARD_HEALTH_PORT={service.health_port}"
        words = ["env", port, "python", "-m", "callboard_kit.health_check", "readyz"]
        checked = await asyncio.to_thread(service.container.exec, words)
        assert (checked.returncode, json.loads(checked.stdout)) == (0, {"status": "ready"}), service.name
    async with openai.AsyncOpenAI(base_url=board.base_url, api_key="none", max_retries=0, timeout=120) as client:
        reply = await client.chat.completions.create(
            model=CHAT_MODEL, messages=[{"role": "user", "content": "Hello."}], max_tokens=12
        )
        assert reply.choices[0].message.content
        for kind in ("mp3", "opus", "wav"):
            spoken = await client.audio.speech.create(model=SPEECH_MODEL, voice=VOICE, input=LINE, response_format=kind)
            sound = decoded(spoken.content)
            assert 1.0 < duration_s(sound) < 10.0, kind
            assert rms(sound) > 0.02, kind
    await asyncio.to_thread(board.wait_idle)
    for service in board.services:
        logged = {line["event"] for line in service.logs()}
        assert "not_json" not in logged, service.name
    # Each stops by itself when told to, with nothing in work.
    await asyncio.to_thread(board.stop)

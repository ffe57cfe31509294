"""Every image for a machine without a GPU: built, looked into, measured, and a whole Callboard run out of them."""

import asyncio
import json
from collections.abc import Generator
from pathlib import Path

import openai
import pytest

from tests.images.image_deployment import MODELS, ContainerService, ImageDeployment
from tests.support.audio import decoded, duration_s, rms
from tests.support.images import (
    STORE,
    ContainerCommand,
    build_arguments,
    ensure_image,
    image_config,
    missing,
    size_mb,
    start_container,
)
from tests.support.models import CHAT_MODEL, SPEECH_MODEL, VOICE, built_in_config, missing_model_files
from tests.support.processes import merged

pytestmark = [
    pytest.mark.images,
    pytest.mark.timeout(6000),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]

MOST_MB = {"edge": 215, "quota": 110, "rooms": 110, "chat": 260, "cli": 150, "tts": 950}
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
    assert config["Healthcheck"]["Test"] == ["CMD", "python", "-m", "callboard_kit.health_check"]
    member = build_arguments()[image]["MEMBER"]
    assert config["Labels"]["org.opencontainers.image.title"] == f"Callboard {member}"
    found = {path.name for path in root.glob("opt/callboard/lib/python3*/site-packages/*")}
    for pattern in ("usr/lib/python3/dist-packages/*", "usr/lib/python3*/*", "usr/share/*"):
        found |= {path.name for path in root.glob(pattern)}
    assert {tool for tool in INSTALLERS if tool in found} == ({"pip"} if image == "callboard-cli" else set())
    assert "python-wheels" not in found
    ours = {name for name in found if name.startswith("callboard_") and not name.endswith("dist-info")}
    service = f"callboard_{member.rpartition('/')[2]}"
    assert service in ours
    assert ours - {service} <= {"callboard_admin", "callboard_contracts", "callboard_kit", "callboard_worker"}


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


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Generator[ImageDeployment]:
    if missing_model_files():
        pytest.skip(f"model files missing: {', '.join(missing_model_files())}")
    config = merged(built_in_config(), {"site": {"model_dir": MODELS}})
    deployment = ImageDeployment(tmp_path_factory.mktemp("images"), config, sync_always=True)
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

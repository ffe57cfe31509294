"""The images that no ordinary stack has: a volunteer that lends an engine, and a worker that writes down speech."""

import asyncio
import os
import shlex
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import openai
import pytest

from callboard_contracts.config import SiteSection
from callboard_kit.model_files import model_path
from tests.images.image_deployment import MODELS, ContainerService, ImageDeployment
from tests.support.children import Child
from tests.support.compose import compose
from tests.support.deployment import Deployment
from tests.support.images import USER, ContainerCommand, missing, start_container
from tests.support.sounds import melody, wav
from tests.unit.cli.volunteer_stubs import StubEngine, serving

pytestmark = [
    pytest.mark.images,
    pytest.mark.timeout(2000),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]

WHISPER = "whisper-base"
VOLUNTEER_MIB = 256
VOLUNTEER_PIDS = 64


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Generator[Deployment]:
    config: dict[str, Any] = {"chat": {"pools": {"crowd": {"backend": "volunteers"}}}, "kudos": {"enabled": True}}
    deployment = Deployment(tmp_path_factory.mktemp("lent"), config)
    try:
        deployment.start(speakers=0)
        yield deployment
        deployment.wait_idle()
        deployment.stop()
    finally:
        deployment.abandon()


async def test_a_volunteer_in_its_container_lends_an_engine_and_hands_in_what_it_has_when_it_is_stopped(
    site: Deployment, tmp_path: Path
) -> None:
    key = await asyncio.to_thread(site.create_key, "standard")
    tmp_path.chmod(0o755)
    key_file = tmp_path / "volunteer.key"
    key_file.write_text(key, encoding="ascii")
    os.chown(key_file, USER, USER)
    key_file.chmod(0o400)
    gate = asyncio.Event()
    engine = StubEngine("ollama", gate=gate)
    async with serving(engine.handle) as url:
        given = {
            "CALLBOARD_VOLUNTEER_SERVER": site.root_url(),
            "CALLBOARD_VOLUNTEER_ENGINE": url,
            "CALLBOARD_VOLUNTEER_NAME": "barn",
            "CALLBOARD_VOLUNTEER_OPTIONS": "--model owl",
        }
        service = compose(over=given, file="volunteer.yaml").services["volunteer"]
        assert (service["mem_limit"], service["pids_limit"]) == (f"{VOLUNTEER_MIB}m", VOLUNTEER_PIDS)
        mounts = {key_file: "/run/secrets/volunteer_key"}
        # Building the image takes minutes, and starting it a moment.
        command = await asyncio.to_thread(ContainerCommand, service["image"], "callboard-test-lent", tmp_path, mounts)
        words = shlex.split(service["command"])
        child = await asyncio.to_thread(start_container, command, words, {}, tmp_path / "log")
        try:
            await lends(site, key, gate, command, child)
        finally:
            child.kill()
            command.remove()


async def lends(site: Deployment, key: str, gate: asyncio.Event, command: ContainerCommand, child: Child) -> None:
    """Asks the site for a text of the volunteer, and stops it in the middle of that."""
    found: list[str] = []
    async with openai.AsyncOpenAI(base_url=site.base_url, api_key=key, max_retries=0) as client:
        async with asyncio.timeout(60):
            while "owl" not in [one.id async for one in client.models.list()]:
                assert child.alive, child.output()
                await asyncio.sleep(0.1)
        message: Any = [{"role": "user", "content": "Tell me of an owl."}]
        stream = await client.chat.completions.create(model="owl", messages=message, stream=True, max_tokens=20)
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                if not found:
                    checked = await asyncio.to_thread(command.exec, ["python", "-m", "callboard_kit.health_check"])
                    assert checked.returncode == 0, checked
                    await asyncio.to_thread(check_size, command)
                    child.signal(signal.SIGTERM)
                    gate.set()
                found.append(chunk.choices[0].delta.content)
    assert "".join(found) == "sat in the oak."
    assert await asyncio.to_thread(child.wait, 60) == 0, child.output()
    assert "ended: 1 texts, 0 faults, 0 dropped" in child.output()
    assert key not in child.output()


def check_size(command: ContainerCommand) -> None:
    """Compares what the volunteer takes with what its compose file allows."""
    text = command.exec(["cat", "/proc/1/status"]).stdout
    status = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    assert int(status["VmHWM"].split()[0]) < VOLUNTEER_MIB * 1024 / 2, status["VmHWM"]
    assert int(status["Threads"]) < VOLUNTEER_PIDS / 2, status["Threads"]


async def test_a_worker_that_writes_down_speech_is_ready_in_its_container(tmp_path: Path) -> None:
    if not model_path(SiteSection(), WHISPER, os.environ).exists():
        pytest.skip("no model; `callboard models fetch` fetches it")
    config: dict[str, Any] = {
        "site": {"model_dir": MODELS},
        "chat": {"pools": {"main": {"backend": "fake"}}, "models": {"parrot": {"pool": "main"}}},
        "stt": {
            "pools": {"local": {"backend": "faster_whisper", "model_file": WHISPER}},
            "models": {"whisper": {"pool": "local"}},
        },
    }
    tmp_path.chmod(0o755)
    site = ImageDeployment(tmp_path / "ear", config)
    site.contained = {"callboard_stt"}
    site.folder.chmod(0o755)
    try:
        await asyncio.to_thread(site.start, chats=0, speakers=0)
        ear = await asyncio.to_thread(site.add_recogniser)
        assert isinstance(ear, ContainerService)
        await asyncio.to_thread(ear.wait_ready)
        async with openai.AsyncOpenAI(base_url=site.base_url, api_key="none", max_retries=0, timeout=120) as client:
            heard = await client.audio.transcriptions.create(
                model="whisper", file=("melody.wav", wav(melody([300, 500])), "audio/wav")
            )
            assert isinstance(heard.text, str)
        await asyncio.to_thread(site.wait_idle)
        assert "not_json" not in {line["event"] for line in ear.logs()}
        await asyncio.to_thread(site.stop)
    finally:
        site.abandon()

"""Client packages that are not in the development environment, each in a process of its own, against the product.

`make clients-test` makes their environments, `build/clients-env` and `build/clients-node`.
"""

import os
import shutil
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support.deployment import Deployment, stub_config
from tests.support.processes import merged
from tests.support.stub_chat import StubChat
from tests.support.stub_speech import StubSpeech

pytestmark = [pytest.mark.e2e, pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build"
PYTHON, MODULES = BUILD / "clients-env" / "bin" / "python", BUILD / "clients-node"
CASES_S = 300.0
PARTS = {
    "chat": {"models": {"owl": {"context_tokens": 2048, "max_output_tokens": 256, "embeddings": True}}},
    "tts": {"models": {"parrot": {"aliases": ["tts-1"], "voice_aliases": {"alloy": "alto"}}}},
}


@pytest.fixture(scope="module")
def environ(
    tmp_path_factory: pytest.TempPathFactory, shared_chat_engine: StubChat, shared_speech_engine: StubSpeech
) -> Generator[dict[str, str]]:
    """What the cases are told: where the product and its engine are, and two keys."""
    config = merged(stub_config(shared_chat_engine.url, shared_speech_engine.url), PARTS)
    with Deployment(tmp_path_factory.mktemp("deployment"), config).running() as deployment:
        yield {
            "PATH": os.environ["PATH"],
            "HOME": str(deployment.folder),
            "BOARD_URL": deployment.root_url(),
            "BOARD_KEY": deployment.create_key("standard"),
            "BOARD_TINY_KEY": deployment.create_key("tiny"),
            "ENGINE_CONTROL": shared_chat_engine.url.removesuffix("/v1") + "/control",
        }


def passes(command: list[str], folder: Path, environ: dict[str, str]) -> None:
    """Runs cases; what they print is told where one fails."""
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=CASES_S, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-8000:]}{done.stderr[-4000:]}"


@pytest.mark.parametrize("package", ["langchain", "instructor", "pydantic_ai"])
def test_python_package(package: str, environ: dict[str, str]) -> None:
    if not PYTHON.exists():
        pytest.skip("no build/clients-env: `make clients-test` makes it")
    flags = ["-q", "--noconftest", "-c", os.devnull, "--rootdir", ".", "-p", "no:cacheprovider"]
    passes([str(PYTHON), "-B", "-m", "pytest", *flags, f"{package}_cases.py"], HERE / "python", environ)


@pytest.mark.parametrize("package", ["openai", "ai-sdk"])
def test_javascript_package(package: str, environ: dict[str, str]) -> None:
    node = shutil.which("node")
    if node is None or not (MODULES / "node_modules").exists():
        pytest.skip("no node, or no build/clients-node: `make clients-test` makes it with npm")
    # Packages are found from where a script lies.
    for script in (HERE / "javascript").glob("*.mjs"):
        shutil.copy(script, MODULES)
    passes([node, "--test", f"{package}.test.mjs"], MODULES, environ)

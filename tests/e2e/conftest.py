"""One set of processes with stub engines for the whole run, and sets of their own for the tests that break things."""

from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.support.axe import NoAxeError, axe_script
from tests.support.deployment import Deployment, stub_config
from tests.support.processes import merged
from tests.support.stub_chat import StubChat
from tests.support.stub_speech import StubSpeech

MakeBoard = Callable[..., Deployment]

SHARED_LIMITS = {
    "edge": {"max_body_bytes": 256 * 1024, "body_timeout_s": 3, "request_timeout_s": 60},
    "chat": {"models": {"owl": {"context_tokens": 512, "max_output_tokens": 256}}},
}


@pytest.fixture(scope="session")
def shared_deployment(
    tmp_path_factory: pytest.TempPathFactory, shared_chat_engine: StubChat, shared_speech_engine: StubSpeech
) -> Generator[Deployment]:
    """One of each service; tests that use it must leave it as they found it."""
    config = merged(stub_config(shared_chat_engine.url, shared_speech_engine.url), SHARED_LIMITS)
    deployment = Deployment(tmp_path_factory.mktemp("deployment"), config, forked=True)
    try:
        deployment.start()
        yield deployment
        deployment.stop()
    finally:
        deployment.abandon()


@pytest.fixture
def deployment(
    shared_deployment: Deployment, chat_engine: StubChat, speech_engine: StubSpeech
) -> Generator[Deployment]:
    """The shared set; whatever a test did, no job and no hold may be left afterwards."""
    yield shared_deployment
    shared_deployment.wait_idle()


@pytest.fixture(scope="session")
def api_key(shared_deployment: Deployment) -> str:
    return shared_deployment.create_key("standard")


@pytest.fixture
async def client(deployment: Deployment, api_key: str) -> AsyncGenerator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=deployment.base_url, api_key=api_key, max_retries=0, timeout=30) as one:
        yield one


@pytest.fixture
def make_deployment(tmp_path: Path, chat_engine: StubChat, speech_engine: StubSpeech) -> Generator[MakeBoard]:
    """Starts sets that a test may break; each is killed afterwards if the test did not stop it."""
    deployments: list[Deployment] = []

    def make(over: dict[str, Any] | None = None, *, forked: bool = True, **counts: int) -> Deployment:
        config = merged(stub_config(chat_engine.url, speech_engine.url), over or {})
        deployment = Deployment(tmp_path / f"deployment-{len(deployments)}", config, forked=forked)
        deployments.append(deployment)
        deployment.start(**counts)
        return deployment

    yield make
    for deployment in deployments:
        deployment.abandon()


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    try:
        return axe_script(tmp_path_factory.mktemp("axe"))
    except NoAxeError as error:
        pytest.skip(str(error))

"""The stub engines as fixtures: one of each for a whole run, clean for each test."""

from collections.abc import Generator

import pytest

from tests.support.stub_chat import StubChat
from tests.support.stub_speech import StubSpeech


@pytest.fixture(scope="session")
def shared_chat_engine() -> Generator[StubChat]:
    engine = StubChat()
    engine.start()
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def shared_speech_engine() -> Generator[StubSpeech]:
    engine = StubSpeech()
    engine.start()
    yield engine
    engine.close()


@pytest.fixture
def chat_engine(shared_chat_engine: StubChat) -> StubChat:
    shared_chat_engine.reset()
    return shared_chat_engine


@pytest.fixture
def speech_engine(shared_speech_engine: StubSpeech) -> StubSpeech:
    shared_speech_engine.reset()
    return shared_speech_engine

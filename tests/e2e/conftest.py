"""One set of processes with stub engines for the whole run, and sets of their own for the tests that break things."""

from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.support.board import Board, stub_config
from tests.support.processes import merged
from tests.support.stub_chat import StubChat
from tests.support.stub_speech import StubSpeech

MakeBoard = Callable[..., Board]

SHARED_LIMITS = {
    "edge": {"max_body_bytes": 256 * 1024, "body_timeout_s": 3, "request_timeout_s": 60},
    "chat": {"models": {"owl": {"context_tokens": 512, "max_output_tokens": 256}}},
}


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


@pytest.fixture(scope="session")
def shared_board(
    tmp_path_factory: pytest.TempPathFactory, shared_chat_engine: StubChat, shared_speech_engine: StubSpeech
) -> Generator[Board]:
    """One of each service; tests that use it must leave it as they found it."""
    config = merged(stub_config(shared_chat_engine.url, shared_speech_engine.url), SHARED_LIMITS)
    board = Board(tmp_path_factory.mktemp("board"), config)
    try:
        board.start()
        yield board
        board.stop()
    finally:
        board.abandon()


@pytest.fixture
def chat_engine(shared_chat_engine: StubChat) -> StubChat:
    shared_chat_engine.reset()
    return shared_chat_engine


@pytest.fixture
def speech_engine(shared_speech_engine: StubSpeech) -> StubSpeech:
    shared_speech_engine.reset()
    return shared_speech_engine


@pytest.fixture
def board(shared_board: Board, chat_engine: StubChat, speech_engine: StubSpeech) -> Generator[Board]:
    """The shared set; whatever a test did, no job and no hold may be left afterwards."""
    yield shared_board
    shared_board.wait_idle()


@pytest.fixture(scope="session")
def api_key(shared_board: Board) -> str:
    return shared_board.create_key("standard")


@pytest.fixture
async def client(board: Board, api_key: str) -> AsyncGenerator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=board.base_url, api_key=api_key, max_retries=0, timeout=30) as one:
        yield one


@pytest.fixture
def make_board(tmp_path: Path, chat_engine: StubChat, speech_engine: StubSpeech) -> Generator[MakeBoard]:
    """Starts sets that a test may break; each is killed afterwards if the test did not stop it."""
    boards: list[Board] = []

    def make(over: dict[str, Any] | None = None, **counts: int) -> Board:
        config = merged(stub_config(chat_engine.url, speech_engine.url), over or {})
        board = Board(tmp_path / f"board-{len(boards)}", config)
        boards.append(board)
        board.start(**counts)
        return board

    yield make
    for board in boards:
        board.abandon()

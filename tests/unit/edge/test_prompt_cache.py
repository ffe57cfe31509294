"""Prompts that begin alike prefer one worker."""

import pytest

from callboard_contracts.chat import ChatMessage, ChatRequest
from callboard_contracts.workers import OfferedModel, WorkerInfo
from callboard_edge.domain.prompt_cache import cache_key
from callboard_edge.domain.workers import Workers

pytestmark = pytest.mark.unit

KEYS = [bytes([number]) for number in range(200)]


def chat(*texts: str, system: str = "You are a frog.", **fields: object) -> ChatRequest:
    roles = ("user", "assistant")
    said = [ChatMessage(role=roles[number % 2], content=text) for number, text in enumerate(texts)]
    messages = (ChatMessage(role="system", content=system), *said)
    return ChatRequest.model_validate({"model": "owl", "messages": messages, "max_output_tokens": 9, **fields})


def announced(*names: str, **fields: object) -> Workers:
    workers = Workers()
    for name in names:
        workers.announce(info(name, **fields))
    return workers


def info(name: str, **fields: object) -> WorkerInfo:
    models = (OfferedModel(name="owl"),)
    shown = {"id": name, "service": "chat", "pool": "main", "backend": "fake", "models": models, "slots": 2, "at": 0}
    return WorkerInfo.model_validate(shown | fields)


def preferred(workers: Workers, key: bytes) -> str | None:
    return workers.preferred("chat", "main", "owl", lambda: key)


async def test_turns_of_one_conversation_have_one_key() -> None:
    first, later = chat("Hi"), chat("Hi", "Hello.", "How are you?")
    assert cache_key(first) == cache_key(later)
    assert cache_key(chat("Hi", system="You are a toad.")) != cache_key(first)
    assert cache_key(chat("Ho")) != cache_key(first)
    # Parts are told apart from their neighbours.
    assert cache_key(chat("ab", system="c")) != cache_key(chat("b", system="ca"))


async def test_clients_own_key_stands_over_the_words() -> None:
    key = cache_key(chat("Hi", prompt_cache_key="game 7"))
    assert key == cache_key(chat("Ho", prompt_cache_key="game 7"))
    assert key != cache_key(chat("Hi", prompt_cache_key="game 8"))


async def test_text_to_continue_is_told_by_its_beginning() -> None:
    def text(prompt: str) -> ChatRequest:
        return ChatRequest(mode="completion", model="owl", prompt=prompt, max_output_tokens=9)

    memory = "Once upon a time there was a pond. " * 10
    assert cache_key(text(memory)) == cache_key(text(memory + "And then"))
    assert cache_key(text(memory)) != cache_key(text("Twice " + memory))


async def test_keys_are_shared_out_and_stay_when_others_come_and_go() -> None:
    three = {key: preferred(announced("a", "b", "c"), key) for key in KEYS}
    shares = [sum(worker == name for worker in three.values()) for name in "abc"]
    assert min(shares) > len(KEYS) / 6
    two = {key: preferred(announced("c", "a"), key) for key in KEYS}
    assert all(two[key] == worker for key, worker in three.items() if worker != "b")


@pytest.mark.parametrize(
    "state", [{"ready": False}, {"draining": True}, {"models": (OfferedModel(name="wren"),)}, {"pool": "other"}]
)
async def test_only_workers_that_can_take_the_job_are_preferred(state: dict[str, object]) -> None:
    workers = announced("a", "b")
    workers.announce(info("c", **state))
    assert {preferred(workers, key) for key in KEYS} == {"a", "b"}


async def test_there_is_nothing_to_prefer_where_there_is_one_worker() -> None:
    assert preferred(announced("a"), b"key") is None
    assert preferred(announced(), b"key") is None

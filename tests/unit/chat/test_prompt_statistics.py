"""What a model usually makes of a byte is learned from what its engine counts."""

import pytest

from callboard_chat.domain.prompt_statistics import PromptStatistics
from callboard_contracts.chat import ChatMessage, ChatRequest, Image, Tool
from callboard_contracts.prompt_size import USUAL_TOKENS_PER_BYTE
from callboard_contracts.workers import OfferedModel

pytestmark = pytest.mark.unit


def request_of(size: int, **fields: object) -> ChatRequest:
    message = ChatMessage(role="user", content="x" * size, images=fields.pop("images", ()))  # pyright: ignore[reportArgumentType]
    return ChatRequest.model_validate({"model": "owl", "messages": (message,), "max_output_tokens": 1, **fields})


def test_first_figure_is_a_cautious_one() -> None:
    assert PromptStatistics().tokens_per_byte == USUAL_TOKENS_PER_BYTE


def test_figure_follows_what_is_counted_with_a_margin() -> None:
    statistics = PromptStatistics()
    for _ in range(200):
        statistics.learn(request_of(2000), 500)
    assert statistics.tokens_per_byte == pytest.approx(0.275, abs=0.005)
    for _ in range(2000):
        statistics.learn(request_of(2000), 1000)
    assert statistics.tokens_per_byte == pytest.approx(0.55, abs=0.02)


def test_figure_is_never_nothing() -> None:
    statistics = PromptStatistics()
    for _ in range(20):
        statistics.learn(request_of(1_000_000), 7)
    offered = OfferedModel(name="owl", tokens_per_byte=statistics.tokens_per_byte)
    assert offered.tokens_per_byte == 0.001


def test_prompts_whose_bytes_do_not_tell_their_tokens_are_left_out() -> None:
    statistics = PromptStatistics()
    image = Image(media_type="image/png", data="AAAA")
    for request in (request_of(20), request_of(500, images=(image,)), request_of(500, tools=(Tool(name="find"),))):
        statistics.learn(request, 5000)
    assert statistics.tokens_per_byte == USUAL_TOKENS_PER_BYTE

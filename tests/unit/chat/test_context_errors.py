"""The error for a prompt that does not fit, in the words and with the numbers that client libraries look for."""

import json
import re

import pytest

from callboard_chat.backends.openai_wire import refused
from callboard_chat.domain.models import ContextExceeded
from callboard_contracts.chat import ChatMessage, ChatRequest
from callboard_contracts.context_length import context_exceeded
from callboard_contracts.errors import ErrorCode

pytestmark = pytest.mark.unit

CHAT = ChatRequest(model="owl", messages=(ChatMessage(role="user", content="x" * 4000),), max_output_tokens=5)
COMPLETION = ChatRequest(mode="completion", model="owl", prompt="x" * 4000, max_output_tokens=5)

KNOWN = (
    # What LangChain, LiteLLM, CrewAI and others look for, and what others read both numbers with.
    r"This model's maximum context length is (\d+) tokens",
    r"maximum context length is (\d+) tokens\. However, you requested (\d+) tokens",
    r"maximum context length is (\d+).*?requested (\d+)",
)


@pytest.mark.parametrize("pattern", KNOWN)
@pytest.mark.parametrize("request_", [CHAT, COMPLETION])
def test_error_is_recognised_and_its_numbers_are_read(pattern: str, request_: ChatRequest) -> None:
    info = context_exceeded(request_, 2048, 3036)
    found = re.search(pattern, info.message)
    assert found is not None
    assert [int(number) for number in found.groups()] == [2048, 3041][: len(found.groups())]
    assert info.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED


def test_error_names_the_field_and_its_parts() -> None:
    chat, completion = context_exceeded(CHAT, 2048, 3036), context_exceeded(COMPLETION, 2048, 3036)
    assert (chat.param, completion.param) == ("messages", "prompt")
    assert "(3036 in the messages, 5 in the completion)" in chat.message
    assert "(3036 in your prompt; 5 for the completion)" in completion.message
    assert "you requested about 3041 tokens" in context_exceeded(CHAT, 2048, 3036, estimated=True).message


TOLD = {
    "llama.cpp": (
        {
            "error": {
                "code": 400,
                "message": "the request exceeds the available context size, try increasing it",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 3036,
                "n_ctx": 2048,
            }
        },
        (2048, 3041),
    ),
    "OpenAI": ({"error": {"message": context_exceeded(CHAT, 2048, 3036).message}}, (2048, 3041)),
    "OpenAI's completions": ({"error": {"message": context_exceeded(COMPLETION, 2048, 3036).message}}, (2048, 3041)),
    "OpenAI's older words": (
        {
            "error": {
                "message": "This model's maximum context length is 2048 tokens. However, your messages resulted in "
                "3036 tokens. Please reduce the length of the messages."
            }
        },
        (2048, 3041),
    ),
    "vLLM": (
        {
            "message": "This model's maximum context length is 2048 tokens. However, you requested 5 output tokens and "
            "your prompt contains at least 3036 input tokens, for a total of at least 3041 tokens."
        },
        (2048, 3041),
    ),
    "a server that tells no number": ({"error": {"code": "context_length_exceeded"}}, (512, 1004 + 5)),
}


@pytest.mark.parametrize("case", TOLD)
def test_numbers_of_an_engine_are_handed_on(case: str) -> None:
    body, numbers = TOLD[case]
    words = r"length is (\d+) tokens\. However, you requested (?:about )?(\d+) tokens"
    error = refused(CHAT, 400, json.dumps(body).encode())
    assert isinstance(error, ContextExceeded)
    found = re.search(words, error.explained(512).message)
    assert found is not None
    assert tuple(int(number) for number in found.groups()) == numbers


def test_estimate_is_never_within_the_context() -> None:
    short = ChatRequest(model="owl", messages=(ChatMessage(role="user", content="x"),), max_output_tokens=5)
    found = re.search(r"\((\d+) in the messages", ContextExceeded(short).explained(2048).message)
    assert found is not None
    assert int(found[1]) > 2048

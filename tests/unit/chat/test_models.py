"""What a pool's models cannot do is refused by name."""

from typing import Any

import pytest

from callboard_chat.domain.models import ServedModel, estimated_prompt_tokens, refusal
from callboard_contracts.chat import ChatRequest
from callboard_contracts.errors import ErrorCode

pytestmark = pytest.mark.unit

MODELS = {
    "owl": ServedModel("owl", "owl", tools=True),
    "wren": ServedModel("wren", "wren", json_schema=False),
}


def request(**fields: Any) -> ChatRequest:
    message = {"role": "user", "content": "Hello there."}
    return ChatRequest.model_validate({"model": "owl", "messages": [message], "max_output_tokens": 5, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tools": [{"name": "look"}]},
        {"model": "wren", "tools": [{"name": "look"}], "tool_choice": "none"},
        {"model": "wren", "output_format": {"kind": "json_object"}},
        {"mode": "completion", "prompt": "", "messages": []},
    ],
)
def test_what_a_model_can_do_is_not_refused(fields: dict[str, Any]) -> None:
    assert refusal(request(**fields), MODELS) is None


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"model": "crow"}, ErrorCode.UNKNOWN_MODEL, "model"),
        ({"messages": []}, ErrorCode.INVALID_REQUEST, "messages"),
        ({"model": "wren", "tools": [{"name": "look"}]}, ErrorCode.UNSUPPORTED, "tools"),
        ({"model": "wren", "output_format": {"kind": "json_schema"}}, ErrorCode.UNSUPPORTED, "output_format"),
    ],
)
def test_what_it_cannot_do_is_refused(fields: dict[str, Any], code: ErrorCode, param: str) -> None:
    refused = refusal(request(**fields), MODELS)
    assert refused is not None
    assert (refused.code, refused.param) == (code, param)


def test_an_unknown_model_comes_with_those_on_offer() -> None:
    refused = refusal(request(model="crow"), MODELS)
    assert refused is not None
    assert refused.offered == ("owl", "wren")


def test_a_prompt_is_estimated_by_its_length() -> None:
    assert estimated_prompt_tokens(request()) == 7
    assert estimated_prompt_tokens(request(mode="completion", prompt="x" * 400)) == 104

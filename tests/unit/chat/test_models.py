"""What a pool's models cannot do is refused by name."""

from typing import Any

import pytest

from callboard_chat.backends.fake import FakeEngine
from callboard_chat.domain.models import ServedModel, estimated_prompt_tokens, refusal
from callboard_contracts.chat import ChatRequest
from callboard_contracts.errors import ErrorCode
from callboard_contracts.workers import Ability

pytestmark = pytest.mark.unit

MODELS = {
    "owl": ServedModel("owl", "owl"),
    "wren": ServedModel("wren", "wren", tools="refuse", json_schema=False),
    "jay": ServedModel("jay", "jay", images=True),
}
ABILITIES = FakeEngine.abilities
MANY_ITEMS = {"kind": "json_schema", "json_schema": {"type": "array", "maxItems": 10**6}}
PICTURE = {"role": "user", "content": "Look.", "images": [{"media_type": "image/png", "data": "aGk="}]}
GRAMMAR = {"kind": "grammar", "grammar": 'root ::= "a"'}


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
        {"model": "jay", "messages": [PICTURE]},
        {"output_format": GRAMMAR},
    ],
)
def test_what_a_model_can_do_is_not_refused(fields: dict[str, Any]) -> None:
    assert refusal(request(**fields), MODELS, ABILITIES) is None


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"model": "crow"}, ErrorCode.UNKNOWN_MODEL, "model"),
        ({"messages": []}, ErrorCode.INVALID_REQUEST, "messages"),
        ({"model": "wren", "tools": [{"name": "look"}]}, ErrorCode.UNSUPPORTED, "tools"),
        ({"model": "wren", "output_format": {"kind": "json_schema"}}, ErrorCode.UNSUPPORTED, "output_format"),
        ({"messages": [PICTURE]}, ErrorCode.UNSUPPORTED, "messages"),
        ({"output_format": MANY_ITEMS}, ErrorCode.INVALID_REQUEST, "output_format"),
    ],
)
def test_what_it_cannot_do_is_refused(fields: dict[str, Any], code: ErrorCode, param: str) -> None:
    refused = refusal(request(**fields), MODELS, ABILITIES)
    assert refused is not None
    assert (refused.code, refused.param) == (code, param)


@pytest.mark.parametrize(
    ("ability", "fields"),
    [
        ("tools", {"tools": [{"name": "look"}]}),
        ("json_schema", {"output_format": {"kind": "json_schema"}}),
        ("grammar", {"output_format": GRAMMAR}),
        ("images", {"model": "jay", "messages": [PICTURE]}),
    ],
)
def test_what_the_engine_cannot_do_is_refused_whatever_the_model_may(ability: Ability, fields: dict[str, Any]) -> None:
    refused = refusal(request(**fields), MODELS, ABILITIES - {ability})
    assert refused is not None
    assert refused.code is ErrorCode.UNSUPPORTED


def test_an_unknown_model_comes_with_those_on_offer() -> None:
    refused = refusal(request(model="crow"), MODELS, ABILITIES)
    assert refused is not None
    assert refused.offered == ("jay", "owl", "wren")


def test_a_prompt_is_estimated_by_its_length() -> None:
    assert estimated_prompt_tokens(request()) == 7
    assert estimated_prompt_tokens(request(mode="completion", prompt="x" * 400)) == 104

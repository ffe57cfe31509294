"""Whole replies are checked against the form that was asked for."""

import json
from typing import Any

import pytest

from callboard_chat.domain.reply_format import check_format, uncheckable
from callboard_contracts.chat import ChatRequest, OutputFormat, Tool
from callboard_contracts.errors import ErrorCode

pytestmark = pytest.mark.unit


async def fault(text: str, schema: dict[str, Any] | None, **sampling: Any) -> str | None:
    kind = "json_object" if schema is None else "json_schema"
    request = ChatRequest(
        model="owl",
        max_output_tokens=9,
        output_format=OutputFormat(kind=kind, json_schema=schema),
        sampling=sampling,  # pyright: ignore[reportArgumentType]
    )
    found = await check_format(request, text)
    assert found is None or found.code is ErrorCode.ENGINE_FAILED
    return found.message if found else None


PRICES = {"patternProperties": {"^p": {"multipleOf": 0.01}}, "additionalProperties": {"pattern": r"^\d+$"}}


@pytest.mark.parametrize(
    ("text", "schema", "words"),
    [
        ("{}", None, None),
        ("[]", None, "does not satisfy"),
        ("Sure! {}", None, "not JSON"),
        ("```json\n{}\n```", None, "not JSON"),
        ('{"a":1}', {"type": "object", "required": ["a"]}, None),
        ("{}", {"type": "object", "required": ["a"]}, "does not satisfy"),
        ('{"price": 19.99}', PRICES, None),
        ('{"price": 19.999}', PRICES, "does not satisfy"),
        ('{"size": "12"}', PRICES, None),
        ('{"size": "x"}', PRICES, "does not satisfy"),
        ("[" * 5000, {}, "not JSON"),
        ('{"a": NaN}', None, "not JSON"),
        ('{"a": -Infinity}', {}, "not JSON"),
        (r'{"a": "\ud800"}', None, None),
        (r'{"a": "\ud800"}', {"properties": {"a": {"pattern": "x"}}}, "does not satisfy"),
        ('{"a": -1e999}', {"properties": {"a": {"type": "number"}}}, None),
        ('{"a": 1e999}', {"properties": {"a": {"maximum": 5}}}, "does not satisfy"),
        ('{"price": 0.30}', PRICES, None),
        ('{"price": 1e-5}', PRICES, "does not satisfy"),
        ("1", {"$ref": "#/nowhere"}, "does not satisfy"),
    ],
)
async def test_faults_are_told(text: str, schema: dict[str, Any] | None, words: str | None) -> None:
    found = await fault(text, schema)
    assert found is None if words is None else words in (found or "")


async def test_reply_that_a_stop_may_have_cut_is_not_judged_as_json() -> None:
    assert await fault('{"a": ', None, stop=["}"]) is None
    assert await fault("[]", None, stop=["}"]) is not None


async def test_pattern_that_takes_pythons_own_matcher_for_ever_is_checked_at_once() -> None:
    text = json.dumps("a" * 4000 + "b")
    assert await fault(text, {"type": "string", "pattern": "^(a+)+$"}) is not None


IMMENSE = {"type": "string", "pattern": "^(a{1,1000}){1,1000}$"}


async def test_schema_that_no_reply_can_be_checked_against_is_refused_by_its_place() -> None:
    request = ChatRequest(model="owl", max_output_tokens=9)
    forms = {
        "output_format.json_schema": {"output_format": OutputFormat(kind="json_schema", json_schema=IMMENSE)},
        "tools[1].parameters": {
            "tools": (Tool(name="dim"), Tool(name="lit", parameters={"properties": {"x": IMMENSE}}))
        },
    }
    for param, update in forms.items():
        refused = await uncheckable(request.model_copy(update=update))
        assert refused is not None
        assert (refused.code, refused.param) == (ErrorCode.UNSUPPORTED, param)
    fine = OutputFormat(kind="json_schema", json_schema={"type": "string", "pattern": "^a{1,1000}$"})
    assert await uncheckable(request.model_copy(update={"output_format": fine})) is None
    assert await uncheckable(request) is None

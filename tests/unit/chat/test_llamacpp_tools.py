"""Parameters of tools keep what makes a small grammar; all else is told to the model in words."""

import json
import resource
import subprocess
import sys
from typing import Any

import pytest

from callboard_chat.backends.llamacpp_tools import MAX_DEPTH, MAX_PROPERTIES, MAX_VALUES, bounded_parameters

pytestmark = pytest.mark.unit

PLAIN: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "Where."},
        "unit": {"enum": ["C", "F"]},
        "days": {"type": "array", "items": {"type": ["integer", "null"]}},
    },
    "required": ["city"],
    "additionalProperties": False,
}


def one(schema: dict[str, Any]) -> Any:
    return bounded_parameters({"type": "object", "properties": {"x": schema}})["properties"]["x"]


def test_ordinary_parameters_stay_as_they_are() -> None:
    assert bounded_parameters(PLAIN) == PLAIN
    assert bounded_parameters({}) == {}


@pytest.mark.parametrize(
    ("schema", "kept"),
    [
        ({"type": "string", "pattern": "^((.?.?){30}){30}$"}, {"type": "string"}),
        ({"type": "array", "minItems": 5, "maxItems": 2}, {"type": "array"}),
        ({"type": "integer", "minimum": 0, "maximum": 9}, {"type": "integer"}),
        ({"anyOf": [{"type": "array", "items": {"$ref": "#"}}] * 8}, {}),
        ({"$ref": "#/$defs/a"}, {}),
        ({"type": ["integer", "number"]}, {}),
        ({"enum": list(range(MAX_VALUES + 1))}, {}),
        ({"type": "object", "properties": {f"p{n}": {} for n in range(MAX_PROPERTIES + 1)}}, {"type": "object"}),
    ],
)
def test_what_multiplies_is_told_in_words(schema: dict[str, Any], kept: dict[str, Any]) -> None:
    bounded = one(schema)
    told = json.loads(bounded.pop("description"))
    assert bounded == kept
    assert {**kept, **told} == schema


def test_description_stays_in_front() -> None:
    assert one({"type": "string", "description": "A date.", "maxLength": 10}) == {
        "type": "string",
        "description": 'A date. {"maxLength": 10}',
    }


def test_nesting_ends() -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(MAX_DEPTH * 2):
        deep = {"type": "array", "items": deep}
    bounded, depth = bounded_parameters(deep), 0
    while "items" in bounded:
        bounded, depth = bounded["items"], depth + 1
    assert depth == MAX_DEPTH


CONVERT = "import sys, xllamacpp; print(len(xllamacpp.json_schema_to_grammar(sys.stdin.read())))"


@pytest.mark.slow
@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(MAX_PROPERTIES)}},
        {"type": "array", "items": {"type": "boolean"}, "minItems": 5, "maxItems": 2},
        {"type": "string", "pattern": "^(.?.?.?.?.?.?.?.?.?.?){190}$"},
        {"type": "array", "items": {"type": "array", "minItems": 5000}, "minItems": 5000},
    ],
)
def test_engines_own_converter_makes_small_grammars_of_them(schema: dict[str, Any]) -> None:
    """The converter runs in a process with a bound on its memory, which it would exceed."""
    pytest.importorskip("xllamacpp")
    text = json.dumps(bounded_parameters({"type": "object", "properties": {"x": schema}, "required": ["x"]}))
    limit = 2 * 1024**3
    done = subprocess.run(
        [sys.executable, "-c", CONVERT],
        input=text,
        capture_output=True,
        text=True,
        timeout=15,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert int(done.stdout.split()[-1]) < 64 * 1024

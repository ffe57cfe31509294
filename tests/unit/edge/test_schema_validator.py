"""A client's schemas are checked before anything is held for the request."""

from typing import Any

import pytest

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.schema_validator import MAX_DEPTH, SchemaValidator

pytestmark = pytest.mark.unit


def nested(levels: int) -> dict[str, Any]:
    """A schema of so many dictionaries, one in the other."""
    schema: dict[str, Any] = {}
    for _ in range(levels - 1):
        schema = {"items": schema}
    return schema


async def check(schema: dict[str, Any]) -> None:
    await SchemaValidator().check([("output_format.json_schema", schema)])


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        (nested(MAX_DEPTH + 2), "levels"),
        (nested(5000), "levels"),
        ({"type": "array", "minItems": 5, "maxItems": 2}, "minItems (5) is greater than maxItems (2)"),
        ({"type": "object", "properties": {f"p{number}": {} for number in range(3000)}}, "too complex"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "items": 5}, "'items'"),
        ({"type": "array", "maxItems": 10**6}, "items of arrays"),
        ({"type": "array", "maxItems": 10**6, "x-note": {"minItems": -(10**9)}}, "items of arrays"),
        ({"type": "array", "maxItems": 10**6, "x-note": {"minItems": float("nan")}}, "a number"),
        ({"type": "number", "maximum": float("inf")}, "a number"),
    ],
)
async def test_what_no_engine_can_follow_is_refused_by_name(schema: dict[str, Any], named: str) -> None:
    with pytest.raises(CallboardError) as refused:
        await check(schema)
    assert refused.value.info.code is ErrorCode.INVALID_REQUEST
    assert refused.value.info.param == "output_format.json_schema"
    assert named in refused.value.info.message


@pytest.mark.parametrize(
    "schema",
    [
        nested(MAX_DEPTH),
        {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": [{"type": "integer"}]},
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            "type": "number",
            "minimum": 0,
            "exclusiveMinimum": True,
        },
    ],
)
async def test_what_is_valid_in_the_draft_that_it_names_is_taken(schema: dict[str, Any]) -> None:
    await check(schema)

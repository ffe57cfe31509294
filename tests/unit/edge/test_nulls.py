"""`null` stands for a field that is left out, in every body of every protocol."""

import json
import types
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from unittest import mock

import pytest
from annotated_types import MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from callboard_edge.app import PROTOCOLS
from callboard_edge.http.bodies import parse
from callboard_edge.protocols.openai.bodies import ChatCompletionBody
from tests.unit.edge.harness import EdgeHarness, asking, frames

pytestmark = pytest.mark.unit

SAMPLES: dict[tuple[str, str], Any] = {
    ("FunctionSpec", "name"): "dim",
    ("JsonSchema", "name"): "shape",
    ("ToolDefinition", "name"): "dim",
}
"""Values of required fields whose pattern does not allow any text."""


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def all_bodies(model: type[BaseModel], found: dict[type[BaseModel], None]) -> None:
    if model not in found:
        found[model] = None
        for field in model.model_fields.values():
            for inner in models_in(field.annotation):
                all_bodies(inner, found)


def bodies() -> list[type[BaseModel]]:
    found: dict[type[BaseModel], None] = {}
    # The spirit box has no bodies of requests, and digests its password.
    context = mock.MagicMock(spirit_box=None)
    for protocol in PROTOCOLS:
        for route in protocol.routes(context):
            if route.body is not None:
                all_bodies(route.body, found)
    return list(found)


def value_of(annotation: Any, field: FieldInfo | None = None) -> Any:
    """A value that a required field takes."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return value_of(parts[0])
    if origin in {Union, types.UnionType}:
        return value_of(parts[0])
    if origin is Literal:
        return parts[0]
    if origin is list:
        least = next((each.min_length for each in field.metadata if isinstance(each, MinLen)), 0) if field else 0
        return [value_of(parts[0])] * least
    if origin is dict:
        return {}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return least_body(annotation)
    return {str: "x", int: 1, float: 1.0, bool: True, Decimal: 1}[annotation]


def least_body(model: type[BaseModel]) -> dict[str, Any]:
    """The smallest body that a model takes."""
    return {
        field.alias or name: SAMPLES.get((model.__name__, name)) or value_of(field.annotation, field)
        for name, field in model.model_fields.items()
        if field.is_required()
    }


def test_every_optional_field_may_be_null() -> None:
    found = bodies()
    assert {"ChatCompletionBody", "CompletionBody", "SpeechBody", "ChatTurn", "FunctionSpec"} <= {
        model.__name__ for model in found
    }
    tried = 0
    for model in found:
        least = least_body(model)
        without = parse(model, json.dumps(least).encode())
        for name, field in model.model_fields.items():
            if field.is_required():
                continue
            tried += 1
            with_null = parse(model, json.dumps({**least, field.alias or name: None}).encode())
            assert with_null == without, f"{model.__name__}.{name}"
    assert tried > 60


async def test_body_of_nulls_means_what_the_empty_one_means(harness: EdgeHarness) -> None:
    nulls = {name: None for name, field in ChatCompletionBody.model_fields.items() if not field.is_required()}
    worker = harness.plays(frames("x"))
    assert (await harness.post("/v1/chat/completions", asking()))[0] == 200
    plain = (await worker).request
    worker = harness.plays(frames("x"))
    assert (await harness.post("/v1/chat/completions", {**nulls, **asking()}))[0] == 200
    assert (await worker).request == plain

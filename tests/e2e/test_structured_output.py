"""Replies under JSON schemas, from the real engine through the edge: each is obeyed or refused by name."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Generator
from random import Random
from typing import Any

import openai
import pytest
from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for

from tests.support.deployment import Deployment
from tests.support.models import CHAT_MODEL, built_in_config, missing_model_files
from tests.support.random_schemas import random_schema

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(bool(missing_model_files()), reason=f"model files missing: {', '.join(missing_model_files())}"),
]

Json = dict[str, Any]
LIMIT = 40
RANDOM_SCHEMAS = 24
MEMORY_LIMIT_MIB = 3072
QUESTION: Any = [{"role": "user", "content": 'Write JSON with quotes " " and line breaks'}]


def having(**keywords: Any) -> Json:
    """An object whose one property has these keywords."""
    return {"type": "object", "properties": {"x": keywords}, "required": ["x"], "additionalProperties": False}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Generator[Deployment]:
    config = built_in_config()
    # With one thread an engine does not wait for a thread that a loaded machine keeps from its processor.
    config["chat"]["pools"]["local"] |= {"memory_limit_mib": MEMORY_LIMIT_MIB, "threads": 1}
    deployment = Deployment(tmp_path_factory.mktemp("structured"), config)
    with deployment.running():
        yield deployment


@pytest.fixture
async def client(site: Deployment) -> AsyncGenerator[openai.AsyncOpenAI]:
    key = await asyncio.to_thread(site.create_key, "standard")
    async with openai.AsyncOpenAI(base_url=site.base_url, api_key=key, max_retries=0, timeout=240) as one:
        yield one


async def reply_to(client: openai.AsyncOpenAI, schema: Json, **fields: Any) -> tuple[str, str]:
    """A reply's text and why it ended."""
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    asked: Any = {"response_format": form, "max_tokens": LIMIT, **fields}
    reply = await client.chat.completions.create(model=CHAT_MODEL, messages=QUESTION, **asked)
    return reply.choices[0].message.content or "", reply.choices[0].finish_reason


PATTERNS = (
    r"^\d{4}-\d{2}-\d{2}$", '^"[a-z]{2}"$', r"^a\tb$", r"^a\\b$", r"^[^a]{5}$", r"^\\u\w{3}$", r'^[^"\\]{4}$',
    '^"\\S\n$', r"^\W{3}$", r"^(?:\n|\\)[x-z]$", r"^\u00e9\s\/$", "[!-#]{2}$", r"^\D\S$", r'^\{"\}$',
)  # fmt: skip


async def test_patterns_are_obeyed(client: openai.AsyncOpenAI) -> None:
    async def check(pattern: str, temperature: int) -> None:
        schema = having(type="string", pattern=pattern, maxLength=16)
        text, reason = await reply_to(client, schema, temperature=temperature, seed=1)
        assert reason == "stop", pattern
        assert re.search(pattern, json.loads(text)["x"]), (pattern, text)

    await asyncio.gather(*(check(pattern, temperature) for pattern in PATTERNS for temperature in (0, 2)))


TREE: Json = {
    "type": "object",
    "properties": {"t": {"enum": ["div", "p"]}, "children": {"type": "array", "items": {"$ref": "#"}, "maxItems": 1}},
    "required": ["t", "children"],
    "additionalProperties": False,
}
OBEYED: dict[str, Json] = {
    "a range": having(type="number", minimum=0, maximum=1),
    "an open range": having(type="integer", exclusiveMinimum=5, maximum=7),
    "a range of draft 4": {
        "$schema": "http://json-schema.org/draft-04/schema#",
        **having(type="integer", minimum=5, exclusiveMinimum=True, maximum=7),
    },
    "multiples": having(type="integer", multipleOf=7, minimum=10, maximum=50),
    "a root reference": TREE,
    "boolean schemas": {"type": "object", "properties": {"n": {"type": "integer"}, "meta": True}, "required": ["n"]},
    "a tuple of draft 7": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **having(type="array", items=[{"type": "integer"}, {"type": "boolean"}], additionalItems=False, minItems=2),
    },
    "contains": having(type="array", contains={"const": 5}, items={"type": "integer"}, maxItems=3),
    "names": having(type="object", propertyNames={"enum": ["a", "b"]}, minProperties=1),
    "dependencies": having(type="object", properties={"a": {}, "b": {}}, required=["a"], dependencies={"a": ["b"]}),
    "two of three": having(
        type="object",
        properties={name: {"type": "boolean"} for name in "abc"},
        additionalProperties=False,
        minProperties=2,
        maxProperties=2,
    ),
    "alternatives told apart by a number": having(
        oneOf=[{"type": "object", "properties": {"n": {"const": n}}, "required": ["n"]} for n in range(3)]
    ),
    "formats": {
        "type": "object",
        "properties": {name: {"type": "string", "format": name} for name in ("date", "time", "ipv4", "uuid")},
        "required": ["date", "time", "ipv4"],
        "additionalProperties": False,
    },
}


async def test_keywords_are_obeyed(client: openai.AsyncOpenAI) -> None:
    async def check(name: str, temperature: int) -> None:
        schema = OBEYED[name]
        text, reason = await reply_to(client, schema, temperature=temperature, seed=2)
        assert reason in {"stop", "length"}, name
        if reason == "stop":
            validator = validator_for(schema, default=Draft202012Validator)(schema)
            assert validator.is_valid(json.loads(text)), (name, text)

    await asyncio.gather(*(check(name, temperature) for name in OBEYED for temperature in (0, 2)))


REFUSED: dict[str, tuple[Json, str]] = {
    "items that contradict": (
        having(type="array", items={"type": "boolean"}, minItems=5, maxItems=2),
        "minItems (5) is greater than maxItems (2) at 'x'",
    ),
    "numbers that contradict": (
        having(type="integer", minimum=5, maximum=2),
        "minimum (5) is greater than maximum (2)",
    ),
    "look-around": (having(type="string", pattern="^(?=a)b$"), "'pattern' at 'properties/x': it has a look-around"),
    "a back-reference": (having(type="string", pattern=r"(a)\1"), "a back-reference"),
    "unique items": (having(type="array", uniqueItems=True), "'uniqueItems' at 'properties/x'"),
    "a condition": (having(**{"if": {"type": "string"}, "then": {"minLength": 2}}), "'if' at 'properties/x'"),
    "another document": (having(**{"$ref": "https://example.com/x.json"}), "'$ref' at 'properties/x'"),
    "a keyword that is not known": (having(type="integer", minimun=5), "'minimun' at 'properties/x'"),
    "a format that is not known": (having(type="string", format="iban"), "'format' at 'properties/x'"),
    "alternatives that overlap": (having(oneOf=[{"type": "number"}, {"type": "integer"}]), "'oneOf'"),
    "many optional properties": (
        {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(2000)}},
        "too complex",
    ),
}


async def test_what_cannot_be_obeyed_is_refused_by_name(client: openai.AsyncOpenAI) -> None:
    for name, (schema, words) in REFUSED.items():
        with pytest.raises(openai.BadRequestError) as refused:
            await reply_to(client, schema)
        assert words in refused.value.message, name
        assert refused.value.param == "response_format.json_schema.schema", name


async def test_json_object_beside_a_schema_obeys_it(client: openai.AsyncOpenAI) -> None:
    schema = having(type="boolean")
    text, reason = await reply_to(client, {}, response_format={"type": "json_object", "schema": schema}, temperature=2)
    assert reason == "stop"
    assert isinstance(json.loads(text)["x"], bool)


async def test_stops_see_only_the_reply(client: openai.AsyncOpenAI) -> None:
    text, reason = await reply_to(client, having(type="boolean"), stop=["```"], temperature=0)
    assert reason == "stop"
    assert isinstance(json.loads(text)["x"], bool)


async def test_random_schemas_are_obeyed_at_any_temperature(client: openai.AsyncOpenAI) -> None:
    chance = Random(10)
    complete: list[Json] = []

    async def check(schema: Json, seed: int) -> None:
        try:
            text, reason = await reply_to(client, schema, temperature=seed % 3, seed=seed)
        except openai.BadRequestError as error:
            refusals.append((error.param, error.message, schema))
            return
        assert reason in {"stop", "length"}, schema
        if reason == "stop":
            complete.append(schema)
            assert Draft202012Validator(schema).is_valid(json.loads(text)), (schema, text)

    refusals: list[tuple[str | None, str, Json]] = []
    await asyncio.gather(*(check(random_schema(chance), seed) for seed in range(RANDOM_SCHEMAS)))
    assert [one for one in refusals if one[0] != "response_format.json_schema.schema"] == []
    assert complete

"""Schemas and grammars that freeze or blow up engines, past the edge's checks, on the real llama.cpp."""

import json
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from callboard_chat.settings import DEFAULT_MODEL_FILE
from callboard_contracts.config import SiteSection
from callboard_contracts.errors import ErrorCode
from callboard_kit.model_files import model_path
from tests.integration.chat.edge_stub import MODEL, POOL, EdgeStub
from tests.support.nats_server import NatsServer
from tests.support.ports import free_port
from tests.support.processes import Service

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

LIMIT = 12
REFUSED = {ErrorCode.INVALID_REQUEST, ErrorCode.UNSUPPORTED}
OF_TOOLS = {ErrorCode.ENGINE_FAILED, ErrorCode.CONTEXT_LENGTH_EXCEEDED}
"""The model reads the parameters of tools, which may be too long for it; what only guides it a call may break."""


def having(**keywords: Any) -> dict[str, Any]:
    """An object whose one property has these keywords."""
    return {"type": "object", "properties": {"x": keywords}, "required": ["x"], "additionalProperties": False}


def string(pattern: str) -> dict[str, Any]:
    return having(type="string", pattern=pattern)


def optional(count: int) -> dict[str, Any]:
    properties = {f"p{number}": {"type": "string"} for number in range(count)}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "boolean"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema, "minItems": 50, "maxItems": 100}
    return schema


BOOLEANS = {"type": "array", "items": {"type": "boolean"}}
SCHEMAS: dict[str, dict[str, Any]] = {
    "items that contradict": having(**BOOLEANS, minItems=5, maxItems=2),
    "lengths that contradict": having(type="string", minLength=5, maxLength=2),
    "numbers that contradict": having(type="integer", minimum=5, maximum=2),
    "properties that contradict": {"type": "object", "minProperties": 5, "maxProperties": 2},
    "a type that contradicts its value": having(type="string", const=1),
    "many items": having(**BOOLEANS, minItems=100_000),
    "a long string": having(type="string", minLength=1_000_000),
    "many optional characters": {"type": "string", "pattern": "^(.?.?.?.?.?.?.?.?.?.?){190}$"},
    "many repeats": string("^" + "a*" * 2000 + "$"),
    "repeats of repeats": string("^((.?.?){30}){30}$"),
    "states without end": string("^(a|b)*a(a|b){300}$"),
    "an ambiguous pattern": string("^(x+x+)+y$"),
    "a pattern that looks ahead": string("^(?=a)b$"),
    "700 optional properties": optional(700),
    "2000 optional properties": optional(2000),
    "nested arrays": nested(8),
    "deep nesting": nested(30),
    "ambiguous recursion": {"anyOf": [{"type": "array", "items": {"$ref": "#"}} for _ in range(16)]},
    "many alternatives": having(anyOf=[{"type": "string", "maxLength": number} for number in range(1000)]),
    "many values": {"enum": [f"value {number}" for number in range(5000)]},
    "a keyword that is not known": {"type": "object", "not": {"required": ["x"]}},
    "a reference elsewhere": {"$ref": "http://localhost/schema"},
}
GRAMMARS: dict[str, str] = {
    "ambiguous recursion": "root ::= "
    + " | ".join("abcdefgh")
    + "".join(f'\n{c} ::= "a" root | "a"' for c in "abcdefgh"),
    "optional rules": "root ::= a0" + "".join(f"\na{n} ::= a{n + 1}? a{n + 1}?" for n in range(16)) + '\na16 ::= "a"?',
    "many optional characters": "root ::= " + '"a"? ' * 2000,
    "many alternatives": "root ::= " + " | ".join(f'"a{number}"' for number in range(3000)),
    "many repeats": 'root ::= (("a"{0,300}){0,300}){0,300}',
    "nothing": "root ::= [^\\x00-\\U0010ffff]",
    "deep nesting": "root ::= " + "(" * 5000 + '"a"' + ")" * 5000,
    "no grammar": "root ::= (((",
    "the engine's own directives": "%llguidance {}\nstart: /(.?){5000}/",
}


@pytest.fixture
def worker(server: NatsServer, tmp_path: Path) -> Generator[Service]:
    if not model_path(SiteSection(), DEFAULT_MODEL_FILE).exists():
        pytest.skip("no model: run `make models`")
    port = free_port()
    table = {
        "nats": {"url": server.url},
        "chat": {
            "pools": {POOL: {"backend": "llamacpp", "slots": 2, "threads": 1, "metrics_port": port}},
            "models": {MODEL: {"pool": POOL, "context_tokens": 512}},
        },
    }
    module = "tests.integration.chat.limited_worker"
    service = Service("chat", module, table, tmp_path, health_port=port, arguments=("--pool", POOL))
    service.start()
    service.wait_ready()
    yield service
    service.running.kill()


async def test_no_schema_or_grammar_harms_the_worker_or_a_neighbour(edge_stub: EdgeStub, worker: Service) -> None:
    # The first grammar of all takes some memory for good.
    for warming in ({"kind": "text"}, {"kind": "json_object"}):
        await edge_stub.end(await edge_stub.post(limit=4, output_format=warming), timeout_s=60)
    before_mb = worker.running.resident_mb
    formats = [(name, {"kind": "json_schema", "json_schema": schema}) for name, schema in SCHEMAS.items()]
    formats += [(name, {"kind": "grammar", "grammar": grammar}) for name, grammar in GRAMMARS.items()]
    seen: dict[str, str] = {}
    for name, output_format in formats:
        hostile = await edge_stub.post(limit=LIMIT, life_s=60, output_format=output_format)
        neighbour = await edge_stub.post(limit=4, life_s=60)
        # Enough for what others run on the same machine; without bounds, these take minutes.
        last = await edge_stub.end(neighbour, timeout_s=55)
        assert last.end is not None, name
        assert last.end.reason == "length", name
        last = await edge_stub.end(hostile, timeout_s=55)
        assert last.end is not None, name
        error = last.end.error
        assert error is None or error.code in REFUSED, (name, error)
        seen[name] = edge_stub.text(hostile) if error is None else error.message
        if last.end.reason == "stop" and output_format["kind"] == "json_schema":
            json.loads(edge_stub.text(hostile))
    assert worker.alive
    assert worker.running.resident_mb < before_mb * 1.1 + 16, seen
    text = worker.running.output()
    assert "localhost/schema" not in text
    assert '"a"' not in text


HEAVY = (
    "many optional characters",
    "repeats of repeats",
    "states without end",
    "an ambiguous pattern",
    "700 optional properties",
    "ambiguous recursion",
)


async def test_no_parameters_of_tools_harm_the_worker_or_a_neighbour(edge_stub: EdgeStub, worker: Service) -> None:
    resident_mb: list[float] = []
    for _ in range(2):
        # What is loaded and kept for good comes with the first round.
        for name in HEAVY:
            parameters = {"type": "object", "properties": {"x": SCHEMAS[name]}, "required": ["x"]}
            tools = ({"name": "f", "parameters": parameters},)
            hostile = await edge_stub.post(limit=30, life_s=60, tools=tools, tool_choice="f")
            neighbour = await edge_stub.post(limit=4, life_s=60)
            last = await edge_stub.end(neighbour, timeout_s=55)
            assert last.end is not None, name
            assert last.end.reason == "length", name
            last = await edge_stub.end(hostile, timeout_s=55)
            assert last.end is not None, name
            error = last.end.error
            assert error is None or error.code in REFUSED | OF_TOOLS, (name, error)
        resident_mb.append(worker.running.resident_mb)
    assert worker.alive
    assert resident_mb[1] < resident_mb[0] * 1.1 + 16


@pytest.mark.parametrize(
    ("pattern", "said"),
    [(r"^\d{4}-\d{2}$", r"\d{4}-\d{2}"), (r"^a\tb$", r"a\tb"), (r"^a\\b$", r"a\\b"), ("^[^a]{3}$", "[^a]{3}")],
)
async def test_pattern_is_obeyed(edge_stub: EdgeStub, worker: Service, pattern: str, said: str) -> None:
    job = await edge_stub.post(limit=40, output_format={"kind": "json_schema", "json_schema": string(pattern)})
    last = await edge_stub.end(job, timeout_s=30)
    assert last.end is not None
    assert last.end.reason == "stop"
    assert re.fullmatch(said, json.loads(edge_stub.text(job))["x"])

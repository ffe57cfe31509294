"""What is attacked: every route of every protocol, with an ordinary request as the point of departure.

A protocol joins by what its suites in tests/protocols bring. One that can hold replies to JSON schemas adds an entry to
`SCHEMA_CARRIERS`, and one whose text goes to the engine without a template an entry to `UNTEMPLATED`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from pydantic import BaseModel

from callboard_edge.app import PROTOCOLS
from callboard_edge.http.protocol import Protocol
from callboard_edge.http.route import Method
from tests.hostile.schemas import values_of
from tests.protocols.dialect import Dialect, HearingDialect, Request, TextDialect
from tests.protocols.membership import dialects, routes
from tests.protocols.suite import ErrorSuite, RequestSuite
from tests.protocols.test_anthropic import PATH, AnthropicText
from tests.protocols.test_kobold import KoboldStream, KoboldText
from tests.protocols.test_ollama import OllamaText
from tests.protocols.test_openai import OpenAIChat, OpenAICompletions, OpenAIResponses, OpenAISpeech
from tests.support.deployment import CHAT_MODEL
from tests.unit.edge.admin_harness import AdminHarness

Json = Any
ORDINARY_TEXT = "Say hi."
ORDINARY_TOKENS = 8


def _openai_schema(schema: Json) -> Request:
    form = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    messages = [{"role": "user", "content": "Give an example as JSON."}]
    body = {"model": CHAT_MODEL, "messages": messages, "max_tokens": 32, "temperature": 0, "response_format": form}
    return Request(OpenAIChat.path, json.dumps(body).encode())


def _ollama_schema(schema: Json) -> Request:
    messages = [{"role": "user", "content": "Give an example as JSON."}]
    options = {"num_predict": 32, "temperature": 0}
    body = {"model": CHAT_MODEL, "messages": messages, "options": options, "format": schema, "stream": False}
    return Request(OllamaText.path, json.dumps(body).encode())


def _anthropic_schema(schema: Json) -> Request:
    messages = [{"role": "user", "content": "Give an example as JSON."}]
    body = {"model": CHAT_MODEL, "messages": messages, "max_tokens": 32, "temperature": 0}
    form = {"format": {"type": "json_schema", "schema": schema}}
    return Request(PATH, json.dumps({**body, "output_config": form}).encode())


def _responses_schema(schema: Json) -> Request:
    form = {"type": "json_schema", "name": "x", "strict": True, "schema": schema}
    asked = {"input": "Give an example as JSON.", "max_output_tokens": 32, "temperature": 0, "text": {"format": form}}
    return Request(OpenAIResponses.path, json.dumps({"model": CHAT_MODEL, **asked}).encode())


@dataclass(frozen=True, slots=True)
class SchemaCarrier:
    """A way to ask for a reply that satisfies a JSON schema; `complete` is the reason of one that was not cut."""

    dialect: TextDialect
    complete: str
    request: Callable[[Json], Request]


SCHEMA_CARRIERS: tuple[SchemaCarrier, ...] = (
    SchemaCarrier(OpenAIChat(), "stop", _openai_schema),
    SchemaCarrier(OllamaText(), "stop", _ollama_schema),
    SchemaCarrier(AnthropicText(), "end_turn", _anthropic_schema),
    SchemaCarrier(OpenAIResponses(), "completed", _responses_schema),
)
UNTEMPLATED: tuple[type[TextDialect], ...] = (OpenAICompletions, KoboldText, KoboldStream)


@dataclass(frozen=True, slots=True)
class Target:
    """One route; `dialect` is one of its protocol, which reads the errors, and `ordinary` what may be sent."""

    dialect: Dialect
    method: Method
    path: str
    body: type[BaseModel] | None = None
    ordinary: tuple[Json, ...] = ()

    def bodies(self) -> "st.SearchStrategy[Json]":
        """JSON of the right form: ordinary requests, and what the API document allows."""
        found: list[st.SearchStrategy[Json]] = [st.sampled_from(self.ordinary)] if self.ordinary else []
        if self.body is not None:
            found.append(values_of(self.body.model_json_schema()))
        return st.one_of(found) if found else st.just({})


def ordinary(dialect: Dialect, *, stream: bool = False) -> Request:
    """What an ordinary client asks."""
    if isinstance(dialect, TextDialect):
        return dialect.ask(ORDINARY_TEXT, max_tokens=ORDINARY_TOKENS, stream=stream)
    return dialect.request_with_text(ORDINARY_TEXT)


def own_dialects() -> list[Dialect]:
    """One dialect for each way to ask a protocol that the edge speaks."""
    names = {protocol.name for protocol in PROTOCOLS}
    return [one for one in dialects(RequestSuite) if one.protocol.name in names]


def hearing_dialects() -> list[HearingDialect]:
    """One dialect for each path that takes a sound."""
    return [one for one in own_dialects() if isinstance(one, HearingDialect)]


def all_targets(protocols: Sequence[Protocol] = PROTOCOLS) -> list[Target]:
    """Every route of the protocols.

    Raises:
        LookupError: a protocol has no dialect.
    """
    by_protocol: dict[str, Dialect] = {}
    for dialect in (*dialects(ErrorSuite), *dialects(RequestSuite)):
        by_protocol.setdefault(dialect.protocol.name, dialect)
    by_path = {dialect.path: dialect for dialect in own_dialects()}
    asked = _ordinary_bodies()
    found: list[Target] = []
    for protocol, route in routes(protocols, AdminHarness().administration()):
        if protocol.name not in by_protocol:
            raise LookupError(f"the protocol {protocol.name} has no dialect in tests/protocols")
        dialect = by_path.get(route.path, by_protocol[protocol.name])
        bodies = asked.get(route.path, ()) if route.method == "POST" else ()
        found.append(Target(dialect, route.method, route.path, route.body, bodies))
    return found


def _ordinary_bodies() -> Mapping[str, tuple[Json, ...]]:
    found: dict[str, tuple[Json, ...]] = {}
    for dialect in own_dialects():
        bodies = [json.loads(ordinary(dialect).body)]
        if isinstance(dialect, TextDialect):
            bodies.append(json.loads(ordinary(dialect, stream=True).body))
        found[dialect.path] = (*found.get(dialect.path, ()), *bodies)
    return found


def ordinary_dialects(*, speech: bool) -> list[Dialect]:
    """A way of each protocol to ask for text and, where there is an engine for it, OpenAI's to ask for speech."""
    texts = {one.protocol.name: one for one in reversed(own_dialects()) if isinstance(one, TextDialect)}
    return [*texts.values(), *([OpenAISpeech()] if speech else [])]

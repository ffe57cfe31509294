"""The API document is true: random requests of its forms get answers of its forms, and refused ones cost nothing."""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, ValidationError
from yarl import URL

from callboard_contracts.speech import SegmentInfo, SpeechEnd
from tests.hostile.bodies import examples
from tests.hostile.schemas import values_of
from tests.hostile.targets import ordinary, own_dialects
from tests.unit.edge.harness import EdgeHarness, frames, heard, running, vectors

pytestmark = [pytest.mark.unit, pytest.mark.timeout(300)]

Json = Any
ANSWER_TIMEOUT_S = 20.0
ACCEPTED = 425
"""How Talkmaster says that a reply is being written."""
EXAMPLES = 4
"""How many random requests each operation gets."""
PARTS = st.one_of(st.text(min_size=1, max_size=12), st.sampled_from(["owl", "..", "%", "~", "resp_1", "nobody"]))


@dataclass(frozen=True, slots=True)
class Operation:
    """One method on one path, as the document has it."""

    method: str
    path: str
    parts: Mapping[str, Json]

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def parameters(self, place: str) -> dict[str, Json]:
        """The schemas of its parameters in the path or in the query."""
        found = self.parts.get("parameters", ())
        return {one["name"]: one["schema"] for one in found if one["in"] == place}

    def required(self) -> set[str]:
        """The parameters of the query that must be there."""
        return {one["name"] for one in self.parts.get("parameters", ()) if one["required"]}


class Document:
    """What the edge says of itself."""

    def __init__(self, content: Json) -> None:
        self.content = content
        self.operations = [
            Operation(method.upper(), path, parts)
            for path, methods in content["paths"].items()
            for method, parts in methods.items()
        ]

    def strategy(self, operation: Operation) -> "st.SearchStrategy[tuple[str, bytes | None]]":
        """Requests of the documented form: their path, and their body where they have one."""
        fields = dict.fromkeys(operation.parameters("path"), PARTS)
        query = {
            name: st.one_of(PARTS, values_of(schema, self.schemas).map(_as_text))
            for name, schema in operation.parameters("query").items()
        }
        required = operation.required()
        paths = st.builds(
            lambda parts, asked: _filled(operation.path, parts, asked),
            st.fixed_dictionaries(fields),
            st.fixed_dictionaries(
                {name: one for name, one in query.items() if name in required},
                optional={name: one for name, one in query.items() if name not in required},
            ),
        )
        return st.tuples(paths, self._bodies(operation))

    @property
    def schemas(self) -> Json:
        """The schemas that others refer to."""
        return self.content["components"]["schemas"]

    def check(self, operation: Operation, status: int, content_type: str, body: bytes | None) -> None:
        """Fails where an answer is not as documented; of a stream the beginning was read at most, as None."""
        responses = operation.parts["responses"]
        documented = responses.get(str(status)) or (responses["default"] if 400 <= status < 500 else None)
        assert documented is not None, f"{operation}: {status} is not documented: {body!r:.300}"
        content = documented.get("content", {})
        if status >= 400 or not content:
            return
        assert content_type in content, f"{operation}: {content_type} is not documented"
        if content_type == "application/json" and body is not None:
            schema = content[content_type]["schema"]
            Draft202012Validator({**schema, "components": self.content["components"]}).validate(json.loads(body))

    def _bodies(self, operation: Operation) -> "st.SearchStrategy[bytes | None]":
        if "requestBody" not in operation.parts:
            return st.none()
        schema = operation.parts["requestBody"]["content"]["application/json"]["schema"]
        values = values_of(schema, self.schemas)
        usual = [
            json.loads(ordinary(dialect, stream=stream).body)
            for dialect in own_dialects()
            for stream in (False, True)
            if ordinary(dialect, stream=stream).path == operation.path
        ]
        if usual:
            # Most random requests are refused; one field beside those of an ordinary one is often not.
            more = st.tuples(st.sampled_from(usual), values).map(lambda pair: {**_one_of(pair[1]), **pair[0]})
            values = st.one_of(st.sampled_from(usual), more, values)
        return values.map(json.dumps).map(str.encode)


def _one_of(value: Json) -> Json:
    return dict(list(value.items())[-1:]) if isinstance(value, dict) else {}


def _as_text(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _filled(path: str, parts: Mapping[str, str], asked: Mapping[str, str]) -> str:
    for name, value in parts.items():
        path = path.replace(f"{{{name}}}", quote(value, safe="", errors="replace"))
    query = "&".join(f"{name}={quote(value, safe='', errors='replace')}" for name, value in asked.items())
    return f"{path}?{query}" if query else path


class Workers:
    """Workers that take every job."""

    def __init__(self, edge: EdgeHarness) -> None:
        self._edge = edge
        for work in (self._chat, self._embed, self._speak, self._hear):
            edge.workers.append(asyncio.ensure_future(self._repeat(work)))

    async def _repeat(self, work: Any) -> None:
        while True:
            with suppress(TimeoutError):
                await work()

    async def _chat(self) -> None:
        await self._edge.worker(frames("Hoo", "."))

    async def _embed(self) -> None:
        job = await self._edge.jobs.next_embedding()
        for frame in vectors(*[(1.0, 0.5)] * len(job.request.inputs)):
            self._edge.replies.send_vectors(job.request_id, frame)
        self._edge.jobs.finish(job.request_id)

    async def _speak(self) -> None:
        job = await self._edge.jobs.next_speech()
        say, sound = self._edge.replies.say, b"\0" * 4800
        say(job.request_id, 0, SegmentInfo(attempt=1, piece=0, offset_bytes=0, piece_done=True), sound)
        end = SpeechEnd(reason="stop", audio_ms=100)
        say(job.request_id, 1, SegmentInfo(attempt=1, piece=1, offset_bytes=0, end=end), b"")
        self._edge.jobs.finish(job.request_id)

    async def _hear(self) -> None:
        job = await self._edge.jobs.next_transcription()
        for frame in heard("Hoo."):
            self._edge.replies.write_down(job.request_id, frame)
        self._edge.jobs.finish(job.request_id)


async def read_document(edge: EdgeHarness) -> Document:
    async with edge.session.get(edge.url + "/openapi.json") as reply:
        return Document(await reply.json())


async def test_document_has_the_form_of_such_documents(harness: EdgeHarness) -> None:
    document = await read_document(harness)
    for schema in document.schemas.values():
        Draft202012Validator.check_schema(schema)
    names = [operation.parts["operationId"] for operation in document.operations]
    assert len(names) == len(set(names))
    for operation in document.operations:
        assert operation.parts["responses"], operation
        assert {part[1:-1] for part in operation.path.split("/") if part.startswith("{") and part.endswith("}")} <= set(
            operation.parameters("path")
        ), operation
        assert ("requestBody" in operation.parts) <= (operation.method in {"POST", "PUT", "PATCH", "DELETE"}), operation


async def test_answers_are_as_documented_and_refused_requests_cost_nothing() -> None:
    wrong: list[str] = []
    async with running() as edge:
        document = await read_document(edge)
        Workers(edge)
        for operation in document.operations:
            requests = await asyncio.to_thread(examples, document.strategy(operation), EXAMPLES, 0)
            for path, raw in requests:
                if fault := await fault_of(edge, document, operation, path, raw):
                    wrong.append(f"{operation} {path} {raw!r:.300}: {fault}")
    assert not wrong, "\n".join(wrong)


async def fault_of(
    edge: EdgeHarness, document: Document, operation: Operation, path: str, raw: bytes | None
) -> str | None:
    """What is wrong with the answer to a request."""
    # A hold that was not used goes back beside its answer.
    await edge.all_closed()
    before = len(edge.quota.held), len(edge.jobs.classes)
    try:
        status = await asked(edge, document, operation, path, raw)
    except (AssertionError, aiohttp.ClientError, TimeoutError, ValueError, ValidationError) as error:
        return f"{type(error).__name__} {error!s:.300}"
    refused = status >= 400 and status != ACCEPTED
    costs = (len(edge.quota.held), len(edge.jobs.classes)) != before
    return f"{status}, but it is held or queued" if refused and costs else None


async def asked(edge: EdgeHarness, document: Document, operation: Operation, path: str, raw: bytes | None) -> int:
    """The status of an answer that is as documented."""
    headers = {"Content-Type": "application/json"} if raw is not None else {}
    url = URL(edge.url + path, encoded=True)
    async with (
        asyncio.timeout(ANSWER_TIMEOUT_S),
        edge.session.request(operation.method, url, data=raw, headers=headers) as answer,
    ):
        endless = operation.method == "GET" and answer.content_type in {"audio/mpeg", "text/event-stream"}
        body = None if endless else await answer.read()
        document.check(operation, answer.status, answer.content_type, body)
        return answer.status

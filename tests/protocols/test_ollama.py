"""Ollama's protocol: both text paths by what is on the wire, and all of it with the real client package."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import ollama
import pytest

from callboard_contracts.errors import CATALOGUE, ErrorCode
from callboard_edge.protocols.ollama.management import REFUSED_STATUS
from callboard_edge.protocols.ollama.protocol import Ollama
from tests.protocols.cut_suite import CutSuite
from tests.protocols.dialect import (
    Dialect,
    EmbeddingDialect,
    MalformedRequest,
    ParsedError,
    ParsedReply,
    Request,
    TextDialect,
)
from tests.protocols.embedding_suite import EmbeddingSuite
from tests.protocols.suite import ErrorSuite, RequestSuite
from tests.protocols.tenants import Tenant
from tests.protocols.text_suite import TextSuite
from tests.support.clients import script_text
from tests.support.deployment import CHAT_MODEL, Deployment, eventually
from tests.support.stub_chat import StubChat, numbered
from tests.support.stub_openai import Script, word_vector

CHAT, GENERATE = "/api/chat", "/api/generate"
TOLD_APART = {
    ErrorCode.QUEUE_FULL: 503,
    ErrorCode.ENGINE_FAILED: 500,
    ErrorCode.WORKER_DIED: 500,
    ErrorCode.DEADLINE_EXCEEDED: 500,
}
ERRORS = {code: (TOLD_APART.get(code, kind.status), code.value) for code, kind in CATALOGUE.items()}


def read_error(body: bytes) -> ParsedError:
    """The error in an object; plain text says that a path leads nowhere."""
    if not body.startswith(b"{"):
        return ParsedError(ErrorCode.NOT_FOUND.value, body.decode())
    found = json.loads(body)
    assert {"error", "code"} <= set(found) <= {"error", "code", "param"}
    return ParsedError(found["code"], found["error"])


class OllamaDialect(Dialect):
    """What all paths share."""

    protocol = Ollama()
    errors = ERRORS
    fields: Mapping[str, str] = {
        "output_format": '"format"',
        "output_format.json_schema": '"format"',
        "tools[0].parameters": '"tools[0].function.parameters"',
    }

    def auth_headers(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    def read_error(self, body: bytes) -> ParsedError:
        return read_error(body)

    def request(self, body: object) -> Request:
        """A request with any JSON."""
        return Request(self.path, json.dumps(body).encode())


class OllamaText(OllamaDialect, TextDialect):
    """Asks for a reply to a conversation or, by the other path, to a prompt."""

    path = CHAT

    def __init__(self, path: str = CHAT) -> None:
        self.path = path

    def prompt_of(self, text: str) -> dict[str, Any]:
        """The field that has the text."""
        return {"messages": [{"role": "user", "content": text}]} if self.path == CHAT else {"prompt": text}

    def text_of(self, part: Any) -> str:
        """The text in one object."""
        return part["message"]["content"] if self.path == CHAT else part["response"]

    def ask(
        self,
        text: str = "Hello.",
        *,
        model: str | None = CHAT_MODEL,
        stream: bool = False,
        max_tokens: int | None = 250,
        stops: Sequence[str] = (),
    ) -> Request:
        # A client that leaves the field out is streamed to.
        fields = {"model": model, "stream": None if stream else False}
        options = {"num_predict": max_tokens, "stop": list(stops) or None}
        body = {name: value for name, value in fields.items() if value is not None}
        return self.request({**body, **self.prompt_of(text), "options": options})

    def malformed(self) -> Mapping[str, MalformedRequest]:
        right = {"model": CHAT_MODEL, **self.prompt_of("Hello.")}
        (field,) = self.prompt_of("")
        bodies = {
            "unreadable": b'{"model": "owl", ',
            "empty": b"",
            "not UTF-8": json.dumps(right).encode().replace(b"Hello", b"\xff\xfe"),
            "a lone surrogate": json.dumps(right).encode().replace(b"Hello", b"\\ud800"),
            "not a number": json.dumps({**right, "options": {"temperature": float("nan")}}).encode(),
            "nested too deeply": b'{"model": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        }
        objects: dict[str, object] = {
            "missing field": {**right, "messages": [{"content": "Hello."}], "prompt": []},
            "wrong type": {**right, "model": 7},
            "wrong type of prompt": {**right, field: 7},
            "wrong type of options": {**right, "options": []},
            "wrong type of limit": {**right, "options": {"num_predict": "many"}},
            "another format": {**right, "format": "xml"},
            "another level": {**right, "think": "hard"},
            "a list": [right],
            "null": None,
        }
        found = {name: MalformedRequest(Request(self.path, body)) for name, body in bodies.items()}
        found |= {name: MalformedRequest(self.request(body)) for name, body in objects.items()}
        pictured = {"images": ["AAAA"], "messages": [{"role": "user", "images": ["AAAA"]}]}
        images = self.request({**right, **pictured})
        return {**found, "images": MalformedRequest(images, ErrorCode.UNSUPPORTED)}

    def kept_alive(self, data: bytes, times: int) -> bool:
        lines = [json.loads(line) for line in data.split(b"\n")[:-1]][:times]
        return len(lines) == times and not any(part["done"] or self.text_of(part) for part in lines)

    def read_whole(self, body: bytes) -> ParsedReply:
        found = json.loads(body)
        assert found["done"]
        return ParsedReply(self.text_of(found), found["done_reason"], complete=True)

    def read_stream(self, data: bytes) -> ParsedReply:
        text, reason, error = "", None, None
        *lines, _unfinished = data.split(b"\n")
        for line in lines:
            assert (reason, error) == (None, None)
            part = json.loads(line)
            if "error" in part:
                error = read_error(line)
                continue
            text += self.text_of(part)
            reason = part["done_reason"] if part["done"] else None
        return ParsedReply(text, reason, error, complete=reason is not None or error is not None)


class OllamaShow(OllamaDialect):
    """Asks what a model is."""

    path = "/api/show"

    def request_with_text(self, text: str) -> Request:
        return self.request({"model": CHAT_MODEL, "system": text})

    def malformed(self) -> Mapping[str, MalformedRequest]:
        return {
            "unreadable": MalformedRequest(Request(self.path, b'{"model": ')),
            "wrong type": MalformedRequest(self.request({"model": 7})),
            "missing field": MalformedRequest(Request(self.path, b"")),
        }


class OllamaEmbed(OllamaDialect, EmbeddingDialect):
    """Asks for vectors; a text that is too long is refused only where the client asks for that."""

    path = "/api/embed"

    def ask(self, *texts: str, model: str | None = CHAT_MODEL) -> Request:
        return self.request({"model": model, "input": texts[0] if len(texts) == 1 else texts, "truncate": False})

    def malformed(self) -> Mapping[str, MalformedRequest]:
        wrong: dict[str, object] = {
            "wrong type": {"input": 7},
            "an empty text": {"input": ["x", ""]},
            "numbers in text": {"input": "x", "dimensions": "many"},
            "a list": [],
        }
        found = {name: MalformedRequest(self.request(body)) for name, body in wrong.items()}
        found["missing field"] = MalformedRequest(Request(self.path, b""))
        return {"unreadable": MalformedRequest(Request(self.path, b'{"input": ')), **found}

    def read_vectors(self, body: bytes) -> Sequence[Sequence[float]]:
        return json.loads(body)["embeddings"]


class OllamaEmbeddings(OllamaDialect):
    """Asks for one vector, as older clients do."""

    path = "/api/embeddings"

    def request_with_text(self, text: str) -> Request:
        return self.request({"model": CHAT_MODEL, "prompt": text})

    def malformed(self) -> Mapping[str, MalformedRequest]:
        return {
            "unreadable": MalformedRequest(Request(self.path, b'{"prompt": ')),
            "wrong type": MalformedRequest(self.request({"model": CHAT_MODEL, "prompt": 7})),
            "missing field": MalformedRequest(Request(self.path, b"")),
        }


class TestErrors(ErrorSuite[TextDialect]):
    dialect = OllamaText()


class TestChat(TextSuite):
    dialect = OllamaText()


class TestGenerate(CutSuite):
    dialect = OllamaText(GENERATE)


class TestEmbed(EmbeddingSuite):
    dialect = OllamaEmbed()


class TestEmbeddings(RequestSuite[OllamaEmbeddings]):
    dialect = OllamaEmbeddings()


class TestShow(RequestSuite[OllamaShow]):
    dialect = OllamaShow()


HELLO = [{"role": "user", "content": "Hello."}]
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


def dim(level: int) -> str:
    """Dims the lights.

    Args:
        level: How bright they are then.
    """
    return f"{level}"


@pytest.mark.e2e
@pytest.mark.timeout(120)
class TestPackage:
    """The `ollama` package as its users use it."""

    @pytest.fixture
    async def package(self, deployment: Deployment, tenant: Tenant) -> AsyncGenerator[ollama.AsyncClient]:
        headers = {"Authorization": f"Bearer {tenant.key}"}
        client = ollama.AsyncClient(host=deployment.root_url(), headers=headers, timeout=60, trust_env=False)
        yield client
        await client.close()

    async def test_reply_is_whole_and_streamed(
        self, package: ollama.AsyncClient, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        chat_engine.plays(numbered(12))
        whole = await package.chat(CHAT_MODEL, HELLO)
        assert (whole.message.content, whole.done_reason, whole.eval_count) == (script_text(12), "stop", 12)
        assert whole.total_duration
        pieces = [piece async for piece in await package.chat(f"{CHAT_MODEL}:latest", HELLO, stream=True)]
        assert "".join(piece.message.content or "" for piece in pieces) == script_text(12)
        assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        generated = [piece async for piece in await package.generate(CHAT_MODEL, "Hello.", stream=True)]
        assert "".join(piece.response or "" for piece in generated) == script_text(12)
        assert generated[-1].context
        assert {event.outcome for event in await tenant.usage(3)} == {"stop"}

    async def test_blocking_client_is_served_too(
        self, deployment: Deployment, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        chat_engine.plays(numbered(5))

        def ask() -> tuple[str, str]:
            headers = {"Authorization": f"Bearer {tenant.key}"}
            client = ollama.Client(host=deployment.root_url(), headers=headers, timeout=60, trust_env=False)
            try:
                whole = client.generate(CHAT_MODEL, "Hello.", options={"num_predict": 3, "seed": 1})
                streamed = client.chat(CHAT_MODEL, [{"role": "system"}, *HELLO], stream=True, keep_alive="5m")
                return whole.response or "", "".join(piece.message.content or "" for piece in streamed)
            finally:
                client.close()

        assert await asyncio.to_thread(ask) == (script_text(3), script_text(5))

    async def test_structured_reply_is_asked_of_the_engine(
        self, package: ollama.AsyncClient, chat_engine: StubChat
    ) -> None:
        chat_engine.plays(Script(reply=['{"age"', ": 3}"]))
        whole = await package.chat(CHAT_MODEL, HELLO, format=SCHEMA)
        assert json.loads(whole.message.content or "") == {"age": 3}
        assert chat_engine.calls[-1]["response_format"]["type"] == "json_schema"
        whole = await package.generate(CHAT_MODEL, "Hello.", format="json")
        assert json.loads(whole.response or "") == {"age": 3}
        assert chat_engine.calls[-1]["response_format"]["type"] == "json_object"

    async def test_function_is_called_and_its_result_is_read(
        self, package: ollama.AsyncClient, chat_engine: StubChat
    ) -> None:
        chat_engine.plays(Script(tool_call={"name": "dim", "arguments": {"level": 3}}))
        pieces = [piece async for piece in await package.chat(CHAT_MODEL, HELLO, tools=[dim], stream=True)]
        (called,) = [call for piece in pieces for call in piece.message.tool_calls or ()]
        assert (called.function.name, called.function.arguments) == ("dim", {"level": 3})
        assert (pieces[-1].done_reason, pieces[-1].message.tool_calls) == ("stop", None)
        chat_engine.plays(numbered(3))
        turns = [*HELLO, pieces[0].message, {"role": "tool", "tool_name": "dim", "content": dim(3)}]
        told = await package.chat(CHAT_MODEL, turns, tools=[dim])
        assert told.message.content == script_text(3)
        *_, asked, result = chat_engine.calls[-1]["messages"]
        assert result["tool_call_id"] == asked["tool_calls"][0]["id"]
        assert json.loads(asked["tool_calls"][0]["function"]["arguments"]) == {"level": 3}

    async def test_errors_are_raised_with_their_status(
        self, package: ollama.AsyncClient, chat_engine: StubChat
    ) -> None:
        with pytest.raises(ollama.ResponseError, match="'nobody' not found") as unknown:
            await package.chat("nobody", HELLO)
        assert unknown.value.status_code == 404
        with pytest.raises(ollama.ResponseError) as refused:
            await package.pull(CHAT_MODEL)
        assert (refused.value.status_code, refused.value.error[:10]) == (REFUSED_STATUS, "the models")
        chat_engine.plays(Script(reply=[f"w{n} " for n in range(40)], error_at=4, token_delay_s=0.05))
        seen: list[str] = []

        async def read() -> None:
            async for piece in await package.chat(CHAT_MODEL, HELLO, stream=True):
                seen.append(piece.message.content or "")

        with pytest.raises(ollama.ResponseError) as failed:
            await read()
        assert (failed.value.status_code, "".join(seen)) == (-1, script_text(4))

    async def test_stream_that_is_left_stops_the_engine(
        self, package: ollama.AsyncClient, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        chat_engine.plays(numbered(240, delay_s=0.02))
        stream = await package.generate(CHAT_MODEL, "Hello.", stream=True)
        assert isinstance(stream, AsyncGenerator)
        async for _piece in stream:
            break
        await stream.aclose()
        await eventually(lambda: chat_engine.left_at > 0, 10, "the engine sees its client go")
        assert (await tenant.usage(1))[0].outcome == "cancelled"

    async def test_models_are_listed_and_described(self, package: ollama.AsyncClient) -> None:
        listed = [one.model for one in (await package.list()).models]
        assert f"{CHAT_MODEL}:latest" in listed
        assert "dodo:latest" not in listed
        running = await package.ps()
        assert f"{CHAT_MODEL}:latest" in [one.name for one in running.models]
        shown = await package.show(CHAT_MODEL)
        assert "completion" in (shown.capabilities or [])
        assert shown.modelinfo

    async def test_texts_are_embedded(self, package: ollama.AsyncClient, chat_engine: StubChat) -> None:
        found = await package.embed(CHAT_MODEL, ["An owl.", "Two owls."])
        assert [list(vector) for vector in found.embeddings] == [word_vector("An owl."), word_vector("Two owls.")]
        assert list((await package.embeddings(CHAT_MODEL, "An owl.")).embedding) == word_vector("An owl.")

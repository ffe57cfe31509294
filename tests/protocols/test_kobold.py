"""KoboldAI, KoboldCpp and text-generation-webui: every path that takes work, and replies read or stopped by key."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from callboard_contracts.errors import CATALOGUE, ErrorCode
from callboard_edge.protocols.kobold.protocol import Kobold
from tests.protocols.client import Client
from tests.protocols.conftest import NARROW
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
from tests.protocols.suite import SHORT_DEADLINE, Connect, ErrorSuite, RequestSuite
from tests.protocols.tenants import Tenant
from tests.protocols.text_suite import TextSuite
from tests.support.clients import script_text
from tests.support.deployment import CHAT_MODEL, eventually
from tests.support.stub_chat import StubChat, numbered
from tests.support.stub_openai import Script, word_vector

WHOLE = "/api/v1/generate"
STREAM = "/api/extra/generate/stream"
ERRORS = {
    **{code: (kind.status, code.value) for code, kind in CATALOGUE.items()},
    ErrorCode.QUEUE_FULL: (503, "queue_full"),
}
TYPES = {400: "bad_input", 401: "unauthorized", 429: "rate_limited", 503: "service_unavailable"}


def read_error(body: bytes) -> ParsedError:
    """The error in a `detail`."""
    found = json.loads(body)
    assert set(found) == {"detail"}
    detail = found["detail"]
    assert {"msg", "type", "code"} <= set(detail)
    code = ErrorCode(detail["code"])
    assert detail["type"] == TYPES.get(ERRORS[code][0], detail["type"])
    return ParsedError(detail["code"], detail["msg"])


def read_events(data: bytes) -> list[Any]:
    """Events as KoboldAI Lite finds them: `event:`, and `data:` on the very next line; all else is passed over."""
    assert b"\r" not in data
    *blocks, _unfinished = data.decode("utf-8", "ignore").split("\n\n")
    found: list[Any] = []
    for block in blocks:
        if block.startswith(":"):
            continue
        event, content = block.split("\n")
        assert event == "event: message"
        assert content.startswith("data: ")
        found.append(json.loads(content.removeprefix("data: ")))
    return found


class KoboldDialect(Dialect):
    """What all paths share."""

    protocol = Kobold()
    errors = ERRORS
    fields: Mapping[str, str] = {
        "output_format": '"grammar"',
        "output_format.json_schema": '"grammar"',
        "tools[0].parameters": "",
    }

    def auth_headers(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    def read_error(self, body: bytes) -> ParsedError:
        return read_error(body)

    def request(self, body: object) -> Request:
        """A request with any JSON."""
        return Request(self.path, json.dumps(body).encode())


class KoboldText(KoboldDialect, TextDialect):
    """Continues a text: whole by one path, streamed by another."""

    path = WHOLE
    keep_alive = b": keep-alive\n\n"

    def ask(
        self,
        text: str = "Hello.",
        *,
        model: str | None = CHAT_MODEL,
        stream: bool = False,
        max_tokens: int | None = 250,
        stops: Sequence[str] = (),
    ) -> Request:
        body: dict[str, Any] = {"prompt": text, "max_length": max_tokens, "stop_sequence": list(stops), "model": model}
        path = STREAM if stream else WHOLE
        return Request(path, json.dumps({key: value for key, value in body.items() if value is not None}).encode())

    def malformed(self) -> Mapping[str, MalformedRequest]:
        right = {"model": CHAT_MODEL, "prompt": "Hello."}
        bodies = {
            "unreadable": b'{"model": "owl", ',
            "empty": b"",
            "not UTF-8": json.dumps(right).encode().replace(b"Hello", b"\xff\xfe"),
            "a lone surrogate": json.dumps(right).encode().replace(b"Hello", b"\\ud800"),
            "not a number": json.dumps({**right, "temperature": float("nan")}).encode(),
            "nested too deeply": b'{"model": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        }
        objects: dict[str, object] = {
            "missing field": {"model": CHAT_MODEL},
            "wrong type": {**right, "prompt": 7},
            "wrong type of model": {**right, "model": 7},
            "wrong type of limit": {**right, "max_length": "many"},
            "a list": [right],
            "null": None,
        }
        found = {name: MalformedRequest(Request(self.path, body)) for name, body in bodies.items()}
        found |= {name: MalformedRequest(self.request(body)) for name, body in objects.items()}
        images = self.request({**right, "images": ["AAAA"]})
        return {**found, "images": MalformedRequest(images, ErrorCode.UNSUPPORTED)}

    def read_whole(self, body: bytes) -> ParsedReply:
        (result,) = json.loads(body)["results"]
        return ParsedReply(result["text"], result["finish_reason"], complete=True)

    def read_stream(self, data: bytes) -> ParsedReply:
        text, reason, error = "", None, None
        for event in read_events(data):
            assert (reason, error) == (None, None)
            text += event["token"]
            if event["finish_reason"] == "error":
                error = ParsedError(event["error"]["code"], event["error"]["message"])
            else:
                reason = event["finish_reason"]
        return ParsedReply(text, reason, error, complete=reason is not None or error is not None)


class KoboldStream(KoboldText):
    """The same, for whom a request is one for a stream."""

    path = STREAM

    def request_with_text(self, text: str) -> Request:
        return self.ask(text, stream=True)


class KoboldPath(KoboldDialect):
    """A path that takes an object: `text_field` holds a text, `others` is what else is needed.

    `missing` is a body that lacks what it needs; none does where nothing is needed.
    """

    def __init__(self, path: str, text_field: str, *, missing: object = (), **others: Any) -> None:
        self.path = path
        self._text_field = text_field
        self._missing = missing
        self._others = others

    def request_with_text(self, text: str) -> Request:
        return self.request({**self._others, self._text_field: text})

    def malformed(self) -> Mapping[str, MalformedRequest]:
        cases = {
            "unreadable": Request(self.path, b'{"genkey": '),
            "wrong type": self.request({**self._others, self._text_field: {}}),
            "missing field": self.request(self._missing),
            "a list": self.request([]),
        }
        return {name: MalformedRequest(request) for name, request in cases.items()}


class KoboldEmbeddings(KoboldDialect, EmbeddingDialect):
    """`/api/extra/embeddings`; a text that is too long is refused only where the client asks for that."""

    path = "/api/extra/embeddings"

    def ask(self, *texts: str, model: str | None = CHAT_MODEL) -> Request:
        given = texts[0] if len(texts) == 1 else texts
        return self.request({"model": model, "input": given, "truncate": False})

    def malformed(self) -> Mapping[str, MalformedRequest]:
        wrong: dict[str, object] = {
            "missing field": {},
            "wrong type": {"input": 7},
            "an empty text": {"input": ["x", ""]},
            "an unknown encoding": {"input": "x", "encoding_format": "hex"},
            "a list": [],
        }
        found = {name: MalformedRequest(self.request(body)) for name, body in wrong.items()}
        return {"unreadable": MalformedRequest(Request(self.path, b'{"input": ')), **found}

    def read_vectors(self, body: bytes) -> Sequence[Sequence[float]]:
        return [item["embedding"] for item in json.loads(body)["data"]]


class TestEmbeddings(EmbeddingSuite):
    dialect = KoboldEmbeddings()

    async def test_long_text_is_cut_and_no_model_need_be_named(
        self, client: Client, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        chat_engine.plays(Script(context_tokens=10))
        answer = await client.ask(KoboldEmbeddings().request({"input": ["An owl.", "word " * 40], "model": None}))
        assert answer.status == 200
        vectors = self.dialect.read_vectors(answer.body)
        assert list(vectors[0]) == word_vector("An owl.")
        assert 0 < vectors[1][0] <= 10
        (event,) = await tenant.usage(1)
        assert event.work.prompt_tokens == 2 + vectors[1][0]


class TestErrors(ErrorSuite[TextDialect]):
    dialect = KoboldText()


class TestGenerate(TextSuite):
    dialect = KoboldText()

    async def test_reply_is_read_by_its_key_and_stopped_on_another_edge(
        self, client: Client, connect: Connect, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        chat_engine.plays(numbered(240, delay_s=0.02))
        key = json.dumps({"genkey": "KCPP4821"}).encode()
        other = connect(SHORT_DEADLINE)
        body = {"prompt": "Hello.", "max_length": 240, "genkey": "KCPP4821", "model": NARROW}
        async with asyncio.TaskGroup() as group:
            whole = group.create_task(client.ask(Request(WHOLE, json.dumps(body).encode())))
            await eventually(lambda: chat_engine.active == 1, 10, "the reply is being written")
            seen = ""
            for asked in (client, other):
                async with asyncio.timeout(20):
                    while not seen.count(" ") > 5:
                        answer = await asked.ask(Request("/api/extra/generate/check", key))
                        seen = json.loads(answer.body)["results"][0]["text"]
                assert script_text(240).startswith(seen)
                seen = ""
            stranger = await connect(key="").ask(Request("/api/extra/abort", key))
            assert json.loads(stranger.body) == {"success": "false", "done": "false"}
            stopped = await other.ask(Request("/api/extra/abort", key))
            assert json.loads(stopped.body) == {"success": "true", "done": "true"}
        reply = self.dialect.read_whole(whole.result().body)
        assert (whole.result().status, reply.reason) == (200, "length")
        assert script_text(240).startswith(reply.text)
        assert 5 < reply.text.count(" ") < 240
        await eventually(lambda: chat_engine.left_at > 0, 10, "the engine is told to stop")
        (event,) = await tenant.usage(1)
        assert event.outcome == "cancelled"
        assert event.work.completion_tokens >= reply.text.count(" ")


class TestLatest(RequestSuite[KoboldPath]):
    dialect = KoboldPath("/api/latest/generate", "prompt", missing={})


class TestStream(RequestSuite[TextDialect]):
    dialect = KoboldStream()


class TestCheck(RequestSuite[KoboldPath]):
    dialect = KoboldPath("/api/extra/generate/check", "genkey")


class TestAbort(RequestSuite[KoboldPath]):
    dialect = KoboldPath("/api/extra/abort", "genkey")


class TestLastLogprobs(RequestSuite[KoboldPath]):
    dialect = KoboldPath("/api/extra/last_logprobs", "genkey")


class TestTokenCount(RequestSuite[KoboldPath]):
    dialect = KoboldPath("/api/extra/tokencount", "prompt")


class TestTokenize(RequestSuite[KoboldPath]):
    dialect = KoboldPath("/api/extra/tokenize", "prompt")


class TestDetokenize(RequestSuite[KoboldPath]):
    dialect = KoboldPath("/api/extra/detokenize", "model", missing={}, ids=[1])


class TestGrammar(RequestSuite[KoboldPath]):
    dialect = KoboldPath("/api/extra/json_to_grammar", "title")


class TestTextgenTokenCount(RequestSuite[KoboldPath]):
    dialect = KoboldPath("/api/v1/token-count", "prompt")


class TestTextgenChat(RequestSuite[KoboldPath]):
    dialect = KoboldPath("/api/v1/chat", "user_input", missing={})


class TestTextgenModel(RequestSuite[KoboldPath]):
    dialect = KoboldPath("/api/v1/model", "action")


class TestTextgenStop(RequestSuite[KoboldPath]):
    dialect = KoboldPath("/api/v1/stop-stream", "genkey")

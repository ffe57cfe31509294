"""OpenAI's protocol: chat, completions and speech."""

import base64
import json
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError

from callboard_contracts.embedding import floats
from callboard_contracts.errors import ErrorCode
from callboard_edge.protocols.openai.protocol import OpenAI
from tests.protocols.client import Client
from tests.protocols.dialect import (
    EmbeddingDialect,
    MalformedRequest,
    ParsedError,
    ParsedReply,
    ParsedSpeech,
    Request,
    SpeechDialect,
    TextDialect,
)
from tests.protocols.embedding_suite import EmbeddingSuite
from tests.protocols.speech_suite import SpeechSuite
from tests.protocols.suite import SHORT_DEADLINE, Connect, ErrorSuite
from tests.protocols.tenants import Tenant
from tests.protocols.text_suite import TextSuite
from tests.support.deployment import CHAT_MODEL, SPEECH_MODEL, Deployment
from tests.support.stub_chat import StubChat
from tests.support.stub_openai import word_vector

ERRORS = {
    ErrorCode.INVALID_REQUEST: (400, "invalid_request"),
    ErrorCode.UNSUPPORTED: (400, "unsupported"),
    ErrorCode.UNKNOWN_MODEL: (404, "model_not_found"),
    ErrorCode.UNKNOWN_VOICE: (400, "unknown_voice"),
    ErrorCode.CONTEXT_LENGTH_EXCEEDED: (400, "context_length_exceeded"),
    ErrorCode.TEXT_TOO_LONG: (400, "text_too_long"),
    ErrorCode.INVALID_API_KEY: (401, "invalid_api_key"),
    ErrorCode.INVALID_ADMIN_TOKEN: (401, "invalid_admin_token"),
    ErrorCode.UNKNOWN_ACCOUNT: (404, "unknown_account"),
    ErrorCode.CONFLICT: (409, "conflict"),
    ErrorCode.DUPLICATE_MESSAGE: (409, "duplicate_message"),
    ErrorCode.ROOM_SECRET_REQUIRED: (403, "room_secret_required"),
    ErrorCode.NOT_FOUND: (404, "not_found"),
    ErrorCode.METHOD_NOT_ALLOWED: (405, "method_not_allowed"),
    ErrorCode.REQUEST_TIMEOUT: (408, "request_timeout"),
    ErrorCode.BODY_TOO_LARGE: (413, "body_too_large"),
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: (415, "unsupported_media_type"),
    ErrorCode.TOO_MANY_ATTEMPTS: (429, "too_many_attempts"),
    ErrorCode.QUOTA_EXCEEDED: (429, "rate_limit_exceeded"),
    ErrorCode.QUEUE_FULL: (429, "queue_full"),
    ErrorCode.DEADLINE_EXCEEDED: (504, "deadline_exceeded"),
    ErrorCode.NO_WORKER: (503, "no_worker"),
    ErrorCode.ENGINE_UNAVAILABLE: (503, "engine_unavailable"),
    ErrorCode.ENGINE_FAILED: (502, "engine_failed"),
    ErrorCode.INTERRUPTED: (503, "interrupted"),
    ErrorCode.WORKER_DIED: (422, "worker_died"),
    ErrorCode.QUOTA_UNAVAILABLE: (503, "quota_unavailable"),
    ErrorCode.BUS_UNAVAILABLE: (503, "bus_unavailable"),
    ErrorCode.OVERLOADED: (503, "overloaded"),
    ErrorCode.INTERNAL: (500, "internal"),
}


def read_error(body: bytes) -> ParsedError:
    """The error in a JSON object."""
    found = json.loads(body)
    assert set(found) == {"error"}
    assert {"message", "type", "param", "code"} <= set(found["error"])
    return ParsedError(found["error"]["code"], found["error"]["message"])


def read_events(data: bytes) -> tuple[list[Any], bool]:
    """The events of a stream and whether its last mark has been seen; comments are skipped."""
    *blocks, _unfinished = data.decode("utf-8", "ignore").split("\n\n")
    events = [block.removeprefix("data: ") for block in blocks if not block.startswith(":")]
    assert "[DONE]" not in events[:-1]
    return [json.loads(event) for event in events if event != "[DONE]"], events[-1:] == ["[DONE]"]


class OpenAIText(TextDialect):
    """What both text paths share."""

    protocol = OpenAI()
    errors = ERRORS
    fields: Mapping[str, str] = {
        "output_format": '"response_format"',
        "output_format.json_schema": '"response_format.json_schema.schema"',
        "tools[0].parameters": '"tools[0].function.parameters"',
    }
    keep_alive = b": keep-alive\n\n"
    prompt: Mapping[str, Any]
    """The field that has the prompt, as far as the text that takes the place of None."""
    limit = "max_tokens"
    """The field that says how long a reply may be."""

    def auth_headers(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    @abstractmethod
    def prompt_of(self, text: str) -> dict[str, Any]:
        """The field that carries the prompt."""

    @abstractmethod
    def text_of(self, choice: Any) -> str:
        """The text in a choice."""

    def ask(
        self,
        text: str = "Hello.",
        *,
        model: str | None = CHAT_MODEL,
        stream: bool = False,
        max_tokens: int | None = 250,
        stops: Sequence[str] = (),
    ) -> Request:
        fields = {"model": model, self.limit: max_tokens, "stop": list(stops) or None, "stream": stream or None}
        body = {name: value for name, value in fields.items() if value is not None}
        return self.request({**self.prompt_of(text), **body})

    def request(self, body: object) -> Request:
        """A request with any JSON."""
        return Request(self.path, json.dumps(body).encode())

    def malformed(self) -> Mapping[str, MalformedRequest]:
        right = {"model": CHAT_MODEL, **self.prompt_of("Hello.")}
        (field,) = self.prompt_of("")
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
            "wrong type": {**right, "model": 7},
            "wrong type of prompt": {**right, field: 7},
            "wrong type of limit": {**right, self.limit: "many"},
            "no tokens wanted": {**right, self.limit: 0},
            "out of range": {**right, "temperature": 1e9},
            "a list": [right],
            "null": None,
        }
        requests = {name: Request(self.path, body) for name, body in bodies.items()}
        requests |= {name: self.request(body) for name, body in objects.items()}
        found = {name: MalformedRequest(request) for name, request in requests.items()}
        several = MalformedRequest(self.request({**right, "n": 9}), ErrorCode.UNSUPPORTED)
        return {**found, "several answers": several}

    def read_error(self, body: bytes) -> ParsedError:
        return read_error(body)

    def read_whole(self, body: bytes) -> ParsedReply:
        (choice,) = json.loads(body)["choices"]
        return ParsedReply(self.text_of(choice), choice["finish_reason"], complete=True)

    def read_stream(self, data: bytes) -> ParsedReply:
        text, reason, error = "", None, None
        events, complete = read_events(data)
        for event in events:
            assert error is None
            if "error" in event:
                error = read_error(json.dumps(event).encode())
                continue
            for choice in event["choices"]:
                assert reason is None
                text += self.text_of(choice)
                reason = choice["finish_reason"]
        return ParsedReply(text, reason, error, complete)


class OpenAIChat(OpenAIText):
    """`/v1/chat/completions`."""

    path = "/v1/chat/completions"

    def prompt_of(self, text: str) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": text}]}

    def text_of(self, choice: Any) -> str:
        part = choice["message"] if "message" in choice else choice["delta"]
        return part.get("content") or ""


class OpenAICompletions(OpenAIText):
    """`/v1/completions`."""

    path = "/v1/completions"

    def prompt_of(self, text: str) -> dict[str, Any]:
        return {"prompt": text}

    def text_of(self, choice: Any) -> str:
        return choice["text"]


class OpenAIResponses(OpenAIText):
    """`/v1/responses`."""

    path = "/v1/responses"
    limit = "max_output_tokens"
    copies = 5
    fields: Mapping[str, str] = {
        "output_format": '"text.format"',
        "output_format.json_schema": '"text.format.schema"',
        "tools[0].parameters": '"tools[0].parameters"',
    }

    def prompt_of(self, text: str) -> dict[str, Any]:
        return {"input": text}

    def text_of(self, choice: Any) -> str:
        return "".join(part["text"] for item in choice if item["type"] == "message" for part in item["content"])

    def malformed(self) -> Mapping[str, MalformedRequest]:
        cases = {name: case for name, case in super().malformed().items() if name != "several answers"}
        background = self.request({"model": CHAT_MODEL, "input": "Hello.", "background": True})
        return {**cases, "work in the background": MalformedRequest(background, ErrorCode.UNSUPPORTED)}

    def read_whole(self, body: bytes) -> ParsedReply:
        found = json.loads(body)
        return ParsedReply(self.text_of(found["output"]), found["status"], complete=True)

    def read_stream(self, data: bytes) -> ParsedReply:
        text, reason, error, complete = "", None, None, False
        *blocks, _unfinished = data.decode("utf-8", "ignore").split("\n\n")
        numbers: list[int] = []
        for block in blocks:
            if block.startswith(":"):
                continue
            name, line = block.split("\n")
            event = json.loads(line.removeprefix("data: "))
            assert not complete
            assert name == f"event: {event['type']}"
            numbers.append(event["sequence_number"])
            match event["type"]:
                case "response.output_text.delta":
                    text += event["delta"]
                case "error":
                    error = ParsedError(event["code"], event["message"])
                case "response.completed" | "response.incomplete" | "response.failed":
                    complete = True
                    assert self.text_of(event["response"]["output"]) == text
                    reason = None if error else event["response"]["status"]
                case _:
                    assert error is None
        assert numbers == list(range(len(numbers)))
        return ParsedReply(text, reason, error, complete)


class OpenAISpeech(SpeechDialect):
    """`/v1/audio/speech`, whose sound is the body."""

    protocol = OpenAI()
    path = "/v1/audio/speech"
    errors = ERRORS
    stream_format = "audio"

    def auth_headers(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    def ask(self, text: str = "Hello there.", *, model: str = SPEECH_MODEL, voice: str = "tenor") -> Request:
        return self.request({"model": model, "voice": voice, "input": text})

    def request(self, body: Mapping[str, object]) -> Request:
        """A request with any fields."""
        form = {"response_format": "pcm", "stream_format": self.stream_format}
        return Request(self.path, json.dumps({**form, **body}).encode())

    def malformed(self) -> Mapping[str, MalformedRequest]:
        right = {"model": SPEECH_MODEL, "voice": "tenor", "input": "Hello there."}
        return {
            "unreadable": MalformedRequest(Request(self.path, b'{"model": "parrot", ')),
            "missing field": MalformedRequest(self.request({"model": SPEECH_MODEL, "voice": "tenor"})),
            "wrong type": MalformedRequest(self.request({**right, "input": 7})),
            "wrong type of voice": MalformedRequest(self.request({**right, "voice": 7})),
            "nothing to speak": MalformedRequest(self.request({**right, "input": " \n"})),
            "out of range": MalformedRequest(self.request({**right, "speed": 9})),
            "unknown format": MalformedRequest(self.request({**right, "response_format": "tape"})),
            "too long": MalformedRequest(self.request({**right, "input": "a" * 5000}), ErrorCode.TEXT_TOO_LONG),
        }

    def read_error(self, body: bytes) -> ParsedError:
        return read_error(body)

    def read_speech(self, data: bytes, *, cut: bool) -> ParsedSpeech:
        return ParsedSpeech(data, complete=not cut)


class OpenAISpeechEvents(OpenAISpeech):
    """The same as server-sent events."""

    stream_format = "sse"

    def read_speech(self, data: bytes, *, cut: bool) -> ParsedSpeech:
        del cut
        sound, error, complete = b"", None, False
        *blocks, _unfinished = data.decode().split("\n\n")
        for block in blocks:
            event = json.loads(block.removeprefix("data: "))
            assert not complete
            if "error" in event:
                error, complete = read_error(json.dumps(event).encode()), True
            elif event["type"] == "speech.audio.done":
                complete = True
            else:
                sound += base64.b64decode(event["audio"])
        return ParsedSpeech(sound, error, complete)


class OpenAIEmbeddings(EmbeddingDialect):
    """`/v1/embeddings`."""

    protocol = OpenAI()
    path = "/v1/embeddings"
    errors = ERRORS

    def auth_headers(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    def ask(self, *texts: str, model: str | None = CHAT_MODEL) -> Request:
        return self.request({"model": model, "input": texts[0] if len(texts) == 1 else texts})

    def request(self, body: object) -> Request:
        """A request with any JSON."""
        return Request(self.path, json.dumps(body).encode())

    def malformed(self) -> Mapping[str, MalformedRequest]:
        right = {"model": CHAT_MODEL, "input": "Hello."}
        wrong: dict[str, object] = {
            "missing field": {"model": CHAT_MODEL},
            "wrong type": {**right, "input": 7},
            "wrong type of model": {**right, "model": 7},
            "an empty text": {**right, "input": ["x", ""]},
            "no text": {**right, "input": []},
            "too many texts": {**right, "input": ["x"] * 2049},
            "an unknown encoding": {**right, "encoding_format": "hex"},
            "no dimensions": {**right, "dimensions": 0},
            "half a dimension": {**right, "dimensions": 0.5},
            "a list": [right],
        }
        found = {name: MalformedRequest(self.request(body)) for name, body in wrong.items()}
        tokens = MalformedRequest(self.request({**right, "input": [1, 2]}), ErrorCode.UNSUPPORTED)
        return {"unreadable": MalformedRequest(Request(self.path, b'{"model": ')), "token ids": tokens, **found}

    def read_error(self, body: bytes) -> ParsedError:
        return read_error(body)

    def read_vectors(self, body: bytes) -> Sequence[Sequence[float]]:
        found = json.loads(body)
        assert found["object"] == "list"
        assert found["usage"]["prompt_tokens"] == found["usage"]["total_tokens"] > 0
        assert [item["index"] for item in found["data"]] == list(range(len(found["data"])))
        return [item["embedding"] for item in found["data"]]


class TestErrors(ErrorSuite[TextDialect]):
    dialect = OpenAIChat()


class TestChat(TextSuite):
    dialect = OpenAIChat()


class TestCompletions(TextSuite):
    dialect = OpenAICompletions()


class TestEmbeddings(EmbeddingSuite):
    dialect = OpenAIEmbeddings()

    async def test_the_openai_client_reads_vectors_as_base64_and_as_numbers(
        self, deployment: Deployment, tenant: Tenant
    ) -> None:
        texts = ["An owl sat.", "A wren."]
        async with AsyncOpenAI(base_url=deployment.base_url, api_key=tenant.key, max_retries=0) as client:
            for answer in (
                await client.embeddings.create(model=CHAT_MODEL, input=texts),
                await client.embeddings.create(model=CHAT_MODEL, input=texts, encoding_format="float"),
            ):
                assert [item.embedding for item in answer.data] == [word_vector(text) for text in texts]
                assert answer.usage.prompt_tokens == 5
            raw = await client.embeddings.create(model=CHAT_MODEL, input="A wren.", encoding_format="base64")
            assert list(floats(base64.b64decode(str(raw.data[0].embedding)))) == word_vector("A wren.")
            shorter = await client.embeddings.create(model=CHAT_MODEL, input="An owl sat.", dimensions=2)
            assert math.hypot(*shorter.data[0].embedding) == pytest.approx(1)
            assert len(shorter.data[0].embedding) == 2
            with pytest.raises(BadRequestError, match="6 dimensions"):
                await client.embeddings.create(model=CHAT_MODEL, input="An owl sat.", dimensions=7)


class TestResponses(TextSuite):
    dialect = OpenAIResponses()

    async def test_dialogue_goes_on_from_a_reply_of_another_edge(
        self, client: Client, connect: Connect, chat_engine: StubChat
    ) -> None:
        asking = OpenAIResponses()
        first = json.loads((await client.ask(asking.ask("Hello."))).body)
        other = connect(SHORT_DEADLINE)
        again = await other.ask(Request(f"/v1/responses/{first['id']}", method="GET"))
        assert json.loads(again.body)["output"] == first["output"]
        on = asking.request({"model": CHAT_MODEL, "input": "And?", "previous_response_id": first["id"]})
        answer = await other.ask(on)
        assert answer.status == 200, answer
        assert [one["content"] for one in chat_engine.calls[-1]["messages"]] == [
            "Hello.",
            asking.text_of(first["output"]),
            "And?",
        ]
        assert (await connect(key="").ask(on)).status in {400, 401}
        assert (await other.ask(Request(f"/v1/responses/{first['id']}", method="DELETE"))).status == 200
        assert (await client.ask(Request(f"/v1/responses/{first['id']}", method="GET"))).status == 404
        assert (await client.ask(on)).status == 400


class TestSpeech(SpeechSuite):
    dialect = OpenAISpeech()


class TestSpeechEvents(SpeechSuite):
    dialect = OpenAISpeechEvents()

"""Anthropic's protocol: messages, by both of their paths, and the tokens of prompts."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from callboard_contracts.errors import CATALOGUE, ErrorCode
from callboard_edge.protocols.anthropic.protocol import Anthropic
from tests.protocols.dialect import Dialect, MalformedRequest, ParsedError, ParsedReply, Request, TextDialect
from tests.protocols.suite import ErrorSuite, RequestSuite
from tests.protocols.text_suite import TextSuite
from tests.support.deployment import CHAT_MODEL

PATH = "/v1/messages"
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
STATUSES = {ErrorCode.QUEUE_FULL: 529, ErrorCode.OVERLOADED: 529}
ERRORS = {code: (STATUSES.get(code, kind.status), code.value) for code, kind in CATALOGUE.items()}
PING = b'event: ping\ndata: {"type":"ping"}\n\n'


def read_error(body: bytes) -> ParsedError:
    """The error in a JSON object of the type `error`."""
    found = json.loads(body)
    assert (set(found), found["type"]) == ({"type", "error"}, "error")
    error = found["error"]
    code = error["details"]["error_code"]
    status = ERRORS[ErrorCode(code)][0]
    assert error["type"] == TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return ParsedError(code, error["message"])


def read_events(data: bytes) -> list[Any]:
    """The events of a stream but for pings; checks that each is named as it says itself."""
    assert b"\r" not in data
    *blocks, _unfinished = data.decode("utf-8", "ignore").split("\n\n")
    found: list[Any] = []
    for block in blocks:
        event, content = block.split("\n")
        found.append(json.loads(content.removeprefix("data: ")))
        assert event == f"event: {found[-1]['type']}"
    return [event for event in found if event["type"] != "ping"]


class AnthropicDialect(Dialect):
    """What all paths share."""

    protocol = Anthropic()
    errors = ERRORS
    fields: Mapping[str, str] = {
        "output_format": "output_config.format",
        "output_format.json_schema": "output_config.format.schema",
        "tools[0].parameters": "tools[0].input_schema",
    }

    def __init__(self, path: str) -> None:
        self.path = path

    def auth_headers(self, key: str) -> dict[str, str]:
        return {"x-api-key": key, "anthropic-version": "2023-06-01"}

    def read_error(self, body: bytes) -> ParsedError:
        return read_error(body)

    def request(self, body: object) -> Request:
        """A request with any JSON."""
        return Request(self.path, json.dumps(body).encode())

    def request_with_text(self, text: str) -> Request:
        return self.request({"model": CHAT_MODEL, "messages": [{"role": "user", "content": text}]})

    def malformed(self) -> Mapping[str, MalformedRequest]:
        right = {"model": CHAT_MODEL, "max_tokens": 10, "messages": [{"role": "user", "content": "Hello."}]}
        bodies = {
            "unreadable": b'{"model": "owl", ',
            "empty": b"",
            "not UTF-8": json.dumps(right).encode().replace(b"Hello", b"\xff\xfe"),
            "a lone surrogate": json.dumps(right).encode().replace(b"Hello", b"\\ud800"),
            "nested too deeply": b'{"model": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        }
        result = {"type": "tool_result", "content": "12"}
        objects: dict[str, object] = {
            "missing field": {"model": CHAT_MODEL, "max_tokens": 10},
            "wrong type": {**right, "model": 7},
            "wrong type of messages": {**right, "messages": "Hello."},
            "no messages": {**right, "messages": []},
            "unknown role": {**right, "messages": [{"role": "tool", "content": "x"}]},
            "result of no call": {**right, "messages": [{"role": "user", "content": [result]}]},
            "unknown tool": {**right, "tool_choice": {"type": "tool", "name": "dim"}},
            "a list": [right],
            "null": None,
        }
        found = {name: MalformedRequest(Request(self.path, body)) for name, body in bodies.items()}
        found |= {name: MalformedRequest(self.request(body)) for name, body in objects.items()}
        image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
        unread = self.request({**right, "messages": [{"role": "user", "content": [image]}]})
        return {**found, "image": MalformedRequest(unread, ErrorCode.UNSUPPORTED)}


class AnthropicText(AnthropicDialect, TextDialect):
    """Messages."""

    keep_alive = PING

    def __init__(self, path: str = PATH) -> None:
        super().__init__(path)

    def ask(
        self,
        text: str = "Hello.",
        *,
        model: str | None = CHAT_MODEL,
        stream: bool = False,
        max_tokens: int | None = 250,
        stops: Sequence[str] = (),
    ) -> Request:
        body: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "max_tokens": max_tokens or 250}
        fields = {"model": model, "stop_sequences": list(stops) or None, "stream": stream or None}
        return self.request({**body, **{name: value for name, value in fields.items() if value is not None}})

    def request_with_text(self, text: str) -> Request:
        return self.ask(text)

    def malformed(self) -> Mapping[str, MalformedRequest]:
        right = json.loads(self.ask().body)
        more: dict[str, object] = {
            "no limit": {name: value for name, value in right.items() if name != "max_tokens"},
            "wrong type of limit": {**right, "max_tokens": "many"},
            "no tokens wanted": {**right, "max_tokens": 0},
            "out of range": {**right, "temperature": 1e9},
            "not a number": {**right, "temperature": float("nan")},
        }
        return {**super().malformed(), **{name: MalformedRequest(self.request(body)) for name, body in more.items()}}

    def read_whole(self, body: bytes) -> ParsedReply:
        message = json.loads(body)
        assert (message["type"], message["role"]) == ("message", "assistant")
        text = "".join(block["text"] for block in message["content"])
        return ParsedReply(text, message["stop_reason"], complete=True)

    def read_stream(self, data: bytes) -> ParsedReply:
        text, reason, error = "", None, None
        events = read_events(data)
        for number, event in enumerate(events):
            assert error is None
            kind = event["type"]
            assert (kind == "message_start") == (number == 0 and kind != "error")
            if kind == "error":
                error = read_error(json.dumps(event).encode())
            elif kind == "content_block_delta":
                text += event["delta"]["text"]
            elif kind == "message_delta":
                reason = event["delta"]["stop_reason"]
        return ParsedReply(text, reason, error, bool(events) and events[-1]["type"] in ("message_stop", "error"))


class TestErrors(ErrorSuite[TextDialect]):
    dialect = AnthropicText()


class TestMessages(TextSuite):
    dialect = AnthropicText()


class TestCountTokens(RequestSuite[AnthropicDialect]):
    dialect = AnthropicDialect("/v1/messages/count_tokens")

"""The characters' own protocol: what of the suites applies where no character is there."""

import json
from collections.abc import Mapping
from dataclasses import replace

from callboard_contracts.errors import ErrorCode
from callboard_edge.protocols.characters.protocol import CharactersProtocol
from tests.protocols.client import Client
from tests.protocols.dialect import Dialect, MalformedRequest, ParsedError, Request
from tests.protocols.suite import ErrorSuite, RequestSuite, check_error
from tests.protocols.test_openai import ERRORS, read_error

RIGHT = {"text": "Hello.", "speaker": "Ada"}


class CharactersDialect(Dialect):
    """`/v1/characters/{name}/messages`."""

    protocol = CharactersProtocol()
    path = "/v1/characters/{name}/messages"
    errors: Mapping[ErrorCode, tuple[int, str]] = {
        **ERRORS,
        ErrorCode.UNKNOWN_MODEL: (404, "unknown_character"),
        ErrorCode.QUOTA_EXCEEDED: (429, "quota_exceeded"),
    }
    fields: Mapping[str, str] = {"messages": '"text"', "model": '"name"'}

    def auth_headers(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    def request_with_text(self, text: str) -> Request:
        return self.request({**RIGHT, "text": text})

    def request(self, body: object) -> Request:
        """A request with any JSON to a character that is not there."""
        return Request("/v1/characters/nobody/messages", json.dumps(body).encode())

    def malformed(self) -> Mapping[str, MalformedRequest]:
        bodies: dict[str, object] = {
            "missing field": {"speaker": "Ada"},
            "wrong type": {**RIGHT, "text": 7},
            "empty text": {**RIGHT, "text": ""},
            "long text": {**RIGHT, "text": "x" * 16_385},
            "wrong format": {**RIGHT, "speech": {"format": "none"}},
            "no limit": {**RIGHT, "max_tokens": 0},
            "a list": [],
        }
        cases = {name: MalformedRequest(self.request(body)) for name, body in bodies.items()}
        cases["unreadable"] = MalformedRequest(replace(self.request({}), body=b'{"text": '))
        cases["unknown character"] = MalformedRequest(self.request(RIGHT), ErrorCode.UNKNOWN_MODEL)
        return cases

    def read_error(self, body: bytes) -> ParsedError:
        return read_error(body)


class TestErrors(ErrorSuite[Dialect]):
    dialect = CharactersDialect()


class TestMessages(RequestSuite[Dialect]):
    dialect = CharactersDialect()

    async def test_unknown_path_is_an_error_of_its_prefix(self, client: Client) -> None:
        request = self.dialect.request_with_text("Hello.")
        for path in ("/v1/characters/no/such/path", "/v1/characters/nobody/no-such-path"):
            answer = await client.ask(replace(request, path=path))
            check_error(self.dialect, answer, ErrorCode.NOT_FOUND)

"""AI Talkmaster's protocol: every path that takes work, and the sessions of each kind of script."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from callboard_contracts.errors import CATALOGUE, ErrorCode
from callboard_edge.protocols.talkmaster.protocol import Talkmaster
from tests.protocols.client import Client
from tests.protocols.dialect import Dialect, MalformedRequest, ParsedError, Request
from tests.protocols.suite import ErrorSuite, RequestSuite
from tests.protocols.tenants import Tenant
from tests.support.clients import script_text
from tests.support.stub_chat import StubChat, numbered
from tests.support.stub_openai import Script

ERRORS = {
    **{code: (kind.status, "") for code, kind in CATALOGUE.items()},
    ErrorCode.NOT_FOUND: (401, ""),
    ErrorCode.METHOD_NOT_ALLOWED: (401, ""),
    ErrorCode.UNKNOWN_MODEL: (400, ""),
    ErrorCode.ROOM_SECRET_REQUIRED: (400, ""),
    ErrorCode.CONFLICT: (400, ""),
    ErrorCode.DUPLICATE_MESSAGE: (400, ""),
}
POLL_INTERVAL_S = 0.2


class TalkmasterDialect(Dialect):
    """One path that takes a body of fields; `fields_of` makes a right one."""

    protocol = Talkmaster()
    errors = ERRORS
    accepted_status = 425

    def __init__(self, path: str, text_field: str, fields: Mapping[str, Any]) -> None:
        self.path = path
        self._text_field = text_field
        self._fields = dict(fields)

    def auth_headers(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    def request_with_text(self, text: str) -> Request:
        return Request(self.path, json.dumps({**self._fields, self._text_field: text}).encode())

    def malformed(self) -> Mapping[str, MalformedRequest]:
        wrong = {**self._fields, self._text_field: 7}
        bodies: dict[str, bytes] = {
            "unreadable": b'{"join_key": {Hello}',
            "wrong type": json.dumps(wrong).encode(),
            "no object": b"[]",
        }
        cases = {name: MalformedRequest(Request(self.path, body), UNPROCESSABLE) for name, body in bodies.items()}
        if self._text_field in REQUIRED:
            missing = {name: value for name, value in self._fields.items() if name != self._text_field}
            cases["missing field"] = MalformedRequest(Request(self.path, json.dumps(missing).encode()), UNPROCESSABLE)
        else:
            cases["missing field"] = cases["no object"]
        return cases

    def read_error(self, body: bytes) -> ParsedError:
        found = json.loads(body)
        if "detail" in found:
            return ParsedError("", found["detail"][0]["msg"])
        return ParsedError("", found["error"] if "error" in found else found["message"])


UNPROCESSABLE = ErrorCode.WORKER_DIED
"""The one error of the catalogue whose status is that of a body with a field at fault."""
REQUIRED = frozenset({"join_key", "message"})
SAID = {"message": "Hello.", "message_id": "m"}


class TestErrors(ErrorSuite[TalkmasterDialect]):
    dialect = TalkmasterDialect("/ait/postMessage", "message", SAID)


class TestStart(RequestSuite[TalkmasterDialect]):
    dialect = TalkmasterDialect("/ait/startConversation", "join_key", {"join_key": "pond"})


class TestPost(RequestSuite[TalkmasterDialect]):
    dialect = TalkmasterDialect(
        "/ait/postMessage",
        "message",
        {**SAID, "join_key": "pond", "username": "Ada", "charactername": "Frog"},
    )


class TestReset(RequestSuite[TalkmasterDialect]):
    dialect = TalkmasterDialect("/ait/resetJoinkey", "join_key", {"join_key": "pond"})


class TestSpeak(RequestSuite[TalkmasterDialect]):
    dialect = TalkmasterDialect(
        "/ait/generateAudio", "message", {"join_key": "pond", "username": "Ada", "message": "Hello."}
    )


class TestConversationStart(RequestSuite[TalkmasterDialect]):
    dialect = TalkmasterDialect("/conversation/start", "system_instructions", {})


class TestConversationPost(RequestSuite[TalkmasterDialect]):
    dialect = TalkmasterDialect("/conversation/postMessage", "message", {**SAID, "conversation_key": "none"})


class TestTranslate(RequestSuite[TalkmasterDialect]):
    dialect = TalkmasterDialect(
        "/translation/translate",
        "message",
        {**SAID, "session_key": "bridge", "source_language": "en", "target_language": "es"},
    )


class TestGenerate(RequestSuite[TalkmasterDialect]):
    dialect = TalkmasterDialect("/generate/postMessage", "message", SAID)

    async def fetched(self, client: Client, message_id: str) -> tuple[int, Any]:
        """Polls as scripts do, until the answer is another than 'not yet'."""
        async with asyncio.timeout(30):
            while True:
                answer = await client.ask(
                    Request(f"/generate/getMessageResponse?message_id={message_id}", method="GET")
                )
                if answer.status != 425:
                    return answer.status, json.loads(answer.body)
                await asyncio.sleep(POLL_INTERVAL_S)

    async def test_answer_is_fetched_again_and_again_and_charged_once(
        self, client: Client, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        chat_engine.plays(numbered(5))
        asked = Request("/generate/postMessage", json.dumps({**SAID, "message_id": tenant.id}).encode())
        assert (await client.ask(asked)).status == 425
        for _ in range(2):
            status, body = await self.fetched(client, tenant.id)
            assert (status, body["response"]) == (200, script_text(5).strip())
        await tenant.usage(1)

    async def test_engine_that_fails_is_an_error_and_no_reply(
        self, client: Client, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        chat_engine.plays(Script(error_at=0))
        asked = Request("/generate/postMessage", json.dumps({**SAID, "message_id": tenant.id}).encode())
        assert (await client.ask(asked)).status == 425
        status, body = await self.fetched(client, tenant.id)
        assert (status, list(body)) == (502, ["error"])
        await tenant.usage(1)

    @pytest.mark.parametrize("message_id", ["0123", "a.b", "*", "%3E", "x" * 200])
    async def test_message_that_was_never_sent_is_not_there_yet(self, message_id: str, client: Client) -> None:
        path = f"/generate/getMessageResponse?message_id={message_id}"
        assert (await client.ask(Request(path, method="GET"))).status == 425

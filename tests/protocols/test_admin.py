"""The admin API: what of the suites applies to it."""

import json
from collections.abc import Mapping
from uuid import uuid4

from callboard_contracts.errors import ErrorCode
from callboard_edge.protocols.admin.protocol import Admin
from tests.protocols.dialect import Dialect, MalformedRequest, ParsedError, Request
from tests.protocols.suite import ErrorSuite, RequestSuite
from tests.protocols.tenants import ADMIN_TOKEN
from tests.protocols.test_openai import ERRORS, read_error


class AdminDialect(Dialect):
    """`/admin/v1/accounts`; an operator has the token instead of a key."""

    protocol = Admin()
    path = "/admin/v1/accounts"
    errors: Mapping[ErrorCode, tuple[int, str]] = {**ERRORS, ErrorCode.UNKNOWN_MODEL: (404, "unknown_model")}
    wrong_credentials = ErrorCode.INVALID_ADMIN_TOKEN
    own_key = ADMIN_TOKEN

    def auth_headers(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    def request_with_text(self, text: str) -> Request:
        return self.request({"name": text, "tier": "standard"})

    def request(self, body: object) -> Request:
        """A request with any JSON."""
        return Request(self.path, json.dumps(body).encode())

    def malformed(self) -> Mapping[str, MalformedRequest]:
        return {
            "unreadable": MalformedRequest(Request(self.path, b'{"name": ')),
            "missing field": MalformedRequest(self.request({"tier": "standard"})),
            "wrong type": MalformedRequest(self.request({"name": 7})),
            "unknown field": MalformedRequest(self.request({"name": "ann", "teir": "standard"})),
            "unknown tier": MalformedRequest(self.request({"name": "ann", "tier": uuid4().hex})),
            "a list": MalformedRequest(self.request([])),
        }

    def read_error(self, body: bytes) -> ParsedError:
        return read_error(body)


class TestErrors(ErrorSuite[Dialect]):
    dialect = AdminDialect()


class TestRequests(RequestSuite[Dialect]):
    dialect = AdminDialect()

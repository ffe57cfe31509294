"""The spirit box: what of the suites applies to it. It is asked over Socket.IO, see tests/e2e/test_spirit_box.py."""

from collections.abc import Mapping

from callboard_contracts.errors import CATALOGUE, ErrorCode
from callboard_edge.protocols.spiritbox.protocol import SpiritBoxProtocol
from tests.protocols.dialect import Dialect, MalformedRequest, ParsedError, Request
from tests.protocols.suite import ErrorSuite


class SpiritBoxDialect(Dialect):
    """`/socket.io/`, whose clients read the status of a refusal and no more."""

    protocol = SpiritBoxProtocol()
    path = "/socket.io/"
    errors: Mapping[ErrorCode, tuple[int, str]] = {code: (kind.status, "") for code, kind in CATALOGUE.items()}

    def auth_headers(self, key: str) -> dict[str, str]:
        raise AssertionError(key)

    def request_with_text(self, text: str) -> Request:
        raise AssertionError(text)

    def malformed(self) -> Mapping[str, MalformedRequest]:
        raise AssertionError

    def read_error(self, body: bytes) -> ParsedError:
        line = body.decode()
        assert line.endswith("\n")
        return ParsedError("", line.strip())


class TestErrors(ErrorSuite[Dialect]):
    dialect = SpiritBoxDialect()

"""What every protocol must do, whatever it looks like: subclass a suite with the dialect that asks in the protocol."""

import json
import re
from abc import ABC
from collections.abc import Callable
from dataclasses import replace
from typing import Generic, TypeVar

import aiohttp
import pytest

from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from tests.protocols.client import Answer, Client
from tests.protocols.conftest import MAX_BODY_BYTES
from tests.protocols.dialect import Dialect, ParsedError, ParsedReply
from tests.protocols.tenants import Tenant
from tests.support.deployment import Deployment
from tests.support.processes import Service
from tests.support.stub_chat import StubChat

D = TypeVar("D", bound=Dialect)
Connect = Callable[..., Client]

MAIN, SHORT_DEADLINE = 0, 1
"""The edges of the deployment: one for most tests, and one whose requests end after two seconds."""
STOP_BOUND_S = 0.25
"""How soon after a client leaves its engine is stopped; the engine's own clock says when it was."""
INTERNAL_WORDS = re.compile(
    r"Traceback|secret raw text|callboard|jetstream|\bnats\b|ErrorInfo|ErrorCode|pydantic", re.I
)
"""What no client may read in an error."""


def read_error(dialect: Dialect, body: bytes) -> ParsedError:
    """Reads an error, and checks that it is written for a client."""
    assert not INTERNAL_WORDS.search(body.decode()), body
    error = dialect.read_error(body)
    assert error.message
    return error


def check_error(dialect: Dialect, answer: Answer, *codes: ErrorCode) -> ParsedError:
    """Checks that an answer is one of these errors in the protocol's own form, and returns it."""
    error = read_error(dialect, answer.body)
    assert (answer.status, error.code) in {dialect.errors[code] for code in codes}, answer
    return error


def check_failed(dialect: Dialect, seen: ParsedReply, *codes: ErrorCode) -> None:
    """Checks that a stream has ended with one of these errors."""
    assert seen.error is not None, seen
    assert not INTERNAL_WORDS.search(seen.error.message)
    assert seen.error.code in {dialect.errors[code][1] for code in codes}, seen
    assert seen.reason is None


@pytest.mark.unit
class ErrorSuite(ABC, Generic[D]):
    """Every error of the catalogue in the protocol's own form, without a process."""

    dialect: D

    def render(self, info: ErrorInfo) -> tuple[int, bytes]:
        answer = self.dialect.protocol.render_error(CallboardError.of(info))
        body = answer.body
        assert isinstance(body, bytes)
        return answer.status, body

    @pytest.mark.parametrize("code", list(ErrorCode))
    def test_error_has_its_status_and_code_and_the_words_for_the_client(self, code: ErrorCode) -> None:
        message = "What a client is told."
        info = ErrorInfo(code=code, message=message, param="model", offered=("owl",), limit="day", retry_after_s=1.5)
        for one in (info, ErrorInfo(code=code, message=message)):
            status, body = self.render(one)
            error = read_error(self.dialect, body)
            assert (status, error.code) == self.dialect.errors[code]
            assert message in error.message

    def test_error_names_fields_as_the_protocol_does(self) -> None:
        for neutral, own in self.dialect.fields.items():
            _status, body = self.render(ErrorInfo(code=ErrorCode.UNSUPPORTED, message="No.", param=neutral))
            assert json.dumps(neutral)[1:-1] not in body.decode()
            assert own in body.decode()


@pytest.mark.e2e
@pytest.mark.timeout(400)
class RequestSuite(ABC, Generic[D]):
    """Requests that cannot be served: a clear error in the protocol's own form, nothing charged, nothing queued."""

    dialect: D

    @pytest.fixture
    def connect(self, deployment: Deployment, session: aiohttp.ClientSession, tenant: Tenant) -> Connect:
        """Makes clients of an edge, with the tenant's key where no other is given."""
        own_key = self.dialect.own_key or tenant.key

        def make(edge: int | Service = MAIN, key: str = own_key, via: aiohttp.ClientSession = session) -> Client:
            url = deployment.root_url(edge) if isinstance(edge, int) else url_of(edge)
            return Client(via, url, self.dialect, key)

        return make

    @pytest.fixture
    def client(self, connect: Connect) -> Client:
        return connect()

    async def test_malformed_request_is_refused_and_costs_nothing(
        self, client: Client, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        for name, case in self.dialect.malformed().items():
            answer = await client.ask(case.request)
            try:
                check_error(self.dialect, answer, case.error)
            except AssertionError as error:
                error.add_note(f"the malformed request: {name}")
                raise
        await tenant.assert_no_usage()
        assert chat_engine.calls == []

    async def test_body_over_the_limit_is_refused(self, client: Client, tenant: Tenant) -> None:
        try:
            answer = await client.ask(self.dialect.request_with_text("x" * (MAX_BODY_BYTES + 1)))
        except aiohttp.ClientError:
            # A server may hang up on a sender that does not stop; then the answer cannot be read.
            pass
        else:
            check_error(self.dialect, answer, ErrorCode.BODY_TOO_LARGE)
        await tenant.assert_no_usage()

    async def test_wrong_credentials_are_refused_and_not_repeated(
        self, connect: Connect, chat_engine: StubChat
    ) -> None:
        key = "cb_a-key-that-nobody-was-given"
        answer = await connect(key=key).ask(self.dialect.request_with_text("Hello."))
        error = check_error(self.dialect, answer, self.dialect.wrong_credentials)
        assert key not in error.message
        assert chat_engine.calls == []

    async def test_unknown_path_is_an_error_of_its_prefix(self, client: Client) -> None:
        for prefix in self.dialect.protocol.prefixes:
            request = self.dialect.request_with_text("Hello.")
            for path in (f"{prefix}/no/such/path", f"{prefix}/no-such-path"):
                answer = await client.ask(replace(request, path=path))
                check_error(self.dialect, answer, ErrorCode.NOT_FOUND)

    async def test_wrong_method_is_refused_with_those_that_are_right(self, client: Client) -> None:
        request = self.dialect.request_with_text("Hello.")
        answer = await client.ask(replace(request, method="PATCH"))
        check_error(self.dialect, answer, ErrorCode.METHOD_NOT_ALLOWED)
        assert request.method in answer.headers["Allow"]


def url_of(edge: Service) -> str:
    """The root of an edge's HTTP paths."""
    return f"http://127.0.0.1:{edge.config['edge']['port']}"

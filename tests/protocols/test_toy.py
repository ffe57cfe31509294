"""The toy protocol, which stands for all that are still to come."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from callboard_contracts.errors import CATALOGUE, ErrorCode
from tests.protocols import toy
from tests.protocols.dialect import (
    NEUTRAL_FIELDS,
    Dialect,
    MalformedRequest,
    ParsedError,
    ParsedJob,
    ParsedReply,
    PolledDialect,
    Request,
    TextDialect,
)
from tests.protocols.polled_suite import PolledSuite
from tests.protocols.suite import ErrorSuite
from tests.protocols.text_suite import TextSuite
from tests.support.deployment import CHAT_MODEL

PLAIN = "text/plain"
MOST_LINES = 150


class ToyDialect(Dialect):
    """What both ways to ask share."""

    protocol = toy.Toy()
    errors: Mapping[ErrorCode, tuple[int, str]] = {
        **{code: (kind.status, code.value) for code, kind in CATALOGUE.items()},
        ErrorCode.INVALID_REQUEST: (422, "invalid_request"),
        ErrorCode.QUOTA_EXCEEDED: (420, "quota_exceeded"),
    }
    fields: Mapping[str, str] = dict.fromkeys(NEUTRAL_FIELDS, "")

    def auth_headers(self, key: str) -> dict[str, str]:
        return {"X-Toy-Key": key}

    def malformed(self) -> Mapping[str, MalformedRequest]:
        bodies = {
            "unreadable": b"say owl\n\xff\xfe",
            "empty": b"",
            "missing field": b"say owl\n",
            "no model": b"say\nHello.",
            "wrong type": b"say owl max=many\nHello.",
            "no tokens wanted": b"say owl max=0\nHello.",
            "another verb": b"sing owl\nHello.",
        }
        found = {name: MalformedRequest(Request(self.path, body, PLAIN)) for name, body in bodies.items()}
        typed = Request(self.path, b"say owl\nHello.", "application/json")
        return {**found, "wrong content type": MalformedRequest(typed, ErrorCode.UNSUPPORTED_MEDIA_TYPE)}

    def read_error(self, body: bytes) -> ParsedError:
        mark, code, message = body.decode().split(" ", 2)
        assert mark == "!"
        assert message.endswith("\n")
        assert message.count("\n") == 1
        return ParsedError(code, message.removesuffix("\n"))


class ToyText(ToyDialect, TextDialect):
    """Answers at once."""

    path = "/toy/say"
    keep_alive = b"~\n"

    def ask(
        self,
        text: str = "Hello.",
        *,
        model: str | None = CHAT_MODEL,
        stream: bool = False,
        max_tokens: int | None = 250,
        stops: Sequence[str] = (),
    ) -> Request:
        head = f"say {model or '-'}" + (f" max={max_tokens}" if max_tokens else "")
        head += "".join(f" stop={stop}" for stop in stops) + (" stream" if stream else "")
        return Request(self.path, f"{head}\n{text}".encode(), PLAIN)

    def read_whole(self, body: bytes) -> ParsedReply:
        found = json.loads(body)
        return ParsedReply(found["text"], found["reason"], complete=True)

    def read_stream(self, data: bytes) -> ParsedReply:
        text, reason, error = "", None, None
        *lines, _unfinished = data.decode().split("\n")
        for line in lines:
            assert reason is None
            assert error is None
            mark, _, rest = line.partition(" ")
            if mark == "+":
                text += json.loads(rest)
            elif mark == "=":
                reason = rest
            elif mark == "!":
                error = self.read_error(f"{line}\n".encode())
            else:
                assert line == "~"
        return ParsedReply(text, reason, error, complete=reason is not None or error is not None)


class ToyPolled(ToyDialect, PolledDialect):
    """Answers later."""

    path = "/toy/jobs"

    def submit(self, text: str = "Hello.", *, model: str = CHAT_MODEL, max_tokens: int = 250) -> Request:
        return Request(self.path, f"say {model} max={max_tokens}\n{text}".encode(), PLAIN)

    def read_id(self, body: bytes) -> str:
        return body.decode()

    def poll(self, job_id: str) -> Request:
        return Request(f"{self.path}/{job_id}", method="GET")

    def read_job(self, body: bytes) -> ParsedJob:
        state, _, text = body.decode().partition("\n")
        return ParsedJob(text, None if state in {"queued", "running"} else state)

    def cancel(self, job_id: str) -> Request:
        return Request(f"{self.path}/{job_id}", method="DELETE")


class TestErrors(ErrorSuite[TextDialect]):
    dialect = ToyText()


class TestText(TextSuite):
    dialect = ToyText()


class TestPolled(PolledSuite):
    dialect = ToyPolled()


@pytest.mark.unit
def test_protocol_is_small() -> None:
    """The seam is right as long as a protocol costs little."""
    assert len(Path(toy.__file__).read_text(encoding="utf-8").splitlines()) < MOST_LINES

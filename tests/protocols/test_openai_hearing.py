"""OpenAI's `/v1/audio/transcriptions`, streamed, and `/v1/audio/translations`, whole: the file in a form or as JSON."""

import base64
import json
from collections.abc import Mapping

from callboard_contracts.errors import ErrorCode
from callboard_edge.protocols.openai.protocol import OpenAI
from tests.protocols.dialect import HearingDialect, MalformedRequest, ParsedError, ParsedReply, Request
from tests.protocols.hearing_suite import FILE, HearingSuite
from tests.protocols.test_openai import ERRORS, read_error
from tests.support.deployment import HEARING_MODEL
from tests.support.forms import FORM, form, part


class Translations(HearingDialect):
    """`/v1/audio/translations`, whose answer is one JSON object."""

    protocol = OpenAI()
    path = "/v1/audio/translations"
    errors = ERRORS
    fields: Mapping[str, str] = {}

    def auth_headers(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    def ask(self, sound: bytes, *, model: str = HEARING_MODEL) -> Request:
        return self.form(file=sound, model=model)

    def form(self, file: bytes | None = None, **fields: str) -> Request:
        """A form with any fields."""
        return Request(self.path, form(fields, file), FORM)

    def ask_as_json(self, sound: bytes) -> Request:
        body = {"model": HEARING_MODEL, "audio_data": base64.b64encode(sound).decode()}
        return Request(self.path, json.dumps(body).encode())

    def malformed(self) -> Mapping[str, MalformedRequest]:
        right = self.ask(FILE)
        text = part("model", HEARING_MODEL.encode())
        as_json = {"model": HEARING_MODEL, "audio_data": 7}
        bad_type = ErrorCode.UNSUPPORTED_MEDIA_TYPE
        return {
            "unreadable": MalformedRequest(Request(self.path, right.body[:-20], FORM)),
            "missing field": MalformedRequest(self.form(model=HEARING_MODEL)),
            "wrong type": MalformedRequest(self.form(FILE, model=HEARING_MODEL, temperature="hot")),
            "no sound": MalformedRequest(self.form(b"", model=HEARING_MODEL)),
            "two sounds": MalformedRequest(Request(self.path, part("file", FILE) + right.body, FORM)),
            "another boundary": MalformedRequest(Request(self.path, right.body, "multipart/form-data; boundary=x")),
            "no boundary": MalformedRequest(Request(self.path, right.body, "multipart/form-data")),
            "no name": MalformedRequest(Request(self.path, text.replace(b"name=", b"who=") + right.body, FORM)),
            "too many parts": MalformedRequest(Request(self.path, text * 200 + right.body, FORM)),
            "unknown language": MalformedRequest(self.form(FILE, model=HEARING_MODEL, language="what owls speak")),
            "times of a plain text": MalformedRequest(
                self.form(FILE, **{"model": HEARING_MODEL, "timestamp_granularities[]": "word"})
            ),
            "no base64": MalformedRequest(Request(self.path, json.dumps(as_json).encode())),
            "the bare file": MalformedRequest(Request(self.path, FILE, "audio/wav"), bad_type),
        }

    def read_error(self, body: bytes) -> ParsedError:
        return read_error(body)

    def read_text(self, body: bytes) -> ParsedReply:
        found = json.loads(body)
        assert found["usage"]["type"] == "duration"
        return ParsedReply(found["text"], complete=True)


class TranscriptionEvents(Translations):
    """`/v1/audio/transcriptions` as server-sent events."""

    path = "/v1/audio/transcriptions"
    sends_text_early = True

    def form(self, file: bytes | None = None, **fields: str) -> Request:
        """A form with any fields, for a stream."""
        return super().form(file, **fields, stream="true")

    def read_text(self, body: bytes) -> ParsedReply:
        text, error, complete = "", None, False
        *blocks, _unfinished = body.decode().split("\n\n")
        for block in blocks:
            if block.startswith(":"):
                continue
            event = json.loads(block.removeprefix("data: "))
            assert not complete
            if "error" in event:
                error, complete = read_error(json.dumps(event).encode()), True
            elif event["type"] == "transcript.text.done":
                assert event["text"] == text
                complete = True
            else:
                text += event["delta"]
        return ParsedReply(text, error=error, complete=complete)


class TestTranslations(HearingSuite):
    dialect = Translations()


class TestTranscriptionEvents(HearingSuite):
    dialect = TranscriptionEvents()

"""KoboldCpp's `/api/extra/transcribe`: the file as base64 in JSON, and the text alone."""

import base64
import json
from collections.abc import Mapping

from tests.protocols.client import Client
from tests.protocols.dialect import HearingDialect, MalformedRequest, ParsedReply, Request
from tests.protocols.hearing_suite import FILE, PITCHES_HZ, HearingSuite, text_of
from tests.protocols.tenants import Tenant
from tests.protocols.test_kobold import KoboldDialect
from tests.support.deployment import HEARING_MODEL
from tests.support.forms import FORM, form


class KoboldHearing(KoboldDialect, HearingDialect):
    """`/api/extra/transcribe`."""

    path = "/api/extra/transcribe"

    def ask(self, sound: bytes, *, model: str = HEARING_MODEL) -> Request:
        return self.request({"audio_data": base64.b64encode(sound).decode(), "model": model})

    def ask_as_json(self, sound: bytes) -> Request:
        return self.ask(sound)

    def malformed(self) -> Mapping[str, MalformedRequest]:
        right = {"audio_data": base64.b64encode(FILE).decode()}
        return {
            "unreadable": MalformedRequest(Request(self.path, b'{"audio_data": "')),
            "missing field": MalformedRequest(self.request({"prompt": "An owl."})),
            "wrong type": MalformedRequest(self.request({"audio_data": 7})),
            "no base64": MalformedRequest(self.request({"audio_data": "an owl!"})),
            "no sound": MalformedRequest(self.request({"audio_data": ""})),
            "unknown language": MalformedRequest(self.request({**right, "langcode": "what owls speak"})),
            "a form without a file": MalformedRequest(Request(self.path, form({"prompt": "An owl."}), FORM)),
            "a list": MalformedRequest(self.request([right])),
        }

    def read_text(self, body: bytes) -> ParsedReply:
        found = json.loads(body)
        assert set(found) == {"text"}
        return ParsedReply(found["text"], complete=True)


class TestKoboldHearing(HearingSuite):
    dialect = KoboldHearing()

    async def test_unknown_model_is_refused_and_costs_nothing(self, client: Client, tenant: Tenant) -> None:
        """It is not refused: these clients name no model of this kind, or another server's."""
        answer = await client.ask(self.dialect.ask(FILE, model="nobody"))
        assert self.heard(answer).text == text_of(PITCHES_HZ)
        await tenant.usage(1)

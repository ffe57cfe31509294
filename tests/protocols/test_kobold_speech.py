"""Speech for clients of KoboldCpp, XTTS and AllTalk: whole files, in any voice that they name."""

import asyncio
import io
import json
import signal
import statistics
import time
import wave
from collections.abc import Mapping
from urllib.parse import urlencode

import pytest

from callboard_contracts.errors import ErrorCode
from tests.protocols.client import Client
from tests.protocols.dialect import MalformedRequest, ParsedSpeech, Request, SpeechDialect
from tests.protocols.speech_suite import DOOMED, LINE, SLOW_S, TEXT, SpeechSuite
from tests.protocols.suite import STOP_BOUND_S, Connect, check_error
from tests.protocols.tenants import Tenant
from tests.protocols.test_kobold import KoboldDialect
from tests.support.audio import decoded, duration_s
from tests.support.deployment import SPEECH_MODEL, VOICES, Deployment, eventually
from tests.support.stub_speech import StubSpeech

FORM = "application/x-www-form-urlencoded"


class KoboldSpeech(KoboldDialect, SpeechDialect):
    """`/api/extra/tts`."""

    path = "/api/extra/tts"

    def ask(self, text: str = "Hello there.", *, model: str = SPEECH_MODEL, voice: str = "tenor") -> Request:
        return self.request({"model": model, "input": text, "voice": voice})

    def request(self, body: object, path: str = "") -> Request:
        """A request with any JSON."""
        return Request(path or self.path, json.dumps(body).encode())

    def malformed(self) -> Mapping[str, MalformedRequest]:
        return {
            "unreadable": MalformedRequest(Request(self.path, b'{"input": "Hello.", ')),
            "missing field": MalformedRequest(self.request({"voice": "kobo"})),
            "wrong type": MalformedRequest(self.request({"input": 7})),
            "wrong type of voice": MalformedRequest(self.request({"input": "Hello.", "voice": {}})),
            "nothing to speak": MalformedRequest(self.request({"input": " \n"})),
            "a form without text": MalformedRequest(Request("/api/tts-generate", b"language=en", FORM)),
            "a broken form": MalformedRequest(Request("/api/tts-generate", b"--", "multipart/form-data; boundary=x")),
            "too long": MalformedRequest(self.request({"input": "a" * 5000}), ErrorCode.TEXT_TOO_LONG),
        }

    def read_speech(self, data: bytes, *, cut: bool) -> ParsedSpeech:
        if cut or not data:
            return ParsedSpeech(b"")
        with wave.open(io.BytesIO(data)) as file:
            return ParsedSpeech(file.readframes(file.getnframes()), complete=True)


ASKS = KoboldSpeech()


class TestKoboldSpeech(SpeechSuite):
    """What the suite asks, as far as it is not about sound that comes while it is being spoken."""

    dialect = ASKS

    @pytest.mark.parametrize(
        ("asked", "code"),
        [
            ({}, VOICES[0]),
            ({"voice": "kobo"}, VOICES[0]),
            ({"voice": "Tenor.wav"}, "tenor"),
            ({"voice": "alto", "model": "tts-1"}, "alto"),
            ({"voice": "cheery"}, None),
            ({"voice": "Wendelin the Grey"}, None),
        ],
        ids=lambda case: str(case) if isinstance(case, dict) else "",
    )
    async def test_unknown_name_is_refused_and_costs_nothing(
        self, asked: dict[str, str], code: str | None, client: Client, tenant: Tenant, speech_engine: StubSpeech
    ) -> None:
        """Nothing is refused: an unknown voice is always the same, an unknown model the site's; `code` is a voice."""
        for path in ("/api/extra/tts", "/v1/audio/speech"):
            if path.startswith("/v1") and "model" in asked:
                continue
            for _ in range(2):
                answer = await client.ask(ASKS.request({"input": LINE, **asked}, path))
                assert answer.status == 200, answer.body
        heard = {call.voice for call in speech_engine.calls}
        assert heard == {code} if code else len(heard) == 1 and heard <= set(VOICES)
        await tenant.usage(len(speech_engine.calls))

    async def test_every_kind_of_client_gets_a_whole_file(self, client: Client, tenant: Tenant) -> None:
        parts = (
            b'--b\r\nContent-Disposition: form-data; name="text_input"\r\n\r\n%s\r\n'
            b'--b\r\nContent-Disposition: form-data; name="character_voice_gen"\r\n\r\nalto\r\n--b--\r\n'
        ) % LINE.encode()
        form = {"text_input": LINE, "character_voice_gen": "alto", "language": "en", "narrator_enabled": "false"}
        asked = [
            ASKS.request({"input": LINE, "voice": "alto"}),
            ASKS.request({"input": LINE, "voice": "alto"}, "/audio/speech"),
            ASKS.request({"text": LINE, "speaker_wav": "alto", "language": "en"}, "/tts_to_audio/"),
            Request("/api/tts-generate", urlencode(form).encode(), FORM),
            Request("/api/extra/tts", json.dumps({"input": LINE, "voice": "alto"}).encode(), FORM),
            Request("/api/tts-generate", parts, "multipart/form-data; boundary=b"),
        ]
        answers = [await client.ask(request) for request in asked]
        for answer in answers:
            assert (answer.status, answer.headers["Content-Type"]) == (200, "audio/wav"), answer.body
            assert int(answer.headers["Content-Length"]) == len(answer.body)
            assert answer.headers["Content-Disposition"] == 'attachment; filename="output.wav"'
        assert len({answer.body for answer in answers}) == 1
        for field in ({"response_format": "mp3"}, {"use_mp3": True}):
            answer = await client.ask(ASKS.request({"input": LINE, "voice": "alto", **field}))
            assert answer.headers["Content-Type"] == "audio/mpeg"
            assert int(answer.headers["Content-Length"]) == len(answer.body)
            assert abs(duration_s(decoded(answer.body)) - (len(answers[0].body) - 44) / 48_000) < 0.2
        await tenant.usage(len(asked) + 2)

    async def test_voices_are_listed_as_each_kind_of_client_reads_them(self, client: Client) -> None:
        async def get(path: str) -> object:
            answer = await client.ask(Request(path, method="GET"))
            assert answer.status == 200, answer.body
            return json.loads(answer.body)

        names = list(VOICES)
        for path in ("/speakers_list", "/api/extra/speakers_list"):
            assert await get(path) == names
        assert await get("/speakers") == [{"name": name, "voice_id": name, "preview_url": ""} for name in names]
        assert await get("/api/voices") == {"status": "success", "voices": names}
        assert await get("/audio/voices") == {"status": "ok", "voices": names}
        assert await get("/v1/audio/voices?names=true") == {"status": "ok", "voices": names}
        settings = await get("/get_tts_settings")
        answer = await client.ask(ASKS.request(settings, "/set_tts_settings"))
        assert json.loads(answer.body) == {"message": "Settings successfully applied"}
        assert await get("/get_tts_settings") == settings

    async def test_engine_that_fails_in_the_middle_is_shown_and_what_was_sent_is_charged(
        self, client: Client, tenant: Tenant, speech_engine: StubSpeech
    ) -> None:
        speech_engine.script.fail_text, speech_engine.script.fail_status = DOOMED, 401
        answer = await client.ask(self.dialect.ask(f"{TEXT} {DOOMED} {TEXT}"))
        check_error(self.dialect, answer, ErrorCode.ENGINE_FAILED)
        (event,) = await tenant.usage(1)
        assert event.outcome == "error"

    async def test_client_that_leaves_stops_the_engine_and_pays_for_what_was_made(
        self, client: Client, tenant: Tenant, speech_engine: StubSpeech
    ) -> None:
        speech_engine.script.chunk_delay_s = SLOW_S
        took_s: list[float] = []
        for _ in range(3):
            speech_engine.calls.clear()
            asked = asyncio.ensure_future(client.ask(self.dialect.ask(TEXT)))
            await eventually(lambda: speech_engine.running > 0, 10, "it is being spoken")
            await asyncio.sleep(0.5)
            asked.cancel()
            left_s = time.monotonic()
            await asyncio.gather(asked, return_exceptions=True)
            await eventually(lambda: speech_engine.running == 0, 10, "the engine is left alone")
            took_s.append(max(call.ended_s or left_s for call in speech_engine.calls) - left_s)
        assert statistics.median(took_s) <= STOP_BOUND_S, took_s
        assert {event.outcome for event in await tenant.usage(3)} == {"cancelled"}

    async def test_edge_that_is_told_to_stop_finishes_what_it_can_and_shows_that_the_rest_is_not_whole(
        self, client: Client, connect: Connect, deployment: Deployment, tenant: Tenant, speech_engine: StubSpeech
    ) -> None:
        whole = await self.speech(client, LINE)
        edge = await asyncio.to_thread(deployment.add_edge, edge={"drain_timeout_s": 1.5})
        await asyncio.to_thread(edge.wait_ready)
        speech_engine.script.chunk_delay_s = SLOW_S
        async with asyncio.TaskGroup() as group:
            unfinished = group.create_task(connect(edge).ask(self.dialect.ask(" ".join([TEXT] * 3))))
            finished = group.create_task(self.speech(connect(edge), LINE))
            await eventually(lambda: speech_engine.running == 2, 10, "both are spoken")
            edge.running.signal(signal.SIGTERM)
        assert finished.result() == whole
        check_error(self.dialect, unfinished.result(), ErrorCode.INTERRUPTED)
        assert await asyncio.to_thread(edge.running.wait) == 0
        await tenant.usage(3)

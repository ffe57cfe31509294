"""A scriptable OpenAI-compatible speech engine whose audio is a pure function of the text.

The same text always gives the same samples, so a test can compare a speech that was interrupted with one that was
not, byte for byte.
"""

import asyncio
import hashlib
import math
import struct
import time
from dataclasses import dataclass, field

from aiohttp import web

from tests.support.threaded_app import ThreadedApp

SAMPLE_RATE_HZ = 24_000
MS_PER_CHARACTER = 20
AMPLITUDE = 9_000
CHUNK_MS = 100


@dataclass(slots=True)
class SpeechCall:
    """One request that the engine saw; times are on the machine's monotonic clock."""

    text: str
    voice: str
    started_s: float
    ended_s: float | None = None
    outcome: str = "running"


@dataclass(slots=True)
class SpeechScript:
    """What the engine does: how slowly it speaks, and how it fails."""

    chunk_delay_s: float = 0.0
    """The pause before each tenth of a second of audio."""
    fail_next: int = 0
    """How many of the next requests are answered with the status below."""
    fail_status: int = 500
    fail_text: str | None = None
    """Requests whose text holds this are always answered with the status above."""
    calls: list[SpeechCall] = field(default_factory=list)


def tone(text: str) -> bytes:
    """The audio of a text: a tone whose pitch follows from the text, 16-bit mono at 24 kHz."""
    digest = hashlib.sha256(text.encode()).digest()
    frequency = 150 + digest[0]
    count = max(1, len(text)) * MS_PER_CHARACTER * SAMPLE_RATE_HZ // 1000
    step = 2 * math.pi * frequency / SAMPLE_RATE_HZ
    return struct.pack(f"<{count}h", *(int(AMPLITUDE * math.sin(step * (n + 1))) for n in range(count)))


class StubSpeech:
    """The engine as an HTTP server in a thread of the test process."""

    def __init__(self) -> None:
        self.script = SpeechScript()
        self._server = ThreadedApp(self._app)

    @property
    def url(self) -> str:
        """The engine's address, with its version segment."""
        return f"{self._server.url}/v1"

    @property
    def calls(self) -> list[SpeechCall]:
        """Every request seen since the last reset."""
        return self.script.calls

    @property
    def running(self) -> int:
        """How many requests are being answered."""
        return sum(call.outcome == "running" for call in self.calls)

    def reset(self) -> None:
        """Forgets what was seen and scripted."""
        self.script = SpeechScript()

    def start(self) -> None:
        """Begins to serve."""
        self._server.start()

    def pause(self) -> None:
        """Goes down; `start` brings it back on the same port."""
        self._server.pause()

    def close(self) -> None:
        """Ends the engine."""
        self._server.close()

    def _app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/audio/speech", self._speak)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/audio/voices", self._voices)
        return app

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {"object": "list", "data": [{"id": "stub-voice", "object": "model", "owned_by": "stub"}]}
        )

    async def _voices(self, _request: web.Request) -> web.Response:
        return web.json_response({"voices": ["tenor", "alto"]})

    async def _speak(self, request: web.Request) -> web.StreamResponse:
        script = self.script
        body = await request.json()
        call = SpeechCall(body["input"], str(body.get("voice")), time.monotonic())
        script.calls.append(call)
        try:
            return await self._answer(request, script, call)
        except (asyncio.CancelledError, ConnectionError):
            call.outcome = "client gone"
            raise
        finally:
            call.ended_s = time.monotonic()

    async def _answer(self, request: web.Request, script: SpeechScript, call: SpeechCall) -> web.StreamResponse:
        doomed = script.fail_text is not None and script.fail_text in call.text
        if script.fail_next > 0 or doomed:
            script.fail_next = max(0, script.fail_next - 1)
            call.outcome = "failed"
            return web.json_response({"error": {"message": "the engine's own words"}}, status=script.fail_status)
        audio = await asyncio.to_thread(tone, call.text)
        answer = web.StreamResponse(headers={"Content-Type": "audio/pcm"})
        await answer.prepare(request)
        step = CHUNK_MS * SAMPLE_RATE_HZ // 1000 * 2
        for start in range(0, len(audio), step):
            if script.chunk_delay_s:
                await asyncio.sleep(script.chunk_delay_s)
            await answer.write(audio[start : start + step])
        await answer.write_eof()
        call.outcome = "done"
        return answer

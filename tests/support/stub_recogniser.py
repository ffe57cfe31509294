"""A scriptable server with OpenAI's `/v1/audio/transcriptions`, which hears each second as a word."""

import asyncio
import io
import wave
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any

import numpy as np
from aiohttp import web

from tests.support.threaded_app import ThreadedApp

LOUD = 500


@dataclass(slots=True)
class RecogniserScript:
    """What the server does, and what it saw."""

    delay_s: float = 0.0
    fail_status: int = 0
    body: str | None = None
    """Answer with this text instead."""
    plain: bool = False
    """Answer with the text alone, as servers without segments do."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    running: int = 0


class StubRecogniser:
    """The server in a thread of the test process."""

    def __init__(self) -> None:
        self.script = RecogniserScript()
        self._server = ThreadedApp(self._app)

    @property
    def url(self) -> str:
        """Its address, with its version segment."""
        return f"{self._server.url}/v1"

    def start(self) -> None:
        """Begins to serve."""
        self._server.start()

    def close(self) -> None:
        """Ends the server."""
        self._server.close()

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        for task in ("transcriptions", "translations"):
            app.router.add_post(f"/v1/audio/{task}", self._answer)
        return app

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        script = self.script
        fields, file_name, file = _form(request.headers["Content-Type"], await request.read())
        script.requests.append({"path": request.path, "file_name": file_name, **fields})
        script.running += 1
        try:
            await asyncio.sleep(script.delay_s)
        finally:
            script.running -= 1
        if script.fail_status:
            return web.json_response({"error": {"message": "scripted"}}, status=script.fail_status)
        if script.body is not None:
            return web.Response(text=script.body, content_type="application/json")
        return web.json_response(_heard(file, plain=script.plain))


def _form(content_type: str, body: bytes) -> tuple[dict[str, str], str, bytes]:
    """The fields of a form, and the name and the bytes of its file."""
    form = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
    fields: dict[str, str] = {}
    name_of_file, file = "", b""
    for part in form.iter_parts():
        name, content = str(part.get_param("name", header="Content-Disposition")), part.get_payload(decode=True)
        assert isinstance(content, bytes)
        if (file_name := part.get_filename()) is not None:
            name_of_file, file = file_name, content
        else:
            fields[name] = content.decode()
    return fields, name_of_file, file


def _heard(data: bytes, *, plain: bool) -> dict[str, Any]:
    with wave.open(io.BytesIO(data)) as file:
        rate = file.getframerate()
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.int32)
    seconds = [n for n in range(-(-samples.size // rate)) if np.abs(samples[n * rate : (n + 1) * rate]).max() > LOUD]
    text = " ".join(f"second {n}" for n in seconds)
    if plain:
        return {"text": text}
    segments = [{"start": float(n), "end": n + 1.0, "text": f" second {n}", "no_speech_prob": 0.1} for n in seconds]
    words = [
        {"word": word, "start": n + offset, "end": n + offset + 0.5}
        for n in seconds
        for offset, word in ((0.0, "second"), (0.5, str(n)))
    ]
    return {"text": text, "language": "english", "segments": segments, "words": words}

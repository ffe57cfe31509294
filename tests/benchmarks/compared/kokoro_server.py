"""kokoro-onnx behind OpenAI's path for speech, in as few lines as somebody would write who needs no more.

`python -m tests.benchmarks.compared.kokoro_server PORT MODEL VOICES`; the stream is kokoro-onnx's own.
"""

import sys

import numpy as np
from aiohttp import web
from kokoro_onnx import Kokoro

ENGINE: web.AppKey[Kokoro] = web.AppKey("engine", Kokoro)


async def speak(request: web.Request) -> web.StreamResponse:
    """Answers with PCM of 16 bits as it is made."""
    asked = await request.json()
    response = web.StreamResponse(headers={"Content-Type": "audio/pcm"})
    await response.prepare(request)
    async for samples, _ in request.app[ENGINE].create_stream(asked["input"], asked["voice"]):
        await response.write((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    await response.write_eof()
    return response


async def health(_: web.Request) -> web.Response:
    """Answers once the model is loaded."""
    return web.json_response({"status": "ok"})


def main() -> None:
    """Serves until the process is ended."""
    port, model, voices = sys.argv[1:]
    app = web.Application()
    app[ENGINE] = Kokoro(model, voices)
    app.router.add_post("/v1/audio/speech", speak)
    app.router.add_get("/health", health)
    # Without the last a handler goes on for a client that has left.
    web.run_app(app, host="127.0.0.1", port=int(port), print=None, handler_cancellation=True)


if __name__ == "__main__":
    main()

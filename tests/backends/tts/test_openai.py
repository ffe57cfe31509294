"""The engine behind an HTTP server, against a scripted one."""

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from dataclasses import replace

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from callboard_contracts.errors import ErrorCode
from callboard_contracts.speech import SAMPLE_RATE_HZ
from callboard_tts.backends.openai import OpenAISpeechEngine
from callboard_tts.domain.ports import PieceRequest
from callboard_worker.engine import EngineError, EngineFailed, EngineUnavailable
from tests.backends.tts.suite import TEXT, Rig, SpeechEngineSuite, speak
from tests.support.stub_speech import StubSpeech, tone

pytestmark = pytest.mark.backend


class OpenAIRig(Rig):
    voice = "tenor"
    model = "stub-voice"

    def __init__(self, stub: StubSpeech) -> None:
        self.stub = stub
        self.engine = OpenAISpeechEngine(stub.url, None)

    async def busy(self) -> int:
        return self.stub.running

    def slow(self) -> None:
        self.stub.script.chunk_delay_s = 0.05

    def breaks(self, text: str) -> PieceRequest:
        self.stub.script.fail_text = "a broken line"
        self.stub.script.fail_status = 418
        return self.piece(f"{text} This is a broken line.")


@pytest.fixture(scope="module")
def shared_stub() -> Generator[StubSpeech]:
    stub = StubSpeech()
    stub.start()
    yield stub
    stub.close()


@pytest.fixture
async def rig(shared_stub: StubSpeech) -> AsyncGenerator[OpenAIRig]:
    shared_stub.reset()
    rig = OpenAIRig(shared_stub)
    await rig.engine.load()
    yield rig
    await rig.engine.close()


class TestOpenAI(SpeechEngineSuite):
    pass


async def test_sound_is_what_the_server_sent(rig: OpenAIRig) -> None:
    sound = await speak(rig.engine, rig.piece())
    wanted = np.frombuffer(tone(TEXT), "<i2").astype(np.float32) / 32768
    np.testing.assert_allclose(sound, wanted)
    assert (rig.stub.calls[0].text, rig.stub.calls[0].voice) == (TEXT, "tenor")


async def test_sound_comes_while_the_server_still_speaks(rig: OpenAIRig) -> None:
    rig.slow()
    started = time.monotonic()
    parts = rig.engine.synthesise(rig.piece())
    assert (await anext(parts)).samples.size
    assert rig.stub.running == 1
    assert time.monotonic() - started < 5
    await parts.aclose()


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_busy_server_may_be_asked_again(rig: OpenAIRig, status: int) -> None:
    rig.stub.script.fail_next, rig.stub.script.fail_status = 1, status
    with pytest.raises(EngineUnavailable):
        await speak(rig.engine, rig.piece())
    assert len(rig.stub.calls) == 1
    assert (await speak(rig.engine, rig.piece())).size


async def test_server_that_is_down_may_be_asked_again(unused_tcp_port: int, rig: OpenAIRig) -> None:
    engine = OpenAISpeechEngine(f"http://127.0.0.1:{unused_tcp_port}/v1", None)
    with pytest.raises(EngineUnavailable):
        await speak(engine, rig.piece())
    await engine.close()


async def test_refused_text_is_the_clients_error_without_the_servers_words(rig: OpenAIRig) -> None:
    rig.stub.script.fail_next, rig.stub.script.fail_status = 1, 422
    with pytest.raises(EngineError) as error:
        await speak(rig.engine, rig.piece())
    assert error.value.info.code is ErrorCode.UNSUPPORTED
    assert "own words" not in error.value.info.message


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Type": "audio/mpeg"}, b"\xff\xfb" * 500),
        ({"Content-Type": "audio/pcm; rate=16000"}, bytes(1000)),
        ({"Content-Type": "application/octet-stream"}, b"RIFF" + bytes(1000)),
        ({"Content-Type": "application/json"}, b'{"error": "prose"}'),
        ({"Content-Type": "audio/pcm"}, b""),
    ],
)
async def test_answer_that_is_no_sound_is_never_played(rig: OpenAIRig, headers: dict[str, str], body: bytes) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=body, headers=headers)

    with pytest.raises(EngineFailed):
        await answered(answer, rig.piece())


async def test_answer_that_breaks_off_is_a_failure(rig: OpenAIRig) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "audio/pcm", "Content-Length": "100000"})
        await response.prepare(request)
        await response.write(bytes(20_000))
        assert request.transport is not None
        request.transport.close()
        return response

    with pytest.raises(EngineFailed):
        await answered(answer, rig.piece())


async def test_odd_chunks_keep_samples_whole(rig: OpenAIRig) -> None:
    pcm = tone("odd chunks")

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "audio/pcm"})
        await response.prepare(request)
        for at in range(0, len(pcm), 1001):
            await response.write(pcm[at : at + 1001])
            await asyncio.sleep(0)
        return response

    sound = await answered(answer, rig.piece())
    assert sound.size == len(pcm) // 2
    assert float(np.max(np.abs(np.diff(sound)))) < 2 * np.pi * 500 / SAMPLE_RATE_HZ


async def answered(answer: object, piece: PieceRequest) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """What the engine makes of a server's answer."""
    app = web.Application()
    app.router.add_post("/v1/audio/speech", answer)  # pyright: ignore[reportArgumentType] - any handler
    server = TestServer(app)
    await server.start_server()
    engine = OpenAISpeechEngine(str(server.make_url("/v1")), "key")
    try:
        return await speak(engine, replace(piece, instructions="Slowly."))
    finally:
        await engine.close()
        await server.close()

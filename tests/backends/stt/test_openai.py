"""The engine behind an HTTP server, against a scripted one."""

from collections.abc import AsyncGenerator, Generator

import pytest

from callboard_contracts.transcription import text_of
from callboard_stt.backends.openai import OpenAIRecognitionEngine
from callboard_worker.engine import EngineError, EngineFailed, EngineRefused, EngineUnavailable
from tests.backends.stt.suite import RecognitionEngineSuite, Rig, heard
from tests.support.sounds import melody
from tests.support.stub_recogniser import RecogniserScript, StubRecogniser

pytestmark = pytest.mark.backend


class OpenAIRig(Rig):
    model = "stub-ear"
    speech = melody([300, 400, 500])

    def __init__(self, stub: StubRecogniser) -> None:
        self.stub = stub
        self.engine = OpenAIRecognitionEngine(stub.url, None, 20.0)

    def busy(self) -> bool:
        return self.stub.script.running > 0

    def slow(self) -> None:
        self.stub.script.delay_s = 0.2

    def fails(self) -> None:
        self.stub.script.fail_status = 418


@pytest.fixture(scope="module")
def shared_stub() -> Generator[StubRecogniser]:
    stub = StubRecogniser()
    stub.start()
    yield stub
    stub.close()


@pytest.fixture
async def rig(shared_stub: StubRecogniser) -> AsyncGenerator[OpenAIRig]:
    shared_stub.script = RecogniserScript()
    rig = OpenAIRig(shared_stub)
    await rig.engine.load()
    yield rig
    await rig.engine.close()


class TestOpenAI(RecognitionEngineSuite):
    async def test_request_is_asked_for_as_it_is(self, rig: OpenAIRig) -> None:
        await heard(rig, rig.speech, language="de", prompt="A talk", hotwords=("Callboard",), temperature=0.2)
        (asked,) = rig.stub.script.requests
        assert asked["path"] == "/v1/audio/transcriptions"
        assert {"model": "stub-ear", "language": "de", "prompt": "A talk, Callboard"}.items() <= asked.items()
        assert (asked["temperature"], asked["file_name"]) == ("0.2", "sound.wav")

    async def test_translation_goes_to_its_own_path(self, rig: OpenAIRig) -> None:
        assert await heard(rig, rig.speech, task="translate")
        assert rig.stub.script.requests[0]["path"] == "/v1/audio/translations"

    async def test_text_without_segments_is_one(self, rig: OpenAIRig) -> None:
        rig.stub.script.plain = True
        (segment,) = await heard(rig, rig.speech)
        assert (text_of([segment]), segment.start_s, segment.end_s) == ("second 0 second 1 second 2", 0, 3)

    @pytest.mark.parametrize(
        ("status", "error"),
        [(503, EngineUnavailable), (429, EngineUnavailable), (415, EngineRefused), (404, EngineFailed)],
    )
    async def test_status_says_what_became_of_it(self, rig: OpenAIRig, status: int, error: type[EngineError]) -> None:
        rig.stub.script.fail_status = status
        with pytest.raises(error):
            await heard(rig, rig.speech)

    async def test_answer_that_is_none_is_a_failure(self, rig: OpenAIRig) -> None:
        rig.stub.script.body = "<html>"
        with pytest.raises(EngineFailed):
            await heard(rig, rig.speech)

    async def test_server_that_is_away_is_unavailable(self) -> None:
        engine = OpenAIRecognitionEngine("http://127.0.0.1:9/v1", None, 5.0)
        rig = OpenAIRig.__new__(OpenAIRig)
        rig.engine = engine
        with pytest.raises(EngineUnavailable):
            await heard(rig, OpenAIRig.speech)
        await engine.close()

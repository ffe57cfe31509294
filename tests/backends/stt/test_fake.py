"""The scripted engine."""

from collections.abc import AsyncGenerator

import pytest

from callboard_contracts.errors import ErrorCode
from callboard_stt.backends.fake import FakeEngine, Script
from callboard_worker.engine import EngineRefused, EngineUnavailable
from tests.backends.stt.suite import RecognitionEngineSuite, Rig, heard
from tests.support.sounds import melody

pytestmark = pytest.mark.backend


class FakeRig(Rig):
    speech = melody([300, 400, 500])

    def __init__(self) -> None:
        self.engine = self.fake = FakeEngine()

    def busy(self) -> bool:
        return self.fake.active > 0

    def slow(self) -> None:
        self.engine = self.fake = FakeEngine(Script(latency_s=0.05))

    def fails(self) -> None:
        self.model = "fake?fail_segment=1"


@pytest.fixture
async def rig() -> AsyncGenerator[FakeRig]:
    rig = FakeRig()
    await rig.engine.load()
    yield rig
    await rig.engine.close()


class TestFake(RecognitionEngineSuite):
    async def test_refusals_come_first(self, rig: FakeRig) -> None:
        rig.model = "fake?unavailable_times=1"
        with pytest.raises(EngineUnavailable):
            await heard(rig, rig.speech)
        assert await heard(rig, rig.speech)

    async def test_unknown_language_and_fault_are_refused(self, rig: FakeRig) -> None:
        with pytest.raises(EngineRefused) as refused:
            await heard(rig, rig.speech, language="xx")
        assert (refused.value.info.code, refused.value.info.param) == (ErrorCode.INVALID_REQUEST, "language")
        rig.model = "fake?explode=1"
        with pytest.raises(EngineRefused, match="script"):
            await heard(rig, rig.speech)

"""The fake engine passes what the real ones pass, and fails where it is told to."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

import numpy as np
import pytest

from callboard_tts.backends.fake import FakeEngine, Script
from callboard_tts.domain.ports import PieceRequest
from callboard_worker.engine import EngineError, EngineFailed, EngineUnavailable
from tests.backends.tts.suite import Rig, SpeechEngineSuite, speak

pytestmark = pytest.mark.backend


class FakeRig(Rig):
    def __init__(self) -> None:
        self.fake = FakeEngine(Script(chunk_latency_s=0.005))
        self.engine = self.fake

    async def busy(self) -> int:
        return self.fake.active

    def slow(self) -> None:
        self.model = "kokoro?chunk_latency_s=0.05"

    def breaks(self, text: str) -> PieceRequest:
        return replace(self.piece(text), model="kokoro?break_piece=0")


class TestFake(SpeechEngineSuite):
    @pytest.fixture
    async def rig(self) -> AsyncGenerator[FakeRig]:
        rig = FakeRig()
        await rig.engine.load()
        yield rig
        await rig.engine.close()


async def test_sound_follows_from_the_piece_alone() -> None:
    rig = FakeRig()
    first = await speak(rig.engine, rig.piece("one two"))
    np.testing.assert_array_equal(first, await speak(FakeRig().engine, rig.piece("one two")))
    assert not np.array_equal(first, await speak(rig.engine, rig.piece("one six")))


async def test_faults_happen_where_the_script_says() -> None:
    engine = FakeEngine(Script(fail_piece=1, unavailable_times=1))
    rig = FakeRig()
    with pytest.raises(EngineUnavailable):
        await speak(engine, rig.piece(index=0))
    assert (await speak(engine, rig.piece(index=0))).size
    with pytest.raises(EngineFailed):
        await speak(engine, rig.piece(index=1))


async def test_hanging_piece_hangs_until_it_is_cancelled() -> None:
    engine = FakeEngine(Script(hang_piece=0))
    task = asyncio.ensure_future(speak(engine, FakeRig().piece()))
    await asyncio.sleep(0.05)
    assert engine.active == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (engine.active, engine.stopped) == (0, 1)


@pytest.mark.parametrize("script", ["nonsense=1", "fail_piece=x", "fail_piece"])
async def test_wrong_script_is_refused(script: str) -> None:
    rig = FakeRig()
    with pytest.raises(EngineError):
        await speak(rig.engine, replace(rig.piece(), model=f"kokoro?{script}"))

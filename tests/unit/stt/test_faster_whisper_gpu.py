"""What Whisper's engine does when a GPU fails, with a stand-in for CTranslate2's model."""

from collections.abc import AsyncGenerator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from callboard_contracts.transcription import TranscriptionRequest
from callboard_stt.backends import faster_whisper
from callboard_stt.backends.faster_whisper import FasterWhisperEngine
from callboard_stt.domain.ports import Sound
from callboard_worker.engine import EngineError, EngineFailed, EngineUnavailable

pytestmark = pytest.mark.unit


class Model:
    """A model that hears nothing, or fails."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.supported_languages = ["en"]

    def transcribe(self, *_arguments: Any, **_options: Any) -> Any:
        if self.error:
            raise self.error
        return [], SimpleNamespace(language="en", language_probability=1.0)


class Rig:
    """A loaded engine, and the model in it."""

    def __init__(self, engine: FasterWhisperEngine, model: Model) -> None:
        self.engine = engine
        self.model = model

    async def hear(self) -> None:
        sound = Sound(np.zeros(16_000, np.int16), b"", "wav")
        async for _recognised in self.engine.transcribe("whisper", sound, TranscriptionRequest(model="whisper")):
            pass


@pytest.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Rig]:
    (tmp_path / "model.bin").touch()
    model = Model()

    def make(*_arguments: Any, **_options: Any) -> Model:
        return model

    monkeypatch.setattr(faster_whisper, "WhisperEncodedOnce", make)
    engine = FasterWhisperEngine(tmp_path, 1, None, "cuda", 1, 5.0)
    await engine.load()
    yield Rig(engine, model)
    await engine.close()


@pytest.mark.parametrize(
    ("text", "kind", "broken"),
    [
        ("CUDA failed with error an illegal memory access was encountered", EngineUnavailable, "the GPU failed"),
        ("cuBLAS failed with status CUBLAS_STATUS_EXECUTION_FAILED", EngineUnavailable, "the GPU failed"),
        ("parallel_for failed: cudaErrorInvalidDevice: invalid device ordinal", EngineUnavailable, "the GPU failed"),
        ("CUDA failed with error out of memory", EngineUnavailable, None),
        ("cuBLAS failed with status CUBLAS_STATUS_ALLOC_FAILED", EngineUnavailable, None),
        ("the input does not fit", EngineFailed, None),
    ],
)
async def test_fault_of_the_gpu_ends_the_worker_and_not_its_jobs(
    rig: Rig, text: str, kind: type[EngineError], broken: str | None
) -> None:
    rig.model.error = RuntimeError(text)
    with pytest.raises(kind):
        await rig.hear()
    assert rig.engine.broken() == broken


async def test_engine_hears_again_once_there_is_memory(rig: Rig) -> None:
    rig.model.error = RuntimeError("CUDA failed with error out of memory")
    with pytest.raises(EngineUnavailable):
        await rig.hear()
    rig.model.error = None
    await rig.hear()
    assert await rig.engine.ready() is None

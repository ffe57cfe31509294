"""What the engine on torch does when a GPU fails, with a stand-in for torch and the model."""

import json
import sys
from collections.abc import AsyncGenerator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from callboard_tts.backends.kokoro import KokoroEngine, last_pad_logit
from callboard_tts.domain.ports import PieceRequest
from callboard_tts.domain.voices import VoiceChoice
from callboard_worker.engine import EngineFailed, EngineUnavailable
from tests.backends.tts.kokoro_files import write_voices

pytestmark = pytest.mark.unit


class OutOfMemoryError(RuntimeError):
    """Torch's own."""


class Tensor:
    """An array as a tensor on a device."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)

    def float(self) -> "Tensor":
        return self

    def cpu(self) -> "Tensor":
        return self

    def numpy(self) -> Any:
        return self.values


class Layer:
    """A layer, whose weight is normalised in each run as long as it has `weight_g`."""

    def __init__(self, *, normalised: bool) -> None:
        if normalised:
            self.weight_g = 1.0

    def register_forward_pre_hook(self, hook: Any) -> None:
        del hook

    def register_forward_hook(self, hook: Any) -> None:
        del hook


class Norm(Layer):
    """An instance norm, whose scale and shift do nothing."""

    affine = True

    def __init__(self) -> None:
        super().__init__(normalised=False)
        self.weight: Any = np.ones(3)
        self.bias: Any = np.zeros(3)


class Model:
    """A model that says a second of nothing, or fails."""

    def __init__(self, **_options: Any) -> None:
        self.vocab = {sound: number for number, sound in enumerate("hˈɛlO ", 1)}
        self.norm, self.other_norm = Norm(), Norm()
        self.other_norm.bias = np.ones(3)
        self.layers = [Layer(normalised=True), Layer(normalised=False), self.norm, self.other_norm]
        self.predictor = SimpleNamespace(duration_proj=Layer(normalised=False))
        self.error: Exception | None = None

    def modules(self) -> list[Layer]:
        return self.layers

    def to(self, _device: str) -> "Model":
        return self

    def eval(self) -> "Model":
        return self

    def __call__(self, phonemes: str, *_arguments: Any, **_options: Any) -> Any:
        if self.error:
            raise self.error
        return SimpleNamespace(audio=Tensor(np.zeros(24_000, np.float32)), pred_dur=Tensor(np.ones(len(phonemes) + 2)))


class Gpu:
    """A GPU and what torch says of it."""

    OutOfMemoryError = OutOfMemoryError

    def __init__(self) -> None:
        self.emptied = 0
        self.fault: Exception | None = None

    def is_available(self) -> bool:
        return True

    def synchronize(self) -> None:
        if self.fault:
            raise self.fault

    def empty_cache(self) -> None:
        self.emptied += 1


class Rig:
    """A loaded engine on a GPU."""

    def __init__(self, engine: KokoroEngine, model: Model, gpu: Gpu) -> None:
        self.engine = engine
        self.model = model
        self.gpu = gpu

    async def speak(self) -> None:
        choice = VoiceChoice("af_one", (("af_one", 1.0),), "en-us")
        async for _part in self.engine.synthesise(PieceRequest(0, "Hello.", choice, 1.0, "kokoro")):
            pass


@pytest.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Rig]:
    (tmp_path / "config.json").write_text(json.dumps({}), encoding="utf-8")
    (tmp_path / "kokoro.pth").touch()
    model, gpu = Model(), Gpu()

    def remove_weight_norm(layer: Layer) -> None:
        del layer.weight_g

    torch = SimpleNamespace(
        cuda=gpu,
        inference_mode=nullcontext,
        from_numpy=Tensor,
        nn=SimpleNamespace(InstanceNorm1d=Norm, utils=SimpleNamespace(remove_weight_norm=remove_weight_norm)),
    )
    monkeypatch.setitem(sys.modules, "torch", torch)  # pyright: ignore[reportArgumentType] - a stand-in
    monkeypatch.setitem(sys.modules, "kokoro", SimpleNamespace(KModel=lambda **_options: model))  # pyright: ignore[reportArgumentType] - the same
    engine = KokoroEngine(tmp_path, write_voices(tmp_path / "voices", "af_one"))
    await engine.load()
    yield Rig(engine, model, gpu)
    await engine.close()


async def test_weights_are_normalised_once(rig: Rig) -> None:
    assert not any(hasattr(layer, "weight_g") for layer in rig.model.layers)


async def test_norms_lose_only_what_does_nothing(rig: Rig) -> None:
    assert (rig.model.norm.weight, rig.model.norm.bias) == (None, None)
    assert (rig.model.other_norm.weight == 1).all()
    assert (rig.model.other_norm.bias == 1).all()


async def test_fault_of_the_gpu_ends_the_worker_and_not_its_jobs(rig: Rig) -> None:
    rig.model.error = RuntimeError("CUDA error: an illegal memory access was encountered")
    rig.gpu.fault = rig.model.error
    with pytest.raises(EngineUnavailable):
        await rig.speak()
    assert rig.engine.broken() == "the GPU failed"


async def test_full_memory_is_freed_and_may_be_tried_again(rig: Rig) -> None:
    rig.model.error = OutOfMemoryError("CUDA out of memory")
    with pytest.raises(EngineUnavailable, match="memory is full"):
        await rig.speak()
    assert (rig.gpu.emptied, rig.engine.broken()) == (1, None)
    rig.model.error = None
    await rig.speak()


async def test_fault_of_a_piece_is_its_own(rig: Rig) -> None:
    rig.model.error = RuntimeError("shapes do not match")
    with pytest.raises(EngineFailed):
        await rig.speak()
    assert rig.engine.broken() is None


@pytest.mark.parametrize("speed", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("count", "step"), [(3, 8), (60, 8), (150, 16), (300, 32)])
def test_length_is_rounded_up_by_the_last_pad(count: int, step: int, speed: float) -> None:
    chance = np.random.default_rng(count)
    units = 50
    logits = chance.normal(-3, 0.3, (count + 2, units)).astype(np.float32)

    def frames() -> Any:
        return np.maximum(1, np.round((1 / (1 + np.exp(-logits))).sum(-1) / np.float32(speed)))

    before = frames()
    logit = last_pad_logit((1 / (1 + np.exp(-logits))).sum(-1) / np.float32(speed), speed, units)
    assert logit is not None
    logits[-1] = logit
    after = frames()
    assert (after[:-1] == before[:-1]).all()
    assert 0 <= after.sum() - before.sum() < max(step, before.sum() / 15)
    assert after.sum() % 8 == 0


def test_pad_that_cannot_be_so_long_is_left_alone() -> None:
    assert last_pad_logit(np.array([2.0, 3.0, 4.0], np.float32), 1.0, 4) is None

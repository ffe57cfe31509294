"""Kokoro through the `kokoro` package on torch: the engine for GPUs.

Everything is read from local files. The model folder holds `config.json` and one `.pth` of weights; the voices lie in
a folder as for ONNX, or as the package's own `.pt` files. The package's code takes one piece at a time.
"""

import json
import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from callboard_tts.backends.kokoro_base import KokoroBase, Spoken
from callboard_tts.backends.voice_files import Style, VoiceStore
from callboard_worker.engine import EngineUnavailable
from callboard_worker.threads import StopSignal

CONFIG_NAME = "config.json"
ROUNDED_WARM_UP_LENGTHS = (*range(8, 64, 4), 80, 120, 180, 240, 360, 480)
"""In phonemes. First pieces are short, so nearly every rounded length of theirs is among these."""
LEAST_STEP = 8
"""In frames of 25 ms: the distance of the lengths that sound for a GPU is rounded up to, where it is short."""


class KokoroEngine(KokoroBase[Any]):
    """Kokoro on torch, on the GPU where there is one."""

    # On a GPU the first run of a length takes up to three times as long as the next.
    warm_up_lengths = (8, 30, 60, 120, 240, 480)
    rounds_lengths: ClassVar[bool | None] = None
    """Whether sound is rounded up to a length that was likely seen before; None does it on a GPU."""

    def __init__(
        self, model: Path, voices: Path, slots: int = 1, threads: int | None = None, device: str = "auto"
    ) -> None:
        super().__init__("kokoro", VoiceStore(voices, {".pt": _read_tensor}), slots, device)
        self._path = model
        self._cpu_threads = threads
        self._local = threading.local()

    def _open(self) -> tuple[Any, Mapping[str, int]]:
        config_file, weights_file = _model_files(self._path)
        import torch  # pyright: ignore[reportMissingImports] - not in the development environment
        from kokoro import KModel  # pyright: ignore[reportMissingImports] - the same

        if self._device == "auto":
            self._device = "cuda" if torch.cuda.is_available() else "cpu"
        if self._device == "cuda" and not torch.cuda.is_available():
            raise EngineUnavailable("device is cuda, but torch sees no GPU")
        if self._cpu_threads:
            torch.set_num_threads(self._cpu_threads)
        try:
            config = json.loads(config_file.read_text(encoding="utf-8"))
            model = KModel(repo_id="local", config=config, model=str(weights_file))
        except Exception as error:
            raise EngineUnavailable(f"the model at {self._path} cannot be loaded") from error
        _simplify(model)
        # Torch cannot end a run, so every layer checks the signal before it begins.
        for layer in model.modules():
            layer.register_forward_pre_hook(self._check)
        if self._device == "cuda" if self.rounds_lengths is None else self.rounds_lengths:
            self.warm_up_lengths = ROUNDED_WARM_UP_LENGTHS
            model.predictor.duration_proj.register_forward_hook(self._round_length)
        model = model.to(self._device).eval()
        return model, model.vocab

    def _run(self, model: Any, phonemes: str, style: Style, speed: float, stop: StopSignal) -> Spoken:
        import torch  # pyright: ignore[reportMissingImports] - not in the development environment

        self._local.stop, self._local.speed = stop, speed
        try:
            with torch.inference_mode():
                output = model(phonemes, torch.from_numpy(np.array(style)), speed, return_output=True)
            samples = np.asarray(output.audio.float().cpu().numpy(), dtype=np.float32).ravel()
            return Spoken(samples, np.asarray(output.pred_dur.cpu().numpy(), dtype=np.int64).ravel())
        except RuntimeError as error:
            if self._device == "cuda":
                self._look_at_gpu(torch, error)
            raise
        finally:
            self._local.stop = None

    def _look_at_gpu(self, torch: Any, error: RuntimeError) -> None:
        """Raises where a failed run is the GPU's fault and not the piece's.

        A fault of the GPU itself stays: whatever this process asks of it afterwards fails as well, so the process must
        start anew.
        """
        try:
            torch.cuda.synchronize()
            if isinstance(error, torch.cuda.OutOfMemoryError):
                # What other lengths of pieces needed is kept for them until then.
                torch.cuda.empty_cache()
        except RuntimeError as fault:
            self._threads.broken = "the GPU failed"
            raise EngineUnavailable(self._threads.broken) from fault
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise EngineUnavailable("the GPU's memory is full") from error

    def _round_length(self, _layer: object, _inputs: object, logits: Any) -> Any:
        """Lets the last pad sound longer, whose silence is cut off later on.

        For every length that it did not see before, cuDNN plans each of some hundred convolutions anew.
        """
        speed = self._local.speed
        durations = logits.sigmoid().sum(-1).float().cpu().numpy().ravel() / np.float32(speed)
        logit = last_pad_logit(durations, speed, logits.shape[-1])
        if logit is not None:
            logits = logits.clone()
            logits[..., -1, :] = logit
        return logits

    def _check(self, *_arguments: object) -> None:
        stop: StopSignal | None = getattr(self._local, "stop", None)
        if stop is not None:
            stop.check()


def last_pad_logit(durations: NDArray[np.float32], speed: float, units: int) -> float | None:
    """What the model must say of the last pad so that all frames together are a round number.

    The model says a duration by so many `units`, each between 0 and 1, whose sum is divided by the speed. None where
    they cannot say so long a duration.
    """
    frames = np.maximum(1, np.round(durations))
    total = int(frames.sum())
    # A sixteenth to a thirty-second of the length, so that there are some fifty lengths in all.
    step = max(LEAST_STEP, 1 << max(0, total.bit_length() - 5))
    share = float(frames[-1] + -total % step) * speed / units
    return math.log(share / (1 - share)) if share < 1 else None


def _simplify(model: Any) -> None:
    """Does once, or not at all, what the package does in every run, since a GPU waits for its host most of the time.

    Normalised weights are computed here. A scale of one and a shift of zero, which instance norms have in the
    publisher's weights, are left out.
    """
    import torch  # pyright: ignore[reportMissingImports] - not in the development environment

    for layer in model.modules():
        if hasattr(layer, "weight_g"):
            torch.nn.utils.remove_weight_norm(layer)
        is_norm = isinstance(layer, torch.nn.InstanceNorm1d) and layer.affine
        if is_norm and bool((layer.weight == 1).all()) and not bool(layer.bias.any()):
            layer.weight = layer.bias = None


def _model_files(path: Path) -> tuple[Path, Path]:
    """The configuration and the weights, given their folder or the weights' own path."""
    folder = path if path.is_dir() else path.parent
    weights = sorted(path.glob("*.pth")) if path.is_dir() else [path]
    config = folder / CONFIG_NAME
    if not config.is_file() or not weights or not weights[0].is_file():
        raise EngineUnavailable(f"no Kokoro model at {path}: it takes {CONFIG_NAME} and one .pth file")
    return config, weights[0]


def _read_tensor(path: Path) -> Any:
    import torch  # pyright: ignore[reportMissingImports] - not in the development environment

    return torch.load(path, map_location="cpu", weights_only=True).numpy()

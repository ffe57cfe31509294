"""Kokoro through the `kokoro` package on torch: the engine for GPUs.

Everything is read from local files: the model folder holds `config.json` and one `.pth` of weights, and the voices lie
in a folder as for ONNX, or as the package's own `.pt` files. The package's code takes one piece at a time.
"""

import json
import logging
import threading
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from callboard_tts.backends.phonemes import Phonemizer, split_phonemes
from callboard_tts.backends.threads import Cancelled, EngineThreads, StopSignal
from callboard_tts.backends.voice_files import VoiceStore, style_row
from callboard_tts.domain.ports import EngineFailed, EngineUnavailable, PieceRequest, Samples
from callboard_tts.domain.voices import Voice, VoiceChoice

log = logging.getLogger(__name__)

WARM_UP_PHONEMES = (8, 30, 60, 120, 240, 480)
"""On a GPU the first run of each length tunes its kernels and is many times slower than the next."""
CONFIG_NAME = "config.json"


class KokoroEngine:
    """Kokoro on torch, on the GPU where there is one."""

    def __init__(
        self, model: Path, voices: Path, slots: int = 1, threads: int | None = None, device: str = "auto"
    ) -> None:
        self._path = model
        self._book = VoiceStore(voices, {".pt": _read_tensor})
        self._local = threading.local()
        self._cpu_threads = threads
        self._device = device
        self._threads = EngineThreads("kokoro", slots)
        self._model: Any = None
        self._phonemizer = Phonemizer({})

    async def load(self) -> None:
        """Reads the weights and runs the model once for each of several lengths."""
        started = time.monotonic()
        await self._threads.run(self._open)
        log.info("engine_loaded", extra={"seconds": round(time.monotonic() - started, 2), "device": self._device})

    async def close(self) -> None:
        """Lets go of the model."""
        self._threads.close()
        self._model = None
        self._book.close()

    def voices(self) -> Sequence[Voice]:
        """The voices of the folder."""
        return self._book.voices()

    def broken(self) -> str | None:
        """Why the engine can do no more, or None."""
        return self._threads.broken

    @property
    def active(self) -> int:
        """How many pieces are being worked on."""
        return self._threads.active

    async def synthesise(self, piece: PieceRequest) -> AsyncGenerator[Samples, None]:
        """Yields the sound of a piece; one that is too long for the model comes in several parts."""
        for phonemes in await self._threads.run(lambda _stop: self._read(piece)):
            yield await self._threads.run(lambda stop, phonemes=phonemes: self._speak(phonemes, piece, stop))

    def _open(self, stop: StopSignal) -> None:
        config_file, weights_file = _model_files(self._path)
        try:
            import torch  # pyright: ignore[reportMissingImports] - not in the development environment
            from kokoro import KModel  # pyright: ignore[reportMissingImports] - the same
        except ImportError as error:
            raise EngineUnavailable(f"the package {error.name} is missing; install callboard-tts[torch]") from error
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
        # Torch has no switch that ends a run, so every layer looks at the signal before it begins.
        for layer in model.modules():
            layer.register_forward_pre_hook(self._check)
        self._model = model.to(self._device).eval()
        self._phonemizer = Phonemizer(self._model.vocab)
        self._book.open()
        self._phonemizer.prepare({"en-us"})
        first = self._book.voices()[0]
        choice = VoiceChoice(first.name, ((first.name, 1.0),), first.language)
        for length in WARM_UP_PHONEMES:
            self._speak(("hˈɛlO " * length)[:length], PieceRequest(0, "", choice, 1.0, ""), stop)

    def _read(self, piece: PieceRequest) -> list[str]:
        return split_phonemes(self._phonemizer.phonemes(piece.text, piece.voice.language))

    def _speak(self, phonemes: str, piece: PieceRequest, stop: StopSignal) -> Samples:
        import torch  # pyright: ignore[reportMissingImports] - not in the development environment

        if self._model is None:
            raise EngineUnavailable("the engine is not loaded")
        style = torch.from_numpy(np.array(style_row(self._book.style(piece.voice), len(phonemes))))
        self._local.stop = stop
        try:
            with torch.inference_mode():
                audio = self._model(phonemes, style, piece.speed)
            return np.asarray(audio.float().cpu().numpy(), dtype=np.float32).ravel()
        except Cancelled:
            raise
        except Exception as error:
            raise EngineFailed("the model failed on a piece") from error
        finally:
            self._local.stop = None

    def _check(self, *_arguments: object) -> None:
        stop: StopSignal | None = getattr(self._local, "stop", None)
        if stop is not None:
            stop.check()


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

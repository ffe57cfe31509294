"""Kokoro through ONNX Runtime: the engine for CPUs.

kokoro-onnx supplies the vocabulary; the session is our own, because its threads must be set and because a run must be
stoppable. The package's own stream is not used: its batches could not be cancelled in the middle.
"""

import logging
import os
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from kokoro_onnx.config import DEFAULT_VOCAB

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_tts.backends.phonemes import Phonemizer, split_phonemes
from callboard_tts.backends.threads import EngineThreads, StopSignal
from callboard_tts.backends.voice_files import VoiceStore, style_row
from callboard_tts.domain.ports import EngineFailed, EngineUnavailable, PieceRequest, Samples
from callboard_tts.domain.voices import Voice, VoiceChoice

log = logging.getLogger(__name__)

WARM_UP_PHONEMES = (16, 80)
_ACCELERATORS = ("CUDAExecutionProvider", "ROCMExecutionProvider")


class KokoroOnnxEngine:
    """Kokoro as an ONNX graph; one run at a time for each slot, all slots share the session."""

    def __init__(
        self, model_file: Path, voices: Path, slots: int = 1, threads: int | None = None, device: str = "auto"
    ) -> None:
        self._model_file = model_file
        self._book = VoiceStore(voices)
        self._threads_each = threads or max(1, len(os.sched_getaffinity(0)) // slots)
        self._device = device
        self._threads = EngineThreads("kokoro-onnx", slots)
        self._session: ort.InferenceSession | None = None
        self._phonemizer = Phonemizer(DEFAULT_VOCAB)
        self._inputs: Mapping[str, str] = {}

    async def load(self) -> None:
        """Opens the model and its voices and runs it once for several lengths."""
        if not self._model_file.is_file():
            raise EngineUnavailable(f"no model at {self._model_file}; fetch it with: callboard models fetch")
        started = time.monotonic()
        await self._threads.run(self._open)
        log.info("engine_loaded", extra={"seconds": round(time.monotonic() - started, 2)})

    async def close(self) -> None:
        """Lets go of the model."""
        self._threads.close()
        self._session = None
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
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads_each
        options.inter_op_num_threads = 1
        # Threads spin while a run lasts, since its operations are short, but not between runs: that would take the
        # processor from the services beside this one.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        available = ort.get_available_providers()
        providers = [name for name in _ACCELERATORS if name in available and self._device != "cpu"]
        if self._device == "cuda" and not providers:
            raise EngineUnavailable("device is cuda, but this onnxruntime has no CUDA support")
        try:
            session = ort.InferenceSession(
                str(self._model_file), options, providers=[*providers, "CPUExecutionProvider"]
            )
        except Exception as error:
            raise EngineUnavailable(f"the model {self._model_file} cannot be loaded") from error
        self._inputs = {node.name: node.type for node in session.get_inputs()}
        self._session = session
        self._book.open()
        self._phonemizer.prepare({"en-us"})
        first = self._book.voices()[0]
        choice = VoiceChoice(first.name, ((first.name, 1.0),), first.language)
        for length in WARM_UP_PHONEMES:
            self._speak(("hˈɛlO " * length)[:length], PieceRequest(0, "", choice, 1.0, ""), stop)

    def _read(self, piece: PieceRequest) -> list[str]:
        return split_phonemes(self._phonemizer.phonemes(piece.text, piece.voice.language))

    def _speak(self, phonemes: str, piece: PieceRequest, stop: StopSignal) -> Samples:
        session = self._session
        if session is None:
            raise EngineUnavailable("the engine is not loaded")
        tokens = self._phonemizer.tokens(phonemes)
        style = style_row(self._book.style(piece.voice), len(tokens))
        options = ort.RunOptions()
        stop.on_set(lambda: setattr(options, "terminate", True))
        try:
            outputs = session.run(
                None,
                {
                    "input_ids" if "input_ids" in self._inputs else "tokens": np.array([[0, *tokens, 0]], np.int64),
                    "style": style,
                    "speed": self._speed(piece.speed),
                },
                options,
            )
        except Exception as error:
            stop.check()
            raise EngineFailed("the model failed on a piece") from error
        return np.asarray(outputs[0], dtype=np.float32).ravel()

    def _speed(self, speed: float) -> "np.ndarray[tuple[int], np.dtype[np.generic]]":
        if "int" not in self._inputs.get("speed", ""):
            return np.array([speed], np.float32)
        # Some exports take the speed as a whole number; rounding it in silence would speak at a wrong one.
        if speed != int(speed):
            raise CallboardError(ErrorCode.UNSUPPORTED, "This model speaks at whole speeds only.", param="speed")
        return np.array([int(speed)], np.int32)

"""Kokoro through ONNX Runtime: the engine for CPUs.

kokoro-onnx supplies the vocabulary. The session is our own, because its threads must be set and a run must be
stoppable; the package's stream cannot be cancelled inside a batch.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
from kokoro_onnx.config import DEFAULT_VOCAB

from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_tts.backends.kokoro_base import KokoroBase
from callboard_tts.backends.threads import StopSignal
from callboard_tts.backends.voice_files import Style, VoiceStore
from callboard_tts.domain.ports import Samples
from callboard_worker.engine import EngineRefused, EngineUnavailable

_ACCELERATORS = ("CUDAExecutionProvider", "ROCMExecutionProvider")


class KokoroOnnxEngine(KokoroBase[ort.InferenceSession]):
    """Kokoro as an ONNX graph; each slot makes one run at a time, and all slots share the session."""

    warm_up_lengths = (16, 80)

    def __init__(
        self, model_file: Path, voices: Path, slots: int = 1, threads: int | None = None, device: str = "auto"
    ) -> None:
        super().__init__("kokoro-onnx", VoiceStore(voices), slots, device)
        self._model_file = model_file
        self._threads_each = threads or max(1, len(os.sched_getaffinity(0)) // slots)
        self._inputs: Mapping[str, str] = {}

    def _open(self) -> tuple[ort.InferenceSession, Mapping[str, int]]:
        if not self._model_file.is_file():
            raise EngineUnavailable(f"no model at {self._model_file}; fetch it with: callboard models fetch")
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads_each
        options.inter_op_num_threads = 1
        # The operations of a run are short, so its threads spin between them; between runs they would only take
        # processor time from the services beside this one.
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
        return session, DEFAULT_VOCAB

    def _run(self, model: ort.InferenceSession, phonemes: str, style: Style, speed: float, stop: StopSignal) -> Samples:
        tokens = np.array([[0, *self._phonemizer.tokens(phonemes), 0]], np.int64)
        tokens_name = "input_ids" if "input_ids" in self._inputs else "tokens"
        options = ort.RunOptions()
        stop.on_set(lambda: setattr(options, "terminate", True))
        outputs = model.run(None, {tokens_name: tokens, "style": style, "speed": self._speed(speed)}, options)
        return np.asarray(outputs[0], dtype=np.float32).ravel()

    def _speed(self, speed: float) -> "np.ndarray[tuple[int], np.dtype[np.generic]]":
        if "int" not in self._inputs.get("speed", ""):
            return np.array([speed], np.float32)
        # Some exports take the speed as a whole number; rounding it would speak at another speed than asked for.
        if speed != int(speed):
            message = "This model speaks at whole speeds only."
            raise EngineRefused(ErrorInfo(code=ErrorCode.UNSUPPORTED, message=message, param="speed"))
        return np.array([int(speed)], np.int32)

"""Kokoro through ONNX Runtime: the engine for CPUs.

kokoro-onnx supplies the vocabulary. The session is our own, because its threads must be set and a run must be
stoppable; the package's stream cannot be cancelled inside a batch.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
from kokoro_onnx.config import DEFAULT_VOCAB

from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_kit.control_groups import processors
from callboard_tts.backends.kokoro_base import KokoroBase, Spoken
from callboard_tts.backends.voice_files import Style, VoiceStore
from callboard_worker.engine import EngineRefused, EngineUnavailable
from callboard_worker.threads import StopSignal

FRAMES_OUTPUT = "/encoder/Clip_output_0"
"""The value inside the graph that says how long each phoneme sounds; the graph does not give it out by itself."""
_NAME = b"\x0a" + bytes([len(FRAMES_OUTPUT)]) + FRAMES_OUTPUT.encode()
_OUTPUT = b"\x62" + bytes([len(_NAME)]) + _NAME
_FRAMES_IN_GRAPH = b"\x3a" + bytes([len(_OUTPUT)]) + _OUTPUT
"""A graph in protobuf's encoding that holds nothing but one output (field 12) of that name. A message that stands twice
in protobuf is merged, so appended to a model's file it adds the output; no library to edit graphs is needed."""
_ACCELERATORS = ("CUDAExecutionProvider", "ROCMExecutionProvider")


class KokoroOnnxEngine(KokoroBase[ort.InferenceSession]):
    """Kokoro as an ONNX graph; each slot makes one run at a time, and all slots share the session."""

    warm_up_lengths = (16, 80)

    def __init__(
        self, model_file: Path, voices: Path, slots: int = 1, threads: int | None = None, device: str = "auto"
    ) -> None:
        super().__init__("kokoro-onnx", VoiceStore(voices), slots, device)
        self._model_file = model_file
        self._threads_each = threads or max(1, processors() // slots)
        self._inputs: Mapping[str, str] = {}
        self._gives_frames = False

    @property
    def tells_word_times(self) -> bool:
        """Whether the model's file has the value that says how long each phoneme sounds."""
        return self._gives_frames

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
            model = self._model_file.read_bytes()
            self._gives_frames = FRAMES_OUTPUT.encode() in model
            session = ort.InferenceSession(
                model + _FRAMES_IN_GRAPH if self._gives_frames else model,
                options,
                providers=[*providers, "CPUExecutionProvider"],
            )
        except Exception as error:
            raise EngineUnavailable(f"the model {self._model_file} cannot be loaded") from error
        self._inputs = {node.name: node.type for node in session.get_inputs()}
        return session, DEFAULT_VOCAB

    def _run(self, model: ort.InferenceSession, phonemes: str, style: Style, speed: float, stop: StopSignal) -> Spoken:
        tokens = np.array([[0, *self._phonemizer.tokens(phonemes), 0]], np.int64)
        tokens_name = "input_ids" if "input_ids" in self._inputs else "tokens"
        options = ort.RunOptions()
        # Each length of a piece needs memory of other sizes, which the session would keep for good.
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        stop.on_set(lambda: setattr(options, "terminate", True))
        outputs = model.run(None, {tokens_name: tokens, "style": style, "speed": self._speed(speed)}, options)
        frames = np.asarray(outputs[1]).ravel().astype(np.int64) if self._gives_frames else None
        return Spoken(np.asarray(outputs[0], dtype=np.float32).ravel(), frames)

    def _speed(self, speed: float) -> "np.ndarray[tuple[int], np.dtype[np.generic]]":
        if "int" not in self._inputs.get("speed", ""):
            return np.array([speed], np.float32)
        # Some exports take the speed as a whole number; rounding it would speak at another speed than asked for.
        if speed != int(speed):
            message = "This model speaks at whole speeds only."
            raise EngineRefused(ErrorInfo(code=ErrorCode.UNSUPPORTED, message=message, param="speed"))
        return np.array([int(speed)], np.int32)

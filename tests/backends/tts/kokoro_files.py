"""Where Kokoro's real files lie, and small made-up ones."""

import os
from pathlib import Path

import numpy as np

from callboard_contracts.config import SiteSection
from callboard_kit.model_files import model_path
from callboard_tts.backends.voice_files import STYLE_ROWS, STYLE_WIDTH

MODEL = model_path(SiteSection(), "kokoro-82m-int8.onnx", os.environ)
VOICES = model_path(SiteSection(), "kokoro-voices", os.environ)


def real_files_missing() -> str | None:
    """What of the real model is not on this machine, or None."""
    missing = [path.name for path in (MODEL, VOICES / "af_heart.bin") if not path.exists()]
    return f"model files missing: {', '.join(missing)}; fetch them with: callboard models fetch" if missing else None


def write_voices(folder: Path, *names: str) -> Path:
    """Random voices as `.bin` files, small enough in value to be like real ones."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(7)
    for name in names:
        style = chance.normal(0, 0.1, (STYLE_ROWS, 1, STYLE_WIDTH)).astype("<f4")
        style.tofile(folder / f"{name}.bin")
    return folder

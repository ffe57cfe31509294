"""The paths of Kokoro's real files, and voices of random values."""

import os
from pathlib import Path

import numpy as np

from callboard_contracts.config import SiteSection
from callboard_kit.model_files import model_path
from callboard_tts.backends.voice_files import STYLE_ROWS, STYLE_WIDTH

MODEL = model_path(SiteSection(), "kokoro-82m-int8.onnx", os.environ)
VOICES = model_path(SiteSection(), "kokoro-voices", os.environ)


def real_files_missing() -> str | None:
    """Names the missing files of the real model, or gives None."""
    missing = [path.name for path in (MODEL, VOICES / "af_heart.bin") if not path.exists()]
    return f"model files missing: {', '.join(missing)}; fetch them with: callboard models fetch" if missing else None


def write_voices(folder: Path, *names: str) -> Path:
    """Writes random voices as `.bin` files, with values as small as those of real ones."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(7)
    for name in names:
        style = chance.normal(0, 0.1, (STYLE_ROWS, 1, STYLE_WIDTH)).astype("<f4")
        style.tofile(folder / f"{name}.bin")
    return folder

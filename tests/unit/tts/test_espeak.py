"""One espeak-ng library for all languages, loaded without a copy."""

import subprocess
import sys
import tempfile
from typing import Any

import pytest

from callboard_tts.backends.espeak import espeak_backend

pytestmark = pytest.mark.unit

TEXTS = {"en-us": "Hello, my friend.", "es": "Hola, mi amigo.", "ru": "Привет, мой друг.", "hi": "नमस्ते, मेरे दोस्त।"}


def test_nothing_is_written_for_a_language(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> Any:
        raise PermissionError("no file may be made")

    for name in ("mkdtemp", "mkstemp", "TemporaryFile", "NamedTemporaryFile"):
        monkeypatch.setattr(tempfile, name, refused)
    assert espeak_backend("it").phonemize(["Buongiorno."])[0].strip()


def test_languages_that_take_turns_sound_as_they_do_alone() -> None:
    backends = {language: espeak_backend(language) for language in TEXTS}
    alone = {language: backends[language].phonemize([text] * 3) for language, text in TEXTS.items()}
    assert len({sounds[0] for sounds in alone.values()}) == len(TEXTS)
    for _ in range(3):
        for language, text in TEXTS.items():
            assert backends[language].phonemize([text]) == alone[language][:1], language


def test_telemetry_is_off_before_an_engine_is_imported() -> None:
    shown = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import os, callboard_tts.backends.kokoro_onnx; print(os.environ['ORT_DISABLE_TELEMETRY'])",
        ],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert shown.stdout.strip() == "1"

"""The real Whisper, which hears what the real Kokoro says."""

import asyncio
import os
from contextlib import aclosing
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_whisper import WhisperModel

from callboard_contracts.config import SiteSection
from callboard_contracts.errors import ErrorCode
from callboard_contracts.transcription import text_of
from callboard_kit.model_files import model_folder
from callboard_stt.backends.faster_whisper import FasterWhisperEngine
from callboard_stt.backends.whisper_model import Features
from callboard_tts.backends.kokoro_onnx import KokoroOnnxEngine
from callboard_tts.domain.ports import PieceRequest
from callboard_tts.domain.voices import choose_voice
from callboard_worker.engine import EngineRefused, EngineUnavailable
from tests.backends.stt.suite import RecognitionEngineSuite, Rig, heard
from tests.backends.tts.kokoro_files import MODEL, VOICES, real_files_missing
from tests.support.sounds import Pcm, noise, silence

FOLDER = model_folder(SiteSection(), os.environ) / "whisper-base"
MISSING = real_files_missing() or ("" if (FOLDER / "model.bin").exists() else f"there is no {FOLDER}")
pytestmark = [
    pytest.mark.backend,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(MISSING), reason=str(MISSING)),
]

SENTENCE = "The owl is on the roof, and the play begins at eight."


@cache
def spoken(text: str = SENTENCE, voice: str = "af_heart") -> Pcm:
    """What Kokoro says, at the rate that recognisers take."""

    async def speak() -> Pcm:
        engine = KokoroOnnxEngine(MODEL, VOICES)
        await engine.load()
        piece = PieceRequest(0, text, choose_voice(voice, None, engine.voices()), 1.0, "kokoro")
        async with aclosing(engine.synthesise(piece)) as parts:
            sound = np.concatenate([part.samples async for part in parts])
        await engine.close()
        moments = np.arange(0, sound.size, 1.5)
        return (np.interp(moments, np.arange(sound.size), sound) * 32767).astype(np.int16)

    with asyncio.Runner() as runner:
        return runner.run(speak())


class WhisperRig(Rig):
    model = "whisper"

    def __init__(self) -> None:
        self.speech = np.concatenate([spoken(), silence(0.5)])
        self.whisper = FasterWhisperEngine(FOLDER, 1, None, "cpu", 1, 60.0)
        self.engine = self.whisper

    def busy(self) -> bool:
        return self.whisper.active > 0


@pytest.fixture(scope="module")
def loaded() -> WhisperRig:
    """The engine, loaded once for the module; nothing in it belongs to an event loop."""
    rig = WhisperRig()
    asyncio.run(rig.engine.load())
    return rig


@pytest.fixture
def rig(loaded: WhisperRig) -> WhisperRig:
    return loaded


class TestFasterWhisper(RecognitionEngineSuite):
    async def test_words_are_those_that_were_said(self, rig: WhisperRig) -> None:
        text = text_of(await heard(rig, rig.speech)).lower().replace(",", "")
        assert "the owl is on the roof and the play begins at" in text

    async def test_noise_is_no_text(self, rig: WhisperRig) -> None:
        assert text_of(await heard(rig, noise(5))) == ""

    async def test_other_language_is_found_and_translated(self, rig: WhisperRig) -> None:
        spanish = await asyncio.to_thread(
            spoken, "Buenas noches, el teatro abre a las ocho y la obra empieza a las nueve.", "ef_dora"
        )
        assert "teatro" in text_of(await heard(rig, spanish)).lower()
        assert "theater" in text_of(await heard(rig, spanish, task="translate")).lower().replace("theatre", "theater")

    async def test_beginning_by_which_the_language_is_found_is_encoded_once(
        self, rig: WhisperRig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encode, sizes = WhisperModel.encode, list[int]()

        def counting(self: WhisperModel, features: Features) -> Any:
            sizes.append(features.shape[-1])
            return encode(self, features)

        monkeypatch.setattr(WhisperModel, "encode", counting)
        found = text_of(await heard(rig, rig.speech))
        assert len(sizes) == 1
        assert text_of(await heard(rig, rig.speech, language="en")) == found
        assert len(sizes) == 2
        long = np.concatenate([rig.speech, silence(1)] * 8)
        assert long.size > 31 * 16_000
        await heard(rig, long, voice_activity=False)
        assert len(sizes) < 2 + 4

    async def test_language_that_it_never_heard_of_is_refused(self, rig: WhisperRig) -> None:
        with pytest.raises(EngineRefused) as refused:
            await heard(rig, rig.speech, language="xx")
        assert refused.value.info.code is ErrorCode.INVALID_REQUEST
        assert "en" in refused.value.info.offered


async def test_missing_model_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match=str(tmp_path)):
        await FasterWhisperEngine(tmp_path, 1, None, "cpu", 1, 5.0).load()

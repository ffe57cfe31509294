"""Has the speech-to-text service's own engine write sounds down, as it is configured where nobody sets anything."""

import tomllib
from collections.abc import Sequence
from contextlib import aclosing
from importlib.resources import files
from types import TracebackType
from typing import Self

import numpy as np

from callboard_contracts.config import Config
from callboard_contracts.speech import SAMPLE_RATE_HZ
from callboard_contracts.transcription import TranscriptionRequest, text_of
from callboard_stt.app import build_engine
from callboard_stt.backends.decoder import ProcessDecoder
from callboard_stt.settings import pool_settings
from callboard_tts.domain.ports import Samples
from tests.hearing.listening import PROMPTS
from tests.support.sounds import wav


class Reader:
    """A decoder and an engine of `callboard up`, each sound a request of its own."""

    def __init__(self) -> None:
        text = files("callboard_cli").joinpath("callboard.toml").read_text(encoding="utf-8")
        config = Config.model_validate({"stt": tomllib.loads(text)["stt"]})
        self._model = config.stt.default_model or next(iter(config.stt.models))
        pool = pool_settings(config, config.stt.models[self._model].pool)
        self._engine, self._decoder = build_engine(pool), ProcessDecoder(pool.max_audio_s)

    async def __aenter__(self) -> Self:
        await self._decoder.start()
        await self._engine.load()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._engine.close()
        await self._decoder.close()

    async def read(self, sounds: Sequence[Samples], language: str) -> str:
        """What the engine hears in each of some sounds; of English it is not told what language it is."""
        heard = [await self._text(sound, language) for sound in sounds]
        return " ".join(heard)

    async def _text(self, samples: Samples, language: str) -> str:
        pcm = (samples.clip(-1, 1) * 32767).astype(np.int16)
        sound = await self._decoder.decode(wav(pcm, SAMPLE_RATE_HZ))
        request = TranscriptionRequest(
            model=self._model,
            language=None if language == "en" else language,
            prompt=PROMPTS.get(language, ""),
        )
        async with aclosing(self._engine.transcribe(self._model, sound, request)) as found:
            return text_of([segment async for recognised in found for segment in recognised.segments])

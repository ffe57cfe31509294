"""The suite that every recogniser passes; a subclass supplies the engine as a `Rig`."""

import asyncio
from abc import ABC, abstractmethod
from contextlib import aclosing

import pytest

from callboard_contracts.transcription import TranscribedSegment, TranscriptionRequest, text_of
from callboard_stt.domain.ports import RecognitionEngine, Sound
from callboard_worker.engine import EngineFailed
from tests.support.sounds import Pcm, silence, wav


class Rig(ABC):
    """An engine under test, and what the suite needs to know about it."""

    engine: RecognitionEngine
    model = "fake"
    speech: Pcm
    """At least three seconds in which somebody speaks."""

    @abstractmethod
    def busy(self) -> bool:
        """Whether the engine works at this moment."""

    def slow(self) -> None:  # noqa: B027 - a real engine is slow enough
        """Makes the engine slow enough that it can be interrupted."""

    def fails(self) -> None:
        """Has the engine fail on what comes next."""
        pytest.skip("this engine does not fail on demand")


def sound_of(pcm: Pcm) -> Sound:
    """A sound as the decoder hands it on."""
    return Sound(pcm, wav(pcm), "wav")


async def heard(rig: Rig, pcm: Pcm, start_ms: int = 0, **request: object) -> list[TranscribedSegment]:
    """All segments of a sound."""
    asked = TranscriptionRequest.model_validate({"model": rig.model, **request})
    async with aclosing(rig.engine.transcribe(rig.model, sound_of(pcm), asked, start_ms)) as found:
        return [segment async for recognised in found for segment in recognised.segments]


class RecognitionEngineSuite:
    """What the port promises."""

    async def test_speech_becomes_segments_in_order(self, rig: Rig) -> None:
        segments = await heard(rig, rig.speech)
        assert text_of(segments)
        assert all(0 <= one.start_s < one.end_s for one in segments)
        assert [one.start_s for one in segments] == sorted(one.start_s for one in segments)
        assert segments[-1].end_s <= len(rig.speech) / 16_000 + 1

    async def test_words_lie_in_their_segments_and_make_their_text(self, rig: Rig) -> None:
        for segment in await heard(rig, rig.speech, word_timestamps=True):
            assert "".join(word.word.strip() for word in segment.words) == segment.text.replace(" ", "")
            assert segment.start_s - 0.5 <= segment.words[0].start_s <= segment.words[-1].end_s <= segment.end_s + 0.5

    async def test_silence_is_no_text(self, rig: Rig) -> None:
        assert text_of(await heard(rig, silence(3))) == ""

    async def test_language_is_told(self, rig: Rig) -> None:
        asked = TranscriptionRequest(model=rig.model)
        found = [one.language async for one in rig.engine.transcribe(rig.model, sound_of(rig.speech), asked)]
        assert found[0] in {"en", "english"}

    async def test_beginning_that_was_heard_before_is_left_out(self, rig: Rig) -> None:
        whole = await heard(rig, rig.speech)
        rest = await heard(rig, rig.speech, start_ms=1000)
        assert rest[0].start_s >= 0.9
        assert len(text_of(rest)) < len(text_of(whole))

    async def test_cancelled_sound_stops_the_engine_and_the_next_one_works(self, rig: Rig) -> None:
        rig.slow()
        listening = asyncio.ensure_future(heard(rig, rig.speech))
        async with asyncio.timeout(20):
            while not rig.busy():
                await asyncio.sleep(0.01)
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            while rig.busy():
                await asyncio.sleep(0.01)
        assert rig.engine.broken() is None
        assert await heard(rig, rig.speech)

    async def test_failure_is_an_engine_error_and_the_next_sound_works(self, rig: Rig) -> None:
        rig.fails()
        with pytest.raises(EngineFailed):
            await heard(rig, rig.speech)

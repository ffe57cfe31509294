"""The suite that every speech engine passes; a subclass supplies the engine as a `Rig`."""

import asyncio
from abc import ABC, abstractmethod
from contextlib import aclosing

import numpy as np
import pytest

from callboard_contracts.speech import SAMPLE_RATE_HZ
from callboard_tts.domain.ports import PieceRequest, Samples, SpeechEngine
from callboard_tts.domain.voices import VoiceChoice, choose_voice
from callboard_worker.engine import EngineFailed

TEXT = "The owl is on the roof, and the play begins at eight."
LONG_TEXT = "The owl is on the roof, and the play begins at eight, but nobody came to see it tonight. " * 4
STOP_BOUND_S = 0.25


class Rig(ABC):
    """An engine under test, and what the suite needs to know about it."""

    engine: SpeechEngine
    voice = "af_heart"
    model = "kokoro"
    quietest = 0.01
    loudest = 1.5

    @abstractmethod
    async def busy(self) -> int:
        """How many pieces the engine works on at this moment."""

    def slow(self) -> None:  # noqa: B027 - a real engine is slow enough
        """Makes the engine slow enough that a piece can be interrupted."""

    @abstractmethod
    def breaks(self, text: str) -> PieceRequest:
        """A piece that the engine will fail on."""

    def piece(self, text: str = TEXT, speed: float = 1.0, index: int = 0) -> PieceRequest:
        """A request with the rig's voice and model."""
        return PieceRequest(index, text, self.choice(), speed, self.model)

    def choice(self) -> VoiceChoice:
        """The rig's voice."""
        return choose_voice(self.voice, None, self.engine.voices())


async def speak(engine: SpeechEngine, piece: PieceRequest) -> Samples:
    """The whole sound of a piece."""
    async with aclosing(engine.synthesise(piece)) as parts:
        return np.concatenate([part.samples async for part in parts])


class SpeechEngineSuite:
    """What the port promises."""

    async def test_piece_becomes_sound(self, rig: Rig) -> None:
        sound = await speak(rig.engine, rig.piece())
        assert sound.dtype == np.float32
        assert sound.ndim == 1
        assert 0.5 < sound.size / SAMPLE_RATE_HZ < 20
        assert rig.quietest < float(np.max(np.abs(sound))) < rig.loudest

    async def test_longer_text_is_longer_sound(self, rig: Rig) -> None:
        short = await speak(rig.engine, rig.piece("Good evening to you all."))
        assert (await speak(rig.engine, rig.piece())).size > short.size

    async def test_same_piece_has_the_same_length_each_time(self, rig: Rig) -> None:
        first, second = [await speak(rig.engine, rig.piece()) for _ in range(2)]
        assert first.size == second.size

    async def test_cancelled_piece_stops_the_engine_and_the_next_one_works(self, rig: Rig) -> None:
        rig.slow()
        clock = asyncio.get_running_loop().time
        speaking = asyncio.ensure_future(speak(rig.engine, rig.piece(LONG_TEXT)))
        while not await rig.busy():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert not speaking.done()
        asked = clock()
        speaking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await speaking
        while await rig.busy():
            await asyncio.sleep(0.005)
        # Twice the promise: the machine is shared, and the event loop runs in debug mode.
        assert clock() - asked < 2 * STOP_BOUND_S
        assert rig.engine.broken() is None
        assert (await speak(rig.engine, rig.piece())).size > 0

    async def test_closed_generator_stops_the_engine(self, rig: Rig) -> None:
        async with aclosing(rig.engine.synthesise(rig.piece())) as parts:
            assert (await anext(parts)).samples.size > 0
        async with asyncio.timeout(20):
            while await rig.busy():
                await asyncio.sleep(0.005)

    async def test_bad_piece_fails_alone(self, rig: Rig) -> None:
        with pytest.raises(EngineFailed):
            await speak(rig.engine, rig.breaks(TEXT))
        assert rig.engine.broken() is None
        assert (await speak(rig.engine, rig.piece())).size > 0

    async def test_event_loop_turns_while_a_piece_is_made(self, rig: Rig) -> None:
        rig.slow()
        speaking = asyncio.ensure_future(speak(rig.engine, rig.piece()))
        turns = 0
        while not speaking.done():
            await asyncio.sleep(0.001)
            turns += 1
        assert (await speaking).size > 0
        assert turns > 3

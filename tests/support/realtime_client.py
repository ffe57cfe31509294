"""What a client of the real-time conversation sends, and how it reads what comes."""

import asyncio
import base64
from typing import Any

import numpy as np

from tests.support.sounds import Pcm, silence, tone

PIECE_BYTES = 4800
"""A tenth of a second at 24 kHz."""
EVENT_TIMEOUT_S = 60.0


def spoken(*seconds: float, pitch_hz: float = 300) -> list[str]:
    """Tones and silences in turn, beginning with silence, as a client sends them: a tenth of a second at a time."""
    return pieces(np.concatenate([tone(pitch_hz, each) if n % 2 else silence(each) for n, each in enumerate(seconds)]))


def pieces(sound: Pcm) -> list[str]:
    """A sound of 16 kHz as a client sends it."""
    pcm = np.repeat(sound, 3)[::2].astype("<i2").tobytes()
    return [base64.b64encode(pcm[at : at + PIECE_BYTES]).decode() for at in range(0, len(pcm), PIECE_BYTES)]


async def until(connection: Any, kind: str, timeout_s: float = EVENT_TIMEOUT_S) -> list[Any]:
    """The events up to one of a type."""
    events: list[Any] = []
    async with asyncio.timeout(timeout_s):
        while not events or events[-1].type != kind:
            events.append(await connection.recv())
            assert events[-1].type != "error" or kind == "error", events[-1]
    return events


def sound_of(events: list[Any], kind: str = "response.output_audio.delta") -> bytes:
    """The sound of an answer."""
    return b"".join(base64.b64decode(event.delta) for event in events if event.type == kind)


def heard_in(events: list[Any]) -> list[str]:
    """The texts of the turns that were written down."""
    kind = "conversation.item.input_audio_transcription.completed"
    return [event.transcript for event in events if event.type == kind]


def answer_in(events: list[Any]) -> str:
    """The text of the answer that ends the events, which must be whole."""
    response = events[-1].response
    assert response.status == "completed", response
    return response.output[0].content[0].transcript


async def asks(connection: Any, sound: list[str], **response: Any) -> list[Any]:
    """Sends a turn that the client ends, asks for its answer and returns all events to the answer's end."""
    for piece in sound:
        await connection.input_audio_buffer.append(audio=piece)
    await connection.input_audio_buffer.commit()
    await connection.response.create(**({"response": response} if response else {}))
    return await until(connection, "response.done")

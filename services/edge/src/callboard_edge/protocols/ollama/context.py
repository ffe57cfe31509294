"""The conversation so far as a list of numbers, which `/api/generate` gives and takes back as `context`.

Ollama's numbers are tokens of one model, in a prompt that is written already. Here they are the compressed text of the
turns, so that any engine can go on with any model. Clients keep them as they are.
"""

import json
import zlib
from collections.abc import Sequence
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from callboard_contracts.chat import ChatMessage
from callboard_contracts.errors import CallboardError, ErrorCode

MAX_CHARACTERS = 64 * 1024
"""Of a longer conversation the latest turns are kept."""
MAX_BYTES = 8 * MAX_CHARACTERS
NUMBER_BYTES = 6
"""As many as every client's whole numbers hold."""

_TURNS = TypeAdapter(list[tuple[Literal["system", "user", "assistant"], str]])


def packed(messages: Sequence[ChatMessage]) -> list[int]:
    """The numbers for a conversation: how many bytes there are, and then the bytes."""
    turns: list[tuple[str, str]] = []
    room = MAX_CHARACTERS
    for message in reversed(messages):
        room -= len(message.content)
        if room >= 0 or message.role == "system":
            turns.insert(0, (message.role, message.content[-MAX_CHARACTERS:]))
    data = zlib.compress(json.dumps(turns, separators=(",", ":")).encode())
    starts = range(0, len(data), NUMBER_BYTES)
    return [len(data), *(int.from_bytes(data[at : at + NUMBER_BYTES].ljust(NUMBER_BYTES, b"\0")) for at in starts)]


def unpacked(numbers: Sequence[int]) -> tuple[ChatMessage, ...]:
    """The conversation of some numbers.

    Raises:
        CallboardError: they are not those of this server.
    """
    if not numbers:
        return ()
    try:
        data = b"".join(number.to_bytes(NUMBER_BYTES) for number in numbers[1:])[: max(0, numbers[0])]
        turns = _TURNS.validate_json(zlib.decompressobj().decompress(data, MAX_BYTES))
    except (ValueError, OverflowError, zlib.error, ValidationError):
        message = "The context is none that this server gave; leave it out."
        raise CallboardError(ErrorCode.INVALID_REQUEST, message, param="context") from None
    return tuple(ChatMessage(role=role, content=content) for role, content in turns)

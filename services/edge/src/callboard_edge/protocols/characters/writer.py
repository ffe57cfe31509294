"""Replies as one JSON object, or as server-sent events of one field each: `text`, `audio`, then the end."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from callboard_contracts.chat import ChatEnd, ChatFrame
from callboard_contracts.errors import ErrorInfo
from callboard_edge.domain.text_stream import TextReply
from callboard_edge.domain.word_times import TimedWord
from callboard_edge.http.narrated_responder import SpokenReply
from callboard_edge.protocols.characters.errors import error_of


class MessageWriter:
    """Writes the reply to a message, with its sound where it is spoken in a `sound_format`."""

    content_type = "text/event-stream; charset=utf-8"
    keep_alive = b": keep-alive\n\n"

    def __init__(self, request_id: str, character: str, speaker: str, sound_format: str = "") -> None:
        self._head = {"id": f"msg_{request_id}", "character": character, "speaker": speaker}
        self._sound_format = sound_format

    def whole(self, reply: TextReply) -> bytes:
        """The reply."""
        return _encoded({**self._head, "text": reply.text, **_ending(reply.end)})

    def spoken(self, reply: SpokenReply, sound: bytes) -> bytes:
        """The reply with its sound."""
        audio = {"format": self._sound_format, "data": base64.b64encode(sound).decode()}
        return _encoded({**self._head, "text": reply.text.text, **_ending(reply.text.end), "audio": audio})

    def opening(self) -> bytes:
        """Who answers whom."""
        return _event(self._head)

    def deltas(self, frames: Sequence[ChatFrame]) -> bytes:
        """A piece of text."""
        text = "".join(frame.text for frame in frames)
        return _event({"text": text}) if text else b""

    def audio(self, sound: bytes) -> bytes:
        """A piece of the sound."""
        return _event({"audio": base64.b64encode(sound).decode()})

    def words(self, words: Sequence[TimedWord]) -> bytes:
        """Nothing: nobody can ask for them."""
        del words
        return b""

    def closing(self, end: ChatEnd) -> bytes:
        """Why the reply ended and what it used."""
        return _event(_ending(end))

    def ending(self, reply: SpokenReply) -> bytes:
        """The same, after the sound."""
        return self.closing(reply.text.end)

    def failure(self, error: ErrorInfo) -> bytes:
        """The error."""
        return _event({"error": error_of(error)})


def _ending(end: ChatEnd) -> dict[str, Any]:
    usage = {"prompt_tokens": end.usage.prompt_tokens, "completion_tokens": end.usage.completion_tokens}
    return {"finish_reason": end.reason, "usage": usage}


def _event(fields: Mapping[str, Any]) -> bytes:
    return b"data: " + _encoded(fields) + b"\n\n"


def _encoded(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace")

"""The events that clients of `/v1/realtime` get, in the names of today's protocol or of its beta."""

import json
from typing import Any, Protocol

from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_edge.protocols.openai.errors import error_fields
from callboard_edge.protocols.openai.realtime_items import new_id
from callboard_edge.protocols.openai.realtime_settings import Shape

_BETA_NAMES = {
    "conversation.item.added": "conversation.item.created",
    "response.output_text.delta": "response.text.delta",
    "response.output_text.done": "response.text.done",
    "response.output_audio.delta": "response.audio.delta",
    "response.output_audio.done": "response.audio.done",
    "response.output_audio_transcript.delta": "response.audio_transcript.delta",
    "response.output_audio_transcript.done": "response.audio_transcript.done",
}
_NOT_BETA = frozenset({"conversation.item.done"})


class CodedError(CallboardError):
    """What a client does wrong that libraries know by a code of OpenAI's, and pass over or act on."""

    def __init__(self, name: str, message: str, param: str | None = None) -> None:
        super().__init__(ErrorCode.INVALID_REQUEST, message, param=param)
        self.name = name


class Outbox(Protocol):
    """Where events go: at once, in order."""

    def send(self, event: str, tag: str | None = None) -> None:
        """Takes an event, under a tag by which it can be taken back while it waits."""
        ...

    def take_back(self, tag: str) -> None:
        """Drops what waits under a tag."""
        ...


class Events:
    """Writes events by their names of today, and as its client knows them."""

    def __init__(self, outbox: Outbox, shape: Shape) -> None:
        self._outbox = outbox
        self.shape: Shape = shape

    def send(self, kind: str, tag: str | None = None, /, **fields: Any) -> None:
        """Sends an event."""
        if self.shape == "beta":
            if kind in _NOT_BETA:
                return
            kind = _BETA_NAMES.get(kind, kind)
        event = {"type": kind, "event_id": new_id("event"), **fields}
        self._outbox.send(json.dumps(event, ensure_ascii=False, separators=(",", ":")), tag)

    def take_back(self, tag: str) -> None:
        """Drops what waits under a tag."""
        self._outbox.take_back(tag)

    def error(self, info: ErrorInfo, event_id: str | None = None, code: str | None = None) -> None:
        """Tells of an error; `event_id` names the client's event at fault, `code` what OpenAI calls the error."""
        fields = error_fields(info)
        self.send("error", error={**fields, "code": code or fields["code"], "event_id": event_id})

"""One response of a real-time conversation, from its creation to its end, as events."""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from callboard_contracts.chat import ChatEnd, ChatFrame, TokenUsage, ToolCall
from callboard_contracts.errors import ErrorInfo
from callboard_edge.domain.word_times import TimedWord
from callboard_edge.protocols.openai.errors import error_fields
from callboard_edge.protocols.openai.realtime_events import Events
from callboard_edge.protocols.openai.realtime_items import Item, Part, new_id
from callboard_edge.protocols.openai.realtime_settings import SessionSettings, format_object, modalities

Status = Literal["in_progress", "completed", "cancelled", "failed", "incomplete"]
CancelReason = Literal["turn_detected", "client_cancelled"]


@dataclass(frozen=True, slots=True)
class Answered:
    """How an answer ended that is complete, or as long as it may be; `audio_tokens` is what its sound costs."""

    end: ChatEnd
    cut_short: bool = False
    audio_tokens: int = 0


class Response:
    """What is written and spoken as an answer; `add_item` puts an item into the conversation and tells what is before.

    Once it has ended it takes nothing more.
    """

    def __init__(
        self,
        events: Events,
        settings: SessionSettings,
        add_item: Callable[[Item], str | None] | None,
        conversation_id: str | None,
        metadata: Mapping[str, str] | None,
    ) -> None:
        self.id = new_id("resp")
        self.settings = settings
        self.status: Status = "in_progress"
        self._events = events
        self._add_item = add_item
        self._conversation_id = conversation_id
        self._metadata = metadata
        self._items: list[Item] = []
        self._previous_id: str | None = None
        """The item before the last one, in the conversation."""
        self._message: Item | None = None
        self._details: dict[str, Any] | None = None
        self._usage: dict[str, Any] | None = None
        self._tokens = 0
        self._calls: list[ToolCall] = []
        events.send("response.created", response=self._as_object())

    @property
    def is_open(self) -> bool:
        """Whether it goes on."""
        return self.status == "in_progress"

    @property
    def in_conversation(self) -> bool:
        """Whether it belongs to the conversation."""
        return self._add_item is not None

    def written(self, frames: Sequence[ChatFrame]) -> None:
        """Adds text and calls of functions."""
        if not self.is_open:
            return
        self._tokens += sum(frame.tokens for frame in frames)
        if text := "".join(frame.text for frame in frames):
            self._part().write(text)
            kind = "output_audio_transcript" if self.settings.spoken else "output_text"
            self._send_of_part(f"{kind}.delta", delta=text)
        # An item is told at once and whole, and what is spoken comes later than what is written.
        self._calls += [call for frame in frames for call in frame.tool_calls]

    def spoken(self, sound: bytes, duration_ms: int, words: Sequence[TimedWord]) -> None:
        """Adds sound, `duration_ms` long and in the client's form, and the words that begin in it."""
        if not self.is_open:
            return
        self._part().speak(duration_ms, words)
        if sound:
            self._send_of_part("output_audio.delta", self.id, delta=base64.b64encode(sound).decode())

    def heard(self) -> str:
        """What has been said so far: of a text all of it, of a speech as much as has sounded."""
        if self._message is None:
            return ""
        part = self._message.parts[0]
        return part.heard(part.audio_ms) if self.settings.spoken else part.text or ""

    def complete(self, answered: Answered) -> None:
        """Ends an answer that was given."""
        if not self.is_open:
            return
        cut_short = answered.cut_short or answered.end.reason == "length"
        if self._message is not None:
            self._message.parts[0].is_whole = not answered.cut_short
        self._usage = _usage(answered.end.usage, answered.audio_tokens)
        status: Literal["completed", "incomplete"] = "incomplete" if cut_short else "completed"
        self._close_message(status)
        for call in self._calls:
            self._called(call)
        self._end(status, {"type": "incomplete", "reason": "max_output_tokens"} if cut_short else None)

    def cancel(self, reason: CancelReason) -> None:
        """Ends an answer that is not wanted any more; sound that waits to be sent is dropped."""
        if self.is_open:
            self._events.take_back(self.id)
            self._usage = _usage(TokenUsage(completion_tokens=self._tokens), 0)
            self._end("cancelled", {"type": "cancelled", "reason": reason})

    def fail(self, info: ErrorInfo) -> None:
        """Ends an answer that failed."""
        if self.is_open:
            error = error_fields(info)
            self._usage = _usage(TokenUsage(completion_tokens=self._tokens), 0)
            self._end("failed", {"type": "failed", "error": error})

    def _called(self, call: ToolCall) -> None:
        item = Item(
            new_id("item"), "function_call", status="in_progress", call_id=call.id, name=call.name, arguments=""
        )
        self._begin(item)
        place = {"item_id": item.id, "call_id": call.id}
        item.arguments, item.status = call.arguments, "completed"
        self._send("function_call_arguments.delta", **place, delta=call.arguments)
        self._send("function_call_arguments.done", **place, name=call.name, arguments=call.arguments)
        self._done(item)

    def _part(self) -> Part:
        """The part that is being written; the first text or sound begins it."""
        if self._message is None:
            self._message = Item(new_id("item"), role="assistant", status="in_progress")
            self._begin(self._message)
            self._message.parts.append(Part("output_audio" if self.settings.spoken else "output_text"))
            self._send_of_part("content_part.added", part=self._part_object())
        return self._message.parts[0]

    def _begin(self, item: Item) -> None:
        self._items.append(item)
        shown = item.as_object(self._events.shape)
        self._send("output_item.added", item=shown)
        if self._add_item is not None:
            self._previous_id = self._add_item(item)
            self._events.send("conversation.item.added", previous_item_id=self._previous_id, item=shown)

    def _done(self, item: Item) -> None:
        shown = item.as_object(self._events.shape)
        if self._add_item is not None:
            self._events.send("conversation.item.done", previous_item_id=self._previous_id, item=shown)
        self._send("output_item.done", item=shown)

    def _close_message(self, status: Literal["completed", "incomplete"]) -> None:
        message, spoken = self._message, self.settings.spoken
        if message is None or message.status != "in_progress":
            return
        text = message.parts[0].text or ""
        if spoken:
            self._send_of_part("output_audio.done")
            self._send_of_part("output_audio_transcript.done", transcript=text)
        else:
            self._send_of_part("output_text.done", text=text)
        self._send_of_part("content_part.done", part=self._part_object())
        message.status = status
        self._done(message)

    def _part_object(self) -> dict[str, Any]:
        # A part is an `audio` here in both forms of the protocol, though an item's is an `output_audio` today.
        text = self._message.parts[0].text if self._message else ""
        return {"type": "audio", "transcript": text} if self.settings.spoken else {"type": "text", "text": text}

    def _send_of_part(self, kind: str, tag: str | None = None, /, **fields: Any) -> None:
        assert self._message is not None
        index = self._items.index(self._message)
        self._events.send(
            f"response.{kind}",
            tag,
            response_id=self.id,
            item_id=self._message.id,
            output_index=index,
            content_index=0,
            **fields,
        )

    def _send(self, kind: str, **fields: Any) -> None:
        self._events.send(f"response.{kind}", response_id=self.id, output_index=len(self._items) - 1, **fields)

    def _end(self, status: Status, details: dict[str, Any] | None) -> None:
        self._close_message("completed" if status == "completed" else "incomplete")
        self.status, self._details = status, details
        self._events.send("response.done", response=self._as_object())

    def _as_object(self) -> dict[str, Any]:
        settings, shape = self.settings, self._events.shape
        common = {
            "object": "realtime.response",
            "id": self.id,
            "status": self.status,
            "status_details": self._details,
            "output": [item.as_object(shape) for item in self._items],
            "conversation_id": self._conversation_id,
            "max_output_tokens": settings.max_output_tokens or "inf",
            "metadata": self._metadata,
            "usage": self._usage,
        }
        if shape == "beta":
            return common | {
                "modalities": modalities(settings, shape),
                "voice": settings.voice,
                "output_audio_format": settings.output_format,
                "temperature": settings.temperature,
            }
        output = {"format": format_object(settings.output_format), "voice": settings.voice}
        return common | {"output_modalities": modalities(settings, shape), "audio": {"output": output}}


def _usage(usage: TokenUsage, audio_tokens: int) -> dict[str, Any]:
    """Token counts; those of sound are what quota charged for it."""
    output = usage.completion_tokens + audio_tokens
    return {
        "total_tokens": usage.prompt_tokens + output,
        "input_tokens": usage.prompt_tokens,
        "output_tokens": output,
        "input_token_details": {
            "cached_tokens": usage.cached_prompt_tokens,
            "text_tokens": usage.prompt_tokens,
            "audio_tokens": 0,
            "image_tokens": 0,
        },
        "output_token_details": {"text_tokens": usage.completion_tokens, "audio_tokens": audio_tokens},
    }

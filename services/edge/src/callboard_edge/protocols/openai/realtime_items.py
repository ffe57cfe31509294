"""The items of a real-time conversation: what was said, called and answered, in order."""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from callboard_contracts.chat import ChatMessage, Role, ToolCall
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.abilities import unsupported
from callboard_edge.domain.word_times import TimedWord
from callboard_edge.protocols.openai.realtime_bodies import ItemBody, ItemPart
from callboard_edge.protocols.openai.realtime_settings import Shape
from callboard_edge.protocols.openai.responses_input import joined

ROOT = "root"
MAX_TEXT_BYTES = 1024 * 1024
"""How much text a conversation keeps."""
CHARACTERS_PER_S = 15
"""How fast a voice speaks of which nothing more is known."""
PartKind = Literal["input_text", "input_audio", "output_text", "output_audio"]
_BETA_KINDS = {"output_text": "text", "output_audio": "audio"}
_KINDS: dict[str, PartKind] = {
    "input_text": "input_text",
    "input_audio": "input_audio",
    "output_text": "output_text",
    "output_audio": "output_audio",
    "text": "output_text",
    "audio": "output_audio",
}


def new_id(prefix: str) -> str:
    """An id that nobody guesses."""
    return f"{prefix}_{secrets.token_hex(12)}"


@dataclass(slots=True, eq=False)
class Part:
    """A part of a message, alike another only if it is the same; the text of a sound is its transcript, if known.

    `audio_ms` and `words` are what a voice has spoken of it so far, `is_whole` whether that is all. A part that was cut
    to what was heard stays as it is, whatever is still written and spoken of it.
    """

    kind: PartKind
    text: str | None = ""
    audio_ms: int = 0
    words: list[TimedWord] = field(default_factory=list[TimedWord])
    is_whole: bool = False
    is_cut: bool = False

    def write(self, text: str) -> None:
        """Adds text."""
        if not self.is_cut:
            self.text = (self.text or "") + text

    def speak(self, duration_ms: int, words: Sequence[TimedWord]) -> None:
        """Adds sound, and the words that begin in it."""
        if not self.is_cut:
            self.audio_ms += duration_ms
            self.words += words

    def as_object(self, shape: Shape) -> dict[str, Any]:
        """The part as clients see it."""
        kind = self.kind if shape == "ga" else _BETA_KINDS.get(self.kind, self.kind)
        return {"type": kind, "transcript" if self.kind.endswith("audio") else "text": self.text}

    def heard(self, audio_end_ms: int) -> str:
        """The text of what was heard: by the words' times where they are known, else by its share."""
        text = self.text or ""
        return text[: self._heard_characters(text, audio_end_ms)].rstrip()

    def cut(self, audio_end_ms: int) -> None:
        """Keeps the text of what was heard."""
        if self.text is not None:
            self.text = self.heard(audio_end_ms)
        self.audio_ms = min(self.audio_ms, audio_end_ms)
        self.is_cut = True

    def _heard_characters(self, text: str, audio_end_ms: int) -> int:
        if self.is_whole and audio_end_ms >= self.audio_ms:
            return len(text)
        if self.words:
            end = 0
            for word in self.words:
                if word.start_ms >= audio_end_ms:
                    break
                if (found := text.find(word.word, end)) >= 0:
                    end = found + len(word.word)
            return end
        share = audio_end_ms / self.audio_ms if self.is_whole and self.audio_ms else 0.0
        size = int(len(text) * share) if share else audio_end_ms * CHARACTERS_PER_S // 1000
        return len(text) if size >= len(text) else max(0, text.rfind(" ", 0, size + 1))


@dataclass(slots=True)
class Item:
    """A message, a call of a function or its output."""

    id: str
    type: Literal["message", "function_call", "function_call_output"] = "message"
    role: Literal["user", "assistant", "system"] | None = None
    status: Literal["completed", "incomplete", "in_progress"] = "completed"
    parts: list[Part] = field(default_factory=list[Part])
    call_id: str | None = None
    name: str | None = None
    arguments: str = ""
    output: str = ""

    @property
    def text_bytes(self) -> int:
        """How much text it holds."""
        texts = (*(part.text or "" for part in self.parts), self.arguments, self.output)
        return sum(len(text.encode(errors="replace")) for text in texts)

    @property
    def text(self) -> str:
        """The text of a message."""
        return "\n".join(part.text for part in self.parts if part.text)

    def as_object(self, shape: Shape) -> dict[str, Any]:
        """The item as clients see it."""
        common = {"id": self.id, "object": "realtime.item", "type": self.type, "status": self.status}
        match self.type:
            case "message":
                return common | {"role": self.role, "content": [part.as_object(shape) for part in self.parts]}
            case "function_call":
                return common | {"call_id": self.call_id, "name": self.name, "arguments": self.arguments}
            case "function_call_output":
                return common | {"call_id": self.call_id, "output": self.output}

    def as_message(self) -> ChatMessage | None:
        """What a model reads of it; nothing where nothing was said."""
        match self.type:
            case "message":
                role: Role = self.role or "user"
                return ChatMessage(role=role, content=self.text) if self.text.strip() else None
            case "function_call":
                call = ToolCall(id=self.call_id or self.id, name=self.name or "", arguments=self.arguments)
                return ChatMessage(role="assistant", tool_calls=(call,))
            case "function_call_output":
                return ChatMessage(role="tool", content=self.output, tool_call_id=self.call_id)


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item that a client sends, and the sound of its parts that have yet to be written down."""

    item: Item
    sounds: Sequence[tuple[Part, str]] = ()


def read_item(body: ItemBody, place: str) -> NewItem:
    """An item of a client.

    Raises:
        CallboardError: a field is missing, or its content cannot be read here.
    """
    item_id = body.id or new_id("item")
    match body.type:
        case "message":
            if body.role is None:
                raise _invalid("A message needs a role.", f"{place}.role")
            parts = [_part(part, body.role, f"{place}.content[{n}]") for n, part in enumerate(body.content or ())]
            sounds = [(part, sound) for part, sound in parts if sound is not None]
            return NewItem(Item(item_id, role=body.role, parts=[part for part, _ in parts]), sounds)
        case "function_call":
            if body.name is None:
                raise _invalid("A function call needs 'name'.", f"{place}.name")
            return NewItem(
                Item(
                    item_id,
                    "function_call",
                    call_id=body.call_id or new_id("call"),
                    name=body.name,
                    arguments=body.arguments or "",
                )
            )
        case "function_call_output":
            if body.call_id is None or body.output is None:
                raise _invalid("The output of a function needs 'call_id' and 'output'.", f"{place}.call_id")
            return NewItem(Item(item_id, "function_call_output", call_id=body.call_id, output=body.output))
        case "item_reference":
            raise _invalid("Only the input of a response may refer to items.", f"{place}.type")


def _part(body: ItemPart, role: str, place: str) -> tuple[Part, str | None]:
    kind = _KINDS.get(body.type)
    if kind is None:
        raise unsupported("Parts of this type cannot be read here.", f"{place}.type")
    if role != "user" and kind == "input_audio":
        raise _invalid("Only a user's message may be sound.", f"{place}.type")
    if kind == "input_audio" and body.audio is not None and not body.transcript:
        return Part(kind, None), body.audio
    text = body.transcript if kind.endswith("audio") else body.text
    if text is None:
        raise _invalid("A part needs its text, its sound or its transcript.", place)
    return Part(kind, text, is_whole=True), None


class Conversation:
    """Items in order, of which the oldest leave when there are too many."""

    def __init__(self, max_items: int) -> None:
        self.id = new_id("conv")
        self._max_items = max_items
        self._items: list[Item] = []

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    @property
    def last_id(self) -> str | None:
        """The id of the last item."""
        return self._items[-1].id if self._items else None

    def add(self, item: Item, after: str | None = None) -> str | None:
        """Puts an item at the end, or after another, and returns the id of the one before it.

        Raises:
            CallboardError: the id is taken, or there is no item of the other.
        """
        if any(one.id == item.id for one in self._items):
            raise _invalid("There is an item of this id already.", "item.id")
        if item.type == "function_call_output" and item.call_id not in self._calls():
            raise _invalid("There is no function call of this id in the conversation.", "item.call_id")
        index = len(self._items)
        if after == ROOT:
            index = 0
        elif after is not None:
            index = self._index(after, "previous_item_id") + 1
        self._items.insert(index, item)
        return self._items[index - 1].id if index else None

    def overflow(self) -> Iterable[Item]:
        """Takes out the oldest items, as far as there are too many or too long ones."""
        sizes = [item.text_bytes for item in self._items]
        total = sum(sizes)
        gone: list[Item] = []
        while len(self._items) > self._max_items or (total > MAX_TEXT_BYTES and len(self._items) > 1):
            total -= sizes[len(gone)]
            gone.append(self._items.pop(0))
        return gone

    def get(self, item_id: str) -> Item:
        """The item of an id; raises CallboardError where there is none."""
        return self._items[self._index(item_id, "item_id")]

    def find(self, item_id: str) -> Item | None:
        """The item of an id, or None."""
        return next((item for item in self._items if item.id == item_id), None)

    def delete(self, item_id: str) -> None:
        """Takes an item out; raises as `get` does."""
        del self._items[self._index(item_id, "item_id")]

    def truncate(self, item_id: str, content_index: int, audio_end_ms: int) -> None:
        """Keeps of a spoken answer what was heard.

        Raises:
            CallboardError: there is no such answer, or it was not so long.
        """
        item = self.get(item_id)
        if item.role != "assistant":
            raise _invalid("Only an assistant's message can be truncated.", "item_id")
        if content_index >= len(item.parts) or item.parts[content_index].kind != "output_audio":
            raise _invalid("There is no sound at this index.", "content_index")
        part = item.parts[content_index]
        if audio_end_ms > part.audio_ms:
            raise _invalid(f"The sound is {part.audio_ms} ms long, shorter than {audio_end_ms} ms.", "audio_end_ms")
        part.cut(audio_end_ms)

    def _calls(self) -> set[str | None]:
        return {item.call_id for item in self._items if item.type == "function_call"}

    def _index(self, item_id: str, param: str) -> int:
        for index, item in enumerate(self._items):
            if item.id == item_id:
                return index
        raise _invalid("There is no item of this id in the conversation.", param)


def messages_of(items: Iterable[Item]) -> tuple[ChatMessage, ...]:
    """What a model reads of some items."""
    return joined([message for item in items if (message := item.as_message()) is not None])


def _invalid(message: str, param: str) -> CallboardError:
    return CallboardError(ErrorCode.INVALID_REQUEST, message, param=param)

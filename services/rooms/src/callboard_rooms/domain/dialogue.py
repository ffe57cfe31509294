"""What a model is given of a room's dialogue, and how much of it the room remembers.

A prompt is the turn's own messages (the instructions), then the dialogue with the oldest message first. When it grows
too long, several old turns go at once, so that the next prompts begin with the same text and an engine's prompt cache
keeps its hits. A turn's messages stay or go together, so that a dialogue always begins with a visitor's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydantic import TypeAdapter

from callboard_contracts.chat import ChatMessage, ChatRequest, RoomTurn
from callboard_contracts.prompt_size import (
    USUAL_MESSAGE_TOKENS,
    USUAL_TOKENS_PER_BYTE,
    prompt_bytes,
    usual_prompt_tokens,
)
from callboard_contracts.rooms import ModelMemory, Room, RoomMessage, Turn

KEPT = 3 / 4
"""How much of what is allowed is left when a dialogue is cut."""
MARGIN = 0.97
"""Part of a context that a prompt and its reply may fill by the count of tokens before."""
MIN_PROMPT_BYTES = 64
"""In a shorter prompt most tokens are the template's."""
MIN_TOKENS_PER_BYTE, MAX_TOKENS_PER_BYTE = 0.05, 2.0
MAX_MODELS = 16
UNLIMITED = 1 << 60


_MESSAGES = TypeAdapter(tuple[RoomMessage, ...])


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a room may remember and send; `context_tokens` by model, without those whose context is unknown."""

    max_messages: int = 25
    context_tokens: Mapping[str, int] = field(default_factory=dict[str, int])
    max_request_bytes: int = 1_000_000
    max_document_bytes: int = 1_000_000


@dataclass(frozen=True, slots=True)
class _Budget:
    messages: float
    tokens: float
    size: float


def limits_of(turn: Turn, limits: Limits) -> Limits:
    """The limits of a room as one of its turns has them."""
    return limits if turn.memory_messages is None else replace(limits, max_messages=turn.memory_messages)


def line(speaker: str, text: str) -> str:
    """A message as the model reads it."""
    return f"{speaker}: {text}" if speaker else text


def request_of(room: Room, turn: Turn) -> ChatRequest:
    """A turn's request with the part of the dialogue that its model is given."""
    assert turn.request is not None
    dialogue = _given(room, turn) if turn.remembers else ()
    return _with_dialogue(room, turn, turn.request, dialogue)


def remembered(room: Room, turn: Turn, limits: Limits) -> Room:
    """The room, where the model of a turn is given so much of the dialogue as fits its context and the bus."""
    if turn.request is None or not turn.remembers:
        return room
    model = turn.request.model
    memory = room.memories.get(model, ModelMemory())
    given = _given(room, turn)
    kept = _fitting(given, _budget(room, turn, turn.request, limits_of(turn, limits)), memory)
    first = kept[0].turn if kept else ""
    if len(kept) == len(given):
        # What was cut before stays cut.
        first = memory.first_turn
    elif not kept:
        # An unknown turn stands for the whole dialogue; this one comes after all of it.
        first = turn.id
    return _with_memory(room, model, memory.model_copy(update={"first_turn": first}))


def halved(room: Room, turn: Turn) -> Room:
    """The room after a prompt that was too long by the engine's count: its model is given half as much."""
    assert turn.request is not None
    given = _given(room, turn)
    kept = without_oldest(given, len(given) - len(given) // 2)
    memory = room.memories.get(turn.request.model, ModelMemory())
    first = kept[0].turn if kept else turn.id
    return _with_memory(room, turn.request.model, memory.model_copy(update={"first_turn": first}))


def learned(room: Room, turn: Turn, prompt_tokens: int) -> Room:
    """The room with what the engine counted in a turn's prompt."""
    assert turn.request is not None
    request = request_of(room, turn)
    size = prompt_bytes(request)
    if size < MIN_PROMPT_BYTES or not prompt_tokens:
        return room
    rate = (prompt_tokens - usual_prompt_tokens(request, 0.0, UNLIMITED)) / size
    memory = room.memories.get(turn.request.model, ModelMemory())
    rate = round(min(MAX_TOKENS_PER_BYTE, max(MIN_TOKENS_PER_BYTE, rate)), 4)
    return _with_memory(room, turn.request.model, memory.model_copy(update={"tokens_per_byte": rate}))


def cut(messages: Sequence[RoomMessage], max_messages: int) -> tuple[RoomMessage, ...]:
    """The messages, without the oldest where they are more than a room remembers."""
    if len(messages) <= max_messages:
        return tuple(messages)
    return without_oldest(messages, len(messages) - int(max_messages * KEPT))


def without_oldest(messages: Sequence[RoomMessage], count: int) -> tuple[RoomMessage, ...]:
    """The messages without at least `count` of the oldest, and without those of the same turn."""
    while 0 < count < len(messages) and messages[count].turn == messages[count - 1].turn:
        count += 1
    return tuple(messages[count:])


def _given(room: Room, turn: Turn) -> tuple[RoomMessage, ...]:
    """The dialogue from the turn on that the model's prompts begin with."""
    assert turn.request is not None
    first = room.memories.get(turn.request.model, ModelMemory()).first_turn
    if first == turn.id:
        return ()
    begin = next((n for n, message in enumerate(room.messages) if message.turn == first), 0)
    return room.messages[begin:]


def _with_dialogue(room: Room, turn: Turn, request: ChatRequest, dialogue: Sequence[RoomMessage]) -> ChatRequest:
    own = RoomMessage(role="user", speaker=turn.speaker, text=turn.text, turn=turn.id, at=turn.created_at)
    said, room_turn = (*dialogue, own), RoomTurn(room=room.id, turn=turn.id)
    if request.mode == "completion":
        # The model goes on where the character's own line begins.
        lines = [request.prompt, *(line(one.speaker, one.text) for one in said), f"{turn.character}:"]
        return request.model_copy(update={"prompt": "\n".join(lines), "turn": room_turn})
    messages = (
        ChatMessage(
            role=one.role,
            content=line(one.speaker, one.text) if turn.named_lines else one.text,
            # This form writes who speaks by itself.
            name=one.speaker if request.prompt_format == "pygmalion" and not turn.named_lines else None,
        )
        for one in said
    )
    return request.model_copy(update={"messages": (*request.messages, *messages), "turn": room_turn})


def _budget(room: Room, turn: Turn, request: ChatRequest, limits: Limits) -> _Budget:
    """What the dialogue may have beside the turn's own messages and the reply."""
    own = _with_dialogue(room, turn, request, ())
    size = limits.max_request_bytes - len(own.compact())
    context_tokens = limits.context_tokens.get(request.model)
    if context_tokens is None:
        return _Budget(limits.max_messages, UNLIMITED, size)
    tokens = (context_tokens - request.max_output_tokens) * MARGIN
    own_tokens = usual_prompt_tokens(own, _rate(room.memories.get(request.model, ModelMemory())), UNLIMITED)
    return _Budget(limits.max_messages, tokens - own_tokens, size)


def _rate(memory: ModelMemory) -> float:
    return memory.tokens_per_byte or USUAL_TOKENS_PER_BYTE


def _fitting(given: tuple[RoomMessage, ...], budget: _Budget, memory: ModelMemory) -> tuple[RoomMessage, ...]:
    sizes = [len(line(one.speaker, one.text).encode()) for one in given]

    def fits(begin: int, in_json: int, part: float) -> bool:
        size, count = sum(sizes[begin:]), len(sizes) - begin
        tokens = size * _rate(memory) + count * USUAL_MESSAGE_TOKENS
        return count <= budget.messages * part and tokens <= budget.tokens * part and in_json <= budget.size * part

    if fits(0, len(_MESSAGES.dump_json(given, exclude_defaults=True)), 1.0):
        return given
    json_sizes = [len(one.compact()) for one in given]
    begin = next((n for n in range(1, len(given)) if fits(n, sum(json_sizes[n:]), KEPT)), len(given))
    return without_oldest(given, begin)


def _with_memory(room: Room, model: str, memory: ModelMemory) -> Room:
    others = {name: one for name, one in room.memories.items() if name != model}
    kept = dict(list(others.items())[-(MAX_MODELS - 1) :])
    return room.model_copy(update={"memories": {**kept, model: memory}})

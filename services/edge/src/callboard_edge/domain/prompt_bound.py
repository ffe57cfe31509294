"""When a prompt certainly does not fit, and how much of it can."""

from callboard_contracts.chat import ChatMessage, ChatRequest
from callboard_contracts.context_length import context_exceeded, input_exceeded
from callboard_contracts.embedding import EmbeddingRequest
from callboard_contracts.errors import CallboardError
from callboard_contracts.prompt_size import (
    USUAL_TOKENS_PER_BYTE,
    PromptSize,
    context_of,
    prompt_bytes,
    prompt_size,
    text_bytes,
)
from callboard_edge.domain.catalogue import ChatModel

LONGEST_TOKEN_BYTES = 128
"""No token of a vocabulary in use stands for more bytes (runs of blanks are the longest); a prompt with more than
this for each token of the context cannot fit."""

MAX_CUTS = 8
MARGIN = 1.05
"""By how much less is kept than was measured to fit, so that few tries are needed."""


def check_context(request: ChatRequest, model: ChatModel, size: PromptSize | None = None) -> None:
    """Refuses a prompt that is certain not to fit; all others are the engine's to judge.

    `size` is that of the prompt, where it is measured already.

    Raises:
        CallboardError: `context_length_exceeded`.
    """
    if request.overflow == "drop_front":
        return
    text_size = (size or prompt_size(request)).text_bytes
    if text_size > model.context_tokens * LONGEST_TOKEN_BYTES:
        tokens = max(model.context_tokens + 1, round(text_size * USUAL_TOKENS_PER_BYTE))
        raise CallboardError.of(context_exceeded(request, model.context_tokens, tokens, estimated=True))


def check_inputs(request: EmbeddingRequest, model: ChatModel) -> None:
    """The same for texts that are to be embedded and not to be cut.

    Raises:
        CallboardError: `context_length_exceeded`.
    """
    for index, text in enumerate(request.inputs):
        size = text_bytes(text)
        if size > model.context_tokens * LONGEST_TOKEN_BYTES and not request.truncate:
            tokens = max(model.context_tokens + 1, round(size * USUAL_TOKENS_PER_BYTE))
            raise CallboardError.of(input_exceeded(index, model.context_tokens, tokens, estimated=True))


def within_bounds(request: ChatRequest, model: ChatModel, max_request_bytes: int) -> ChatRequest:
    """The request without what of its prompt is certain to be dropped, or does not fit into a job.

    The end of the prompt stays, and of a memory that is too long by itself its own end; of a dialogue the latest
    messages, and those of the system.
    """
    if request.overflow != "drop_front":
        return request
    room = context_of(request, model.context_tokens) * LONGEST_TOKEN_BYTES
    if request.mode == "chat":
        return _latest(request, min(room, max_request_bytes))
    memory, prompt = _end(request.memory, room), _end(request.prompt, room)
    if (memory, prompt) != (request.memory, request.prompt):
        request = request.model_copy(update={"memory": memory, "prompt": prompt})
    rest = len(request.model_copy(update={"memory": "", "prompt": ""}).compact())
    for _ in range(MAX_CUTS):
        written = len(request.compact()) - rest
        excess = rest + written - max_request_bytes
        if excess <= 0 or written <= 0:
            break
        # JSON writes some characters longer than others, so what is left is measured again.
        share = max(0.0, (written - excess) / written / MARGIN)
        size = len(prompt) + len(memory)
        memory = memory[-keep:] if (keep := min(len(memory), int(size * share / 2))) else ""
        prompt = prompt[-keep:] if (keep := min(len(prompt), int(size * share) - len(memory))) else ""
        request = request.model_copy(update={"memory": memory, "prompt": prompt})
    return request


def _latest(request: ChatRequest, room: int) -> ChatRequest:
    """The request without its oldest messages that are not the system's, as far as all of them have more bytes."""
    if prompt_bytes(request) <= room:
        return request
    sizes = [prompt_bytes(request.model_copy(update={"messages": (message,)})) for message in request.messages]
    excess = sum(sizes) - room
    kept: list[ChatMessage] = []
    for message, size in zip(request.messages[:-1], sizes, strict=False):
        if excess > 0 and message.role != "system":
            excess -= size
        else:
            kept.append(message)
    return request.model_copy(update={"messages": (*kept, *request.messages[-1:])})


def _end(text: str, size: int) -> str:
    """The last so many bytes of a text, without a character that they begin within."""
    if len(text) <= size // 4:
        return text
    data = text[-size:].encode("utf-8", "surrogatepass")
    return text if len(data) <= size and len(text) <= size else data[-size:].decode("utf-8", "ignore")

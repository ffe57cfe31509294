"""Which messages of a dialogue go where it is too long for the model's own chat template to write out: the oldest.

What the system says stays, and so does the last turn, which begins with the user's last message. A cut lies before a
message of the user, since many templates want one there. Of the places within an eighth of the room the one with the
lowest checksum is taken, which stays the same for several turns, so that the engine need not read all of it again.
"""

from collections.abc import Awaitable, Callable, Sequence
from zlib import crc32

from callboard_chat.domain.front_cut import STEP_SHARE
from callboard_contracts.chat import ChatMessage, ChatRequest
from callboard_contracts.prompt_size import MESSAGE_TOKENS, context_of, prompt_tokens_bound

REPLY_SHARE = 4
"""One part in so many of the context is kept for the reply, unless the reply may not become so long."""
MAX_COUNTS = 8
MARGIN = 1.05
"""How much more of a single message is cut off than reckoned, so that few counts are needed."""
UNBOUNDED = 2**62

Count = Callable[[ChatRequest], Awaitable[int]]
"""How many tokens the prompt of a request has."""


async def fitted(request: ChatRequest, context_tokens: int, count: Count) -> ChatRequest:
    """The request without as many of its oldest messages as its context does not hold.

    A last turn that is too long by itself loses the beginning of the user's message. The reply is bounded by what is
    left of the context that the request asks for.
    """
    context = context_of(request, context_tokens)
    room = context - min(request.max_output_tokens, context // REPLY_SHARE)
    if (bound := prompt_tokens_bound(request, UNBOUNDED)) <= room:
        return _bounded(request, context - bound)
    tokens = await count(request)
    for _ in range(MAX_COUNTS):
        if tokens <= room:
            break
        shorter = _shorter(request.messages, tokens, tokens - room, room // STEP_SHARE)
        if shorter is None:
            break
        request = request.model_copy(update={"messages": shorter})
        tokens = await count(request)
    return _bounded(request, max(1, context - tokens))


def _bounded(request: ChatRequest, left: int) -> ChatRequest:
    """The request with a reply that ends within the context it asks for."""
    if request.context_tokens is None or request.max_output_tokens <= left:
        return request
    return request.model_copy(update={"max_output_tokens": left})


def _shorter(messages: tuple[ChatMessage, ...], tokens: int, excess: int, step: int) -> tuple[ChatMessage, ...] | None:
    """The messages without about so many of their tokens; None where no more can go."""
    sizes = [_size(message) for message in messages]
    per_token = sum(sizes) / max(1, tokens)
    least, most = excess * per_token, (excess + step) * per_token
    starts = [at for at, message in enumerate(messages) if message.role == "user"]
    places: list[tuple[int, float]] = []
    removed = 0.0
    first = next((at for at, message in enumerate(messages) if message.role != "system"), len(messages))
    for at, (message, size) in enumerate(zip(messages, sizes, strict=True)):
        if at in starts and at > first:
            places.append((at, removed))
        removed += 0 if message.role == "system" else size
    if not places:
        return _without_beginning(messages, starts, least * MARGIN)
    enough = [place for place in places if place[1] >= least]
    near = [place for place in enough if place[1] <= most] or enough[:1] or places[-1:]
    at = min(near, key=lambda place: crc32(messages[place[0]].content.encode("utf-8", "surrogatepass")))[0]
    return (*(message for message in messages[:at] if message.role == "system"), *messages[at:])


def _without_beginning(
    messages: tuple[ChatMessage, ...], starts: Sequence[int], size: float
) -> tuple[ChatMessage, ...] | None:
    if not starts:
        return None
    message = messages[starts[-1]]
    rest = message.content.encode("utf-8", "surrogatepass")[int(size) + 1 :].decode("utf-8", "ignore")
    if not rest:
        return None
    shorter = message.model_copy(update={"content": rest})
    return (*messages[: starts[-1]], shorter, *messages[starts[-1] + 1 :])


def _size(message: ChatMessage) -> int:
    """The bytes of a message, and what stands around it."""
    texts = [message.content, message.thinking, *(call.name + call.arguments for call in message.tool_calls)]
    return MESSAGE_TOKENS + sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)

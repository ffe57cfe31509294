"""Bounds the cached tokens that a caller is told of to those of the caller's own earlier prompts.

An engine has one cache for everybody. The number of tokens that it found there would tell a caller who guesses the
beginning of somebody else's prompt how far the guess was right.
"""

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b

from pydantic import TypeAdapter

from callboard_contracts.chat import ChatMessage, ChatRequest

MAX_CALLERS = 1024
MAX_PROMPTS_OF_ONE = 16
_DIGEST_BYTES = 16
_ALL_OF_RAW = {
    "model",
    "memory",
    "prompt",
    "overflow",
    "context_tokens",
    "max_output_tokens",
    "turn_tags",
    "prompt_format",
}
"""All that the engine's prompt is made of."""
_MESSAGES = TypeAdapter(tuple[ChatMessage, ...])


@dataclass(frozen=True, slots=True)
class _Prompt:
    length: int
    digest: bytes


class OwnPrompts:
    """Remembers digests of the latest prompts of each caller, never their text."""

    def __init__(self) -> None:
        self._tokens: OrderedDict[str, OrderedDict[_Prompt, int]] = OrderedDict()

    def shared_tokens(self, tenant: str, text: bytes) -> int:
        """How many tokens the longest earlier prompt of the caller has that this one begins with; 0 without one."""
        digest = blake2b(digest_size=_DIGEST_BYTES)
        hashed = shared = 0
        for prompt, tokens in sorted(self._tokens.get(tenant, {}).items(), key=lambda item: item[0].length):
            if prompt.length > len(text):
                break
            digest.update(text[hashed : prompt.length])
            hashed = prompt.length
            if digest.digest() == prompt.digest:
                shared = tokens
        return shared

    def add(self, tenant: str, text: bytes, tokens: int) -> None:
        """Remembers a prompt that the engine has read."""
        prompt = _Prompt(len(text), blake2b(text, digest_size=_DIGEST_BYTES).digest())
        own = self._tokens.setdefault(tenant, OrderedDict())
        self._tokens.move_to_end(tenant)
        own[prompt] = tokens
        own.move_to_end(prompt)
        if len(own) > MAX_PROMPTS_OF_ONE:
            own.popitem(last=False)
        if len(self._tokens) > MAX_CALLERS:
            self._tokens.popitem(last=False)


class OwnPrompt:
    """The prompt of one request, whose text is put together when it is first needed."""

    def __init__(self, prompts: OwnPrompts, tenant: str, request: ChatRequest) -> None:
        self._prompts = prompts
        self._tenant = tenant
        self._request = request
        self._text: bytes | None = None

    def shared_tokens(self) -> int:
        """How many tokens the longest earlier prompt of the caller has that this one begins with; 0 without one."""
        return self._prompts.shared_tokens(self._tenant, self._read())

    def add(self, tokens: int) -> None:
        """Remembers the prompt, which the engine has read."""
        self._prompts.add(self._tenant, self._read(), tokens)

    def _read(self) -> bytes:
        if self._text is None:
            self._text = prompt_text(self._request)
        return self._text


def prompt_text(request: ChatRequest) -> bytes:
    """What an engine makes a prompt of; a conversation that goes on begins with the text of its earlier part."""
    if request.mode == "completion":
        if request.overflow == "drop_front" or request.turn_tags:
            # The engine reads something else of a longer one, so only the same prompt counts as earlier.
            return request.model_dump_json(include=_ALL_OF_RAW).encode()
        return f"{request.model}\n{len(request.memory)} {request.memory}{request.prompt}".encode()
    head = request.model_dump_json(include={"model", "tools", "thinking", "prompt_format"}).encode()
    # Without its closing bracket a list begins with any shorter one.
    messages = tuple(_without_pictures(message) if message.images else message for message in request.messages)
    return head + _MESSAGES.dump_json(messages)[:-1] + b","


def _without_pictures(message: ChatMessage) -> ChatMessage:
    """A message with digests in place of its pictures, which are large."""
    digests = [blake2b(image.data.encode(), digest_size=_DIGEST_BYTES).hexdigest() for image in message.images]
    images = [image.model_copy(update={"data": digest}) for image, digest in zip(message.images, digests, strict=True)]
    return message.model_copy(update={"images": tuple(images)})

"""How many tokens a prompt has: usually, and at most.

The edge has no tokenizer, since every engine has its own. What it holds for a prompt is the usual length where the
model's workers have the missing part held once the engine has counted, and else a bound that is never under the true
count. A token stands for at least one byte of UTF-8 in every vocabulary in use (byte-level ones, and byte fallback in
the others), so the bytes of the text bound its tokens. What a chat template writes around the text is bounded by fixed
allowances, and no prompt is longer than the model's context, because the engine refuses it. The worker settles with
the engine's exact count.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

from callboard_contracts.chat import ChatRequest

START_TOKENS = 8
"""What an engine may put before a plain prompt."""
TEMPLATE_TOKENS = 256
"""What a template may write once: the start token, a system prompt of its own, the opening of the answer."""
USUAL_TEMPLATE_TOKENS = 48
MESSAGE_TOKENS = 16
"""What a template may write around each message: role marks and line ends."""
USUAL_MESSAGE_TOKENS = 8
TOOLS_TOKENS = 512
"""What a template may write once to explain the use of tools."""
USUAL_TOOLS_TOKENS = 192
USUAL_IMAGE_TOKENS = 1024
TOOL_MESSAGE_TOKENS = 128
"""What a template, or the plain form of tools, may write around a tool call and around a tool's result."""
USUAL_TOOL_MESSAGE_TOKENS = 24
TOOL_SPREAD = 4
"""How much longer a template may make a tool's schema, by indentation."""
INPUT_TOKENS = 2
"""What an engine may put around a text that it embeds."""
USUAL_TOKENS_PER_BYTE = 0.3
"""A cautious figure for a text in a European language, for a model that has not read much yet."""


@dataclass(slots=True)
class PromptSize:
    """What the length of a prompt is reckoned from; the bytes are those of its text in UTF-8, without tools."""

    text_bytes: int = 0
    images: int = 0
    tool_parts: int = 0
    """How many tool calls and results a conversation has."""


def prompt_bytes(request: ChatRequest) -> int:
    """The UTF-8 bytes of a request's text, without tools."""
    return prompt_size(request).text_bytes


def prompt_size(request: ChatRequest) -> PromptSize:
    """The size of a request's prompt, measured in one pass."""
    if request.mode == "completion":
        return PromptSize(text_bytes(request.memory) + text_bytes(request.prompt), _images(request))
    size = PromptSize()
    for message in request.messages:
        size.text_bytes += text_bytes(message.content)
        if message.thinking:
            size.text_bytes += text_bytes(message.thinking)
        if message.name:
            size.text_bytes += text_bytes(message.name)
        if message.images:
            size.images += len(message.images)
        for call in message.tool_calls:
            size.text_bytes += text_bytes(call.name) + text_bytes(call.arguments) * TOOL_SPREAD
            size.tool_parts += 1
        if message.role == "tool":
            size.tool_parts += 1
    return size


def context_of(request: ChatRequest, context_tokens: int) -> int:
    """The context that a request has of the model's."""
    return min(request.context_tokens or context_tokens, context_tokens)


def reply_within(max_output_tokens: int, context_tokens: int) -> int:
    """How long a reply may become so that a token of the prompt remains, as KoboldCpp has it."""
    return max(1, min(max_output_tokens, context_tokens - 1))


def prompt_tokens_bound(request: ChatRequest, context_tokens: int, size: PromptSize | None = None) -> int:
    """The most tokens that a request's prompt can have; with images, whose tokens nothing bounds, the context.

    `size` is that of the request, where it is measured already.
    """
    size = size or prompt_size(request)
    if size.images:
        return context_tokens
    bound = size.text_bytes
    if request.mode == "completion":
        return _fitting(request, bound + START_TOKENS + MESSAGE_TOKENS * _turn_tags(request), context_tokens)
    bound += TEMPLATE_TOKENS + MESSAGE_TOKENS * len(request.messages) + TOOL_MESSAGE_TOKENS * size.tool_parts
    if request.tools:
        bound += TOOLS_TOKENS + TOOL_SPREAD * _schema_bytes(request)
    return min(bound, context_tokens)


def usual_prompt_tokens(
    request: ChatRequest, tokens_per_byte: float, context_tokens: int, size: PromptSize | None = None
) -> int:
    """About how many tokens a request's prompt has with a model that usually makes so many of a byte.

    `size` is that of the request, where it is measured already.
    """
    size = size or prompt_size(request)
    text = size.text_bytes
    around = START_TOKENS
    if request.mode == "chat":
        around = USUAL_TEMPLATE_TOKENS + USUAL_MESSAGE_TOKENS * len(request.messages)
        around += USUAL_TOOL_MESSAGE_TOKENS * size.tool_parts
        if request.tools:
            text += _schema_bytes(request)
            around += USUAL_TOOLS_TOKENS
        around += USUAL_IMAGE_TOKENS * size.images
    else:
        around += USUAL_MESSAGE_TOKENS * _turn_tags(request)
    return _fitting(request, around + round(text * tokens_per_byte), context_tokens)


def _fitting(request: ChatRequest, tokens: int, context_tokens: int) -> int:
    """So many tokens, or what is left of them where the prompt is refused or cut."""
    if request.mode == "completion":
        context_tokens = context_of(request, context_tokens)
        if request.overflow == "drop_front":
            context_tokens -= reply_within(request.max_output_tokens, context_tokens)
    return min(tokens, max(1, context_tokens))


def _turn_tags(request: ChatRequest) -> int:
    return (request.memory.count("{{[") + request.prompt.count("{{[")) if request.turn_tags else 0


def embedding_tokens(inputs: Iterable[str], tokens_per_byte: float, context_tokens: int) -> int:
    """About how many tokens texts have that are embedded; at most, with one token for each byte."""
    return sum(min(INPUT_TOKENS + math.ceil(text_bytes(text) * tokens_per_byte), context_tokens) for text in inputs)


def text_bytes(text: str) -> int:
    """The UTF-8 bytes of a text."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _images(request: ChatRequest) -> int:
    return sum(len(message.images) for message in request.messages)


def _schema_bytes(request: ChatRequest) -> int:
    return sum(
        text_bytes(tool.name) + text_bytes(tool.description) + text_bytes(json.dumps(tool.parameters))
        for tool in request.tools
    )

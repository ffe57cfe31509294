"""How many tokens a prompt can be at most, and when it certainly does not fit.

The edge has no tokenizer, since every engine has its own, so what it holds is a bound: never under the true count.
A token stands for at least one byte of UTF-8 in every vocabulary in use (byte-level ones, and byte fallback in the
others), so the bytes of the text bound its tokens. What a chat template writes around the text is bounded by fixed
allowances, and no prompt is longer than the model's context, because the engine refuses it. The worker settles with
the engine's exact count.
"""

import json

from callboard_contracts.chat import ChatRequest
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.catalogue import ChatModel

START_TOKENS = 8
"""What an engine may put before a plain prompt."""
TEMPLATE_TOKENS = 256
"""What a template may write once: the start token, a system prompt of its own, the opening of the answer."""
MESSAGE_TOKENS = 16
"""What a template writes deps each message: role marks and line ends."""
TOOLS_TOKENS = 512
"""What a template writes once to explain the use of tools."""
TOOL_SPREAD = 4
"""How much longer a template may make a tool's schema, by indentation."""
LONGEST_TOKEN_BYTES = 128
"""No token of a vocabulary in use stands for more bytes (runs of blanks are the longest); a prompt with more than
this for each token of the context cannot fit."""


def prompt_bytes(request: ChatRequest) -> int:
    """The UTF-8 bytes of a request's text, without tools."""
    if request.mode == "completion":
        return _utf8(request.prompt)
    total = 0
    for message in request.messages:
        total += _utf8(message.content)
        if message.name:
            total += _utf8(message.name)
        for call in message.tool_calls:
            total += _utf8(call.name) + _utf8(call.arguments) * TOOL_SPREAD
    return total


def prompt_tokens_bound(request: ChatRequest, context_tokens: int) -> int:
    """The most tokens that a request's prompt can have."""
    bound = prompt_bytes(request)
    if request.mode == "completion":
        return min(bound + START_TOKENS, context_tokens)
    bound += TEMPLATE_TOKENS + MESSAGE_TOKENS * len(request.messages)
    if request.tools:
        schemas = sum(
            _utf8(tool.name) + _utf8(tool.description) + _utf8(json.dumps(tool.parameters)) for tool in request.tools
        )
        bound += TOOLS_TOKENS + TOOL_SPREAD * schemas
    return min(bound, context_tokens)


def check_context(request: ChatRequest, model: ChatModel) -> None:
    """Refuses a prompt that is certain not to fit; all others are the engine's to judge.

    Raises:
        CallboardError: `context_length_exceeded`.
    """
    if prompt_bytes(request) > model.context_tokens * LONGEST_TOKEN_BYTES:
        raise CallboardError(
            ErrorCode.CONTEXT_LENGTH_EXCEEDED,
            f"The prompt does not fit this model's context of {model.context_tokens} tokens.",
            param="prompt" if request.mode == "completion" else "messages",
        )


def _utf8(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))

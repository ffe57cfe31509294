"""When a prompt certainly does not fit."""

from callboard_contracts.chat import ChatRequest
from callboard_contracts.context_length import context_exceeded
from callboard_contracts.errors import CallboardError
from callboard_contracts.prompt_size import USUAL_TOKENS_PER_BYTE, prompt_bytes
from callboard_edge.domain.catalogue import ChatModel

LONGEST_TOKEN_BYTES = 128
"""No token of a vocabulary in use stands for more bytes (runs of blanks are the longest); a prompt with more than
this for each token of the context cannot fit."""


def check_context(request: ChatRequest, model: ChatModel) -> None:
    """Refuses a prompt that is certain not to fit; all others are the engine's to judge.

    Raises:
        CallboardError: `context_length_exceeded`.
    """
    size = prompt_bytes(request)
    if size > model.context_tokens * LONGEST_TOKEN_BYTES:
        tokens = max(model.context_tokens + 1, round(size * USUAL_TOKENS_PER_BYTE))
        raise CallboardError.of(context_exceeded(request, model.context_tokens, tokens, estimated=True))

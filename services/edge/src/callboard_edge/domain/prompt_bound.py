"""When a prompt certainly does not fit."""

from callboard_contracts.chat import ChatRequest
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.prompt_size import prompt_bytes
from callboard_edge.domain.catalogue import ChatModel

LONGEST_TOKEN_BYTES = 128
"""No token of a vocabulary in use stands for more bytes (runs of blanks are the longest); a prompt with more than
this for each token of the context cannot fit."""


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

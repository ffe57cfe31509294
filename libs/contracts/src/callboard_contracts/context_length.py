"""The error for a prompt that does not fit a model's context.

Client libraries recognise it by OpenAI's words and read both numbers out of them, so the wording is a part of the wire.
"""

from callboard_contracts.chat import ChatRequest
from callboard_contracts.errors import ErrorCode, ErrorInfo


def context_exceeded(
    request: ChatRequest, context_tokens: int, prompt_tokens: int, *, estimated: bool = False
) -> ErrorInfo:
    """The error with the model's context and what the request needs of it; `estimated` if nobody counted the prompt."""
    output_tokens = request.max_output_tokens
    is_completion = request.mode == "completion"
    parts = (
        f"({prompt_tokens} in your prompt; {output_tokens} for the completion). "
        "Please reduce your prompt; or completion length."
        if is_completion
        else f"({prompt_tokens} in the messages, {output_tokens} in the completion). "
        "Please reduce the length of the messages or completion."
    )
    return ErrorInfo(
        code=ErrorCode.CONTEXT_LENGTH_EXCEEDED,
        message=(
            f"This model's maximum context length is {context_tokens} tokens. However, you requested "
            f"{'about ' if estimated else ''}{prompt_tokens + output_tokens} tokens {parts}"
        ),
        param="prompt" if is_completion else "messages",
    )


def input_exceeded(index: int, context_tokens: int, input_tokens: int, *, estimated: bool = False) -> ErrorInfo:
    """The error for a text to embed that is longer than the context; `index` is its place among the texts."""
    about = "about " if estimated else ""
    return ErrorInfo(
        code=ErrorCode.CONTEXT_LENGTH_EXCEEDED,
        message=(
            f"This model's maximum context length is {context_tokens} tokens. However, you requested {about}"
            f"{input_tokens} tokens ({input_tokens} in your prompt; 0 for the completion). "
            "Please reduce your prompt; or completion length."
        ),
        param=f"inputs[{index}]",
    )

"""Log probabilities in OpenAI's two forms: that of chats, and that of continuations."""

from collections.abc import Sequence
from typing import Any

from callboard_contracts.chat import TokenLogprob

_CUT = "\ufffd"
"""Stands for bytes that are a part of a character, which the engine does not tell."""


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """The log probabilities of a reply's tokens."""
    content = [{**_token(one), "top_logprobs": [_token(other) for other in one.top]} for one in tokens]
    return {"content": content, "refusal": None}


def completion_logprobs(tokens: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """The log probabilities of a continuation's tokens, of which the first stands at a place in the text."""
    offsets: list[int] = []
    for one in tokens:
        offsets.append(offset)
        offset += len(one.token)
    tops = [{other.token: other.logprob for other in one.top} for one in tokens]
    return {
        "tokens": [one.token for one in tokens],
        "token_logprobs": [one.logprob for one in tokens],
        "top_logprobs": tops if any(tops) else None,
        "text_offset": offsets,
    }


def _token(one: TokenLogprob) -> dict[str, Any]:
    text = None if _CUT in one.token else list(one.token.encode("utf-8", "replace"))
    return {"token": one.token, "logprob": one.logprob, "bytes": text}

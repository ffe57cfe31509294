"""Keeps control tokens in the text of messages from acting as such.

Engines tokenise the text of a whole chat template with its control tokens, so `<|im_end|>` in a message would end the
turn, and what follows it would be a turn that nobody took. Every such token is therefore broken up after its first
character before the template sees it.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from callboard_chat.domain.ports import Continuation
from callboard_contracts.chat import ChatRequest

CONTROL = 3
USER_DEFINED = 4
"""Types of tokens as GGUF files number them."""

_PROMPT_FIELDS = {"messages", "tools"}
_NO_TEXT = {"messages": {"__all__": {"images"}}}
"""Pictures, which are large, hold no text."""

_WELL_KNOWN = {
    "<": "|".join(
        (
            # ChatML, Llama 3 and 4, Phi, GLM, Granite, Command R, Harmony, Gemma 4.
            r"\|[^\s<>|]{1,64}\|?>",
            r"[^\s<>|]{1,64}\|>",
            # DeepSeek, Hunyuan.
            r"｜[^<>｜]{1,64}｜>",
            # Llama 2 and Mistral, Gemma, Seed, Nemotron, Baichuan.
            r"/?s>",
            r"</?SYS>>",
            r"(?:bos|eos|pad|unk|sop|eop)>",
            r"(?:start|end)_of_(?:turn|image|audio)>",
            r"seed:[a-z_]{1,32}>",
            r"(?:extra_id_|reserved_|SPECIAL_|unused)\d{1,5}>",
        )
    ),
    "[": "|".join(
        (
            r"/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|CALL_ID|ARGS)\]",
            r"/?MODEL_SETTINGS\]",
            r"[gs]MASK\]",
            # EXAONE, MiniMax.
            r"\|[^\s\[\]|]{1,64}\|\]",
            r"e~\[",
        )
    ),
    # A template may go on with the last character of one.
    "]": r"~!?b(?:[\[\]]|\Z)",
}
"""The control tokens of well-known families: what follows each first character."""
_WELL_KNOWN_TOKEN = re.compile(
    "|".join(f"{re.escape(first)}(?:{rest})" for first, rest in _WELL_KNOWN.items()).replace(r"|\Z", "")
)


class ControlTokens:
    """The texts that an engine would take for control tokens: those of its model, or all that are well known."""

    def __init__(self, texts: Iterable[str] | None = None) -> None:
        rests = _WELL_KNOWN if texts is None else _rests(each for text in texts for each in (text, _in_json(text)))
        pattern = "|".join(f"{re.escape(first)}(?={rest})" for first, rest in rests.items())
        self._starts = re.compile(pattern or "(?!)")
        # In JSON a text ends before a quotation mark.
        self._starts_in_json = re.compile(self._starts.pattern.replace(r"\Z", r'(?:\Z|")'))

    def broken_up(self, request: ChatRequest, separator: str = " ") -> ChatRequest:
        """The request with a separator in each control token of its messages and tools; itself if there is none.

        A raw prompt is left as it is: it is the caller's own template.
        """
        if request.mode == "completion":
            return request
        # One search over everything is quicker than one for each text, and most requests end here.
        text = request.__pydantic_serializer__.to_json(request, include=_PROMPT_FIELDS, exclude=_NO_TEXT).decode()
        if not self._starts_in_json.search(text):
            return request
        given: dict[str, Any] = request.model_dump(include=_PROMPT_FIELDS, exclude=_NO_TEXT)
        broken = {name: self._broken_up(value, separator) for name, value in given.items()}
        for message, original in zip(broken["messages"], request.messages, strict=True):
            message["images"] = original.images
        return ChatRequest.model_validate({**request.model_dump(exclude=_PROMPT_FIELDS), **broken})

    def broken_up_reply(self, said: Continuation | None, separator: str = " ") -> Continuation | None:
        """What was said of a reply, in the same way: a model may have written the text of a control token."""
        if said is None:
            return None
        text, thinking = (self._starts.sub(rf"\g<0>{separator}", each) for each in (said.text, said.thinking))
        return said if (text, thinking) == (said.text, said.thinking) else replace(said, text=text, thinking=thinking)

    def _broken_up(self, value: object, separator: str) -> Any:
        if isinstance(value, str):
            return self._starts.sub(rf"\g<0>{separator}", value)
        if isinstance(value, Mapping):
            return {self._broken_up(key, separator): self._broken_up(each, separator) for key, each in value.items()}
        if isinstance(value, tuple):
            return tuple(self._broken_up(each, separator) for each in value)
        if isinstance(value, list):
            return [self._broken_up(each, separator) for each in value]
        return value


def special_tokens(tokens: Iterable[str], types: Iterable[int]) -> set[str]:
    """The tokens of a vocabulary that an engine finds in a template's text and that structure a conversation."""
    return {
        token
        for token, kind in zip(tokens, types, strict=True)
        if kind == CONTROL or (kind == USER_DEFINED and _WELL_KNOWN_TOKEN.fullmatch(token))
    }


def tokens_in(template: str) -> set[str]:
    """The well-known control tokens that a chat template writes, whether the vocabulary has them or not."""
    return set(_WELL_KNOWN_TOKEN.findall(template))


def _in_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _rests(texts: Iterable[str]) -> dict[str, str]:
    """What follows the first character of each text, as one pattern for each first character."""
    found: dict[str, list[str]] = {}
    for text in texts:
        # A single character cannot be broken up.
        if len(text) > 1:
            found.setdefault(text[0], []).append(text[1:])
    return {first: _any_of(rests) for first, rests in found.items()}


def _any_of(texts: Iterable[str], ends: str = "") -> str:
    """A pattern for texts that begin with any of these, which looks at no character twice however many there are.

    A text that ends within one of them counts too, as the template may go on with the rest of it.
    """
    rests: dict[str, list[str]] = {}
    for text in texts:
        if not text:
            return ""
        rests.setdefault(text[0], []).append(text[1:])
    branches = [re.escape(first) + _any_of(each, r"\Z") for first, each in rests.items()]
    branches += [ends] if ends else []
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"

"""Answers that fit what a script can read."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from callboard_contracts.chat import ChatResult
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.rooms import EndedTurn, without_speaker
from callboard_edge.domain.text_stream import failure
from callboard_edge.protocols.talkmaster.errors import Refusal

MAX_ANSWER_BYTES = 16_384
"""Scripts cut an answer off here, and then cannot read it."""
MAX_LIST_BYTES = 2048
"""The same for the lists of models and voices."""
FAILED = ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="The answer could not be made; ask again.")


def encoded(body: Any) -> bytes:
    """A body as JSON."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def processing(body: Mapping[str, Any]) -> web.Response:
    """The answer that tells a script to come back."""
    return web.json_response(body=encoded(body), status=425)


def with_text(fields: Mapping[str, Any], name: str, text: str) -> bytes:
    """A body with a text under `name`, which is shortened where the body would be too long."""

    def body(part: str) -> bytes:
        return encoded({**fields, name: part})

    return body(shortened(text, lambda part: len(body(part)) <= MAX_ANSWER_BYTES))


def shortened(text: str, fits: Callable[[str], bool]) -> str:
    """A text, or as much of its beginning as fits."""
    if fits(text):
        return text
    shortest, longest = 0, len(text)
    while shortest < longest:
        middle = (shortest + longest + 1) // 2
        if fits(text[:middle] + "…"):
            shortest = middle
        else:
            longest = middle - 1
    return text[:shortest] + "…"


def names_within(fixed: Mapping[str, Any], field: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """As many of the names as a list may have under `field` beside what is fixed."""
    names = tuple(dict.fromkeys(names))
    while names and len(encoded({**fixed, field: names})) > MAX_LIST_BYTES:
        names = names[:-1]
    return names


def reply_text(result: ChatResult, character: str = "") -> str:
    """What was answered.

    Raises:
        Refusal: the answer failed; an error is never a reply.
    """
    if (error := failure(result.end)) is not None:
        raise failed(error)
    return without_speaker(result.text, character).strip()


def check_ended(turn: EndedTurn) -> None:
    """Raises a Refusal where a turn failed."""
    if turn.failed:
        raise failed(FAILED)


def failed(error: ErrorInfo) -> Refusal:
    """The answer for work that failed."""
    return Refusal(error.code, error.kind.status, {"error": error.message}, error)

"""Where a prompt that is too long is cut, so that what is left begins well and stays put for several turns.

A dialogue grows by a turn each time. If the cut moved with every one of them, the engine would have to read the whole
prompt again each time, since what it has read before begins elsewhere. So more is cut than has to be, up to an eighth
of the room, and within that the place is chosen by what stands there: the best border and, among equals, the lowest
checksum of the pieces that follow. The same place is chosen again and again until it has to go, also where a client
has shortened its dialogue by itself.
"""

from array import array
from collections.abc import Callable
from typing import TypeVar
from zlib import crc32

from callboard_contracts.chat import ChatRequest
from callboard_contracts.prompt_size import context_of, reply_within

STEP_SHARE = 8
"""One part in so many of the room may be left unused for a cut that stays."""
MAX_STEP = 4096
PROMPT_SHARE = 4
"""One part in so many of the room is the prompt's where memory alone would fill it."""
LINE, CHARACTER, NONE = 0, 1, 2
"""How good a border is: the start of a line, the start of a character, none."""
_FOLLOWING = 8

T = TypeVar("T", str, list[int])

Border = Callable[[T, int], int]
"""How good the border before a piece is; the lower the better."""


def may_be_cut(request: ChatRequest, prompt_tokens: int, context_tokens: int) -> bool:
    """Whether a prompt of so many tokens, as its engine counted them, may be what was left of a longer one."""
    if request.overflow == "refuse":
        return False
    context = context_of(request, context_tokens)
    room = context - reply_within(request.max_output_tokens, context)
    return prompt_tokens >= room - room // STEP_SHARE


def fitted(memory: T, prompt: T, room: int, border: Border[T], fixed: int = 0) -> tuple[T, T]:
    """Memory and prompt without as much of the prompt's front as `room` does not hold.

    Memory stays whole unless it leaves no room for any of the prompt. Then it keeps its first `fixed` pieces and its
    own end, and the prompt keeps its end in a share of the room.
    """
    if len(memory) + len(prompt) <= room:
        return memory, prompt
    if len(memory) >= room:
        kept = room - max(1, min(len(prompt), room // PROMPT_SHARE)) if len(prompt) else room
        head, rest = memory[:fixed], memory[fixed:]
        memory = head + _end(rest, max(0, kept - fixed), border)
    return memory, _end(prompt, max(0, room - len(memory)), border)


def _end(pieces: T, room: int, border: Border[T]) -> T:
    excess = len(pieces) - room
    if excess <= 0 or room <= 0:
        return pieces[max(0, excess) :]
    last = min(excess + min(room // STEP_SHARE, MAX_STEP), len(pieces) - 1)
    best = min(range(excess, last + 1), key=lambda at: (border(pieces, at), _checksum(pieces[at : at + _FOLLOWING])))
    return pieces[best:]


def _checksum(pieces: str | list[int]) -> int:
    return crc32(pieces.encode("utf-8", "surrogatepass") if isinstance(pieces, str) else array("q", pieces).tobytes())


def text_border(text: str, at: int) -> int:
    """How good a border is in plain text."""
    return LINE if at == 0 or text[at - 1] == "\n" else CHARACTER if text[at - 1].isspace() else NONE

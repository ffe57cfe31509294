"""Finds out whether an engine went on from the start of its answer or began its answer again.

Many servers take the start of an answer for a turn that is over, and write the whole answer once more. What such an
engine says first is what was said already.
"""

from collections.abc import Sequence

from callboard_chat.domain.ports import Continuation
from callboard_chat.domain.thinking import OPEN
from callboard_contracts.chat import ChatMessage
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_worker.engine import EngineRefused

CERTAIN_CHARACTERS = 16
"""So much in common with the beginning of a reply is no chance; refrains and lists share less with it as a rule."""


def cannot_continue() -> EngineRefused:
    """The error for an engine that does not go on from the start of an answer."""
    message = "The reply was interrupted and cannot be continued."
    return EngineRefused(ErrorInfo(code=ErrorCode.INTERRUPTED, message=message))


def with_reply(messages: Sequence[ChatMessage], said: Continuation | None) -> tuple[ChatMessage, ...]:
    """A conversation with what was said of its reply, in one turn with the start of the reply that it ends in."""
    if said is None:
        return tuple(messages)
    start = messages[-1] if messages and messages[-1].role == "assistant" else None
    turn = start or ChatMessage(role="assistant")
    last = turn.model_copy(update={"content": turn.content + said.prefill})
    return (*(messages[:-1] if start else messages), last)


class PrefillCheck:
    """Holds back what an engine says until it differs from what was said, then lets through what is new of it.

    An engine that repeats everything that was said, word for word, has begun again and goes on from there. One that
    repeats only the beginning has begun another answer. Where too little was said to tell a repetition from a
    coincidence, a repetition counts as another answer too, since text must never come twice.
    """

    def __init__(self, said: Continuation) -> None:
        self._said = said
        self._text = ""
        self._thinking = ""
        self.decided = not (said.text.strip() or said.thinking.strip())
        """Whether it is known what the engine does; from then on everything passes."""
        self.restarted = False
        """Whether the engine began again and has repeated all that was said."""

    @property
    def repeats(self) -> bool:
        """Whether nothing of what is held back can be new."""
        return not self.decided and len(self._text or self._thinking) >= CERTAIN_CHARACTERS

    def feed(self, text: str, thinking: str, *, ended: bool = False) -> tuple[str, str]:
        """Takes what the engine says next and returns what of it is new: text, thinking.

        Raises:
            EngineRefused: with `interrupted`, the engine writes another answer.
        """
        if self.decided:
            return text, thinking
        self._text += text
        self._thinking += thinking
        if not self._said.text.strip():
            return self._after_thinking(ended)
        if not self._thinking:
            return self._after_text(self._text, ended)
        # The reply was past its thinking, so whoever thinks has begun again.
        if self._text or ended:
            if self._thinking.strip() != self._said.thinking.strip():
                raise cannot_continue()
            return self._after_text(self._text.lstrip(), ended, certain=True)
        if not self._said.thinking.lstrip().startswith(self._thinking.strip()):
            raise cannot_continue()
        return "", ""

    def _after_text(self, text: str, ended: bool, *, certain: bool = False) -> tuple[str, str]:
        new = self._new(text, self._said.text, ended, certain=certain)
        return ("" if new is None else new), ""

    def _after_thinking(self, ended: bool) -> tuple[str, str]:
        thinking = self._thinking.lstrip()
        if not ended and not self._text and thinking and OPEN.startswith(thinking):
            return "", ""
        thinking = thinking.removeprefix(OPEN) if thinking.startswith(OPEN) else self._thinking
        new = self._new(thinking, self._said.thinking, ended or bool(self._text))
        return ("", "") if new is None else (self._text, new)

    def _new(self, found: str, said: str, ended: bool, *, certain: bool = False) -> str | None:
        """What of a text is new beside what was said; None while that is open."""
        if said.startswith(found) and not ended:
            return None
        common = _common(found, said)
        is_whole = common == len(said)
        if is_whole and (certain or common >= CERTAIN_CHARACTERS):
            self.decided = self.restarted = True
            return found[common:]
        if is_whole or certain or common >= CERTAIN_CHARACTERS:
            raise cannot_continue()
        self.decided = True
        return found


def _common(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))

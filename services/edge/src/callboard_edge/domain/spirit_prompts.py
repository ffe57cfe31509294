"""How a spirit is asked: the question first, then for more of the same."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from callboard_contracts.chat import ChatMessage, ChatRequest, Sampling
from callboard_contracts.spirit_box import LANGUAGE_MARK, QUESTION_MARK, SAID_MARK, SpiritBoxSection
from callboard_edge.domain.languages import english_name

MAX_PARTS_TOLD = 8
"""How many of the latest parts of a monologue the model is told."""
MAX_SAID_CHARACTERS = 4000
"""How much of a monologue's end stands in the text that a base model continues."""
MAX_SEED = 2**31


@dataclass(frozen=True, slots=True)
class Exchange:
    """An earlier question and what was answered to it."""

    question: str
    answer: str


@dataclass(slots=True)
class Monologue:
    """A question in the language of its answer, and what was said to it so far, part by part."""

    question: str
    language: str
    said: list[str] = field(default_factory=list[str])

    @property
    def text(self) -> str:
        """What was said so far, as one text."""
        return " ".join(part for part in self.said if part)


class Seed:
    """The seed of a visitor: each generation after it has its own, and the same seed has the same ones in order."""

    def __init__(self) -> None:
        self._seed: int | None = None
        self._generations = 0

    def set(self, seed: int) -> None:
        """Begins anew."""
        self._seed, self._generations = seed, 0

    def next(self) -> int | None:
        """The seed of the next generation; None where the visitor has named none."""
        if self._seed is None:
            return None
        self._generations += 1
        return (self._seed + self._generations - 1) % MAX_SEED


def spirit_request(
    settings: SpiritBoxSection,
    model: str,
    max_output_tokens: int,
    monologue: Monologue,
    earlier: Sequence[Exchange],
    seed: int | None,
) -> ChatRequest:
    """What the model is asked next: the question where nothing is said yet, else for the continuation.

    What is too long for the model loses its oldest part.
    """
    forms = settings.form_of(monologue.language)
    marks = {
        QUESTION_MARK: monologue.question,
        SAID_MARK: monologue.text[-MAX_SAID_CHARACTERS:],
        LANGUAGE_MARK: english_name(monologue.language),
    }
    assert forms.question is not None
    assert forms.continuation is not None
    question, continuation = _filled(forms.question, marks), _filled(forms.continuation, marks)
    if settings.prompt_form == "base":
        return ChatRequest(
            mode="completion",
            model=model,
            prompt=continuation if monologue.said else question,
            overflow="drop_front",
            sampling=Sampling(seed=seed, stop=("\n",)),
            max_output_tokens=max_output_tokens,
        )
    messages = [ChatMessage(role="system", content=_filled(forms.instructions, marks))] if forms.instructions else []
    for exchange in earlier:
        messages.append(ChatMessage(role="user", content=exchange.question))
        messages.append(ChatMessage(role="assistant", content=exchange.answer))
    messages.append(ChatMessage(role="user", content=question))
    for part in monologue.said[-MAX_PARTS_TOLD:]:
        messages.append(ChatMessage(role="assistant", content=part))
        messages.append(ChatMessage(role="user", content=continuation))
    return ChatRequest(
        model=model,
        messages=tuple(messages),
        overflow="drop_front",
        sampling=Sampling(seed=seed),
        max_output_tokens=max_output_tokens,
    )


def _filled(form: str, marks: dict[str, str]) -> str:
    """A form with what stands for its marks, of which none is looked for in what was said."""
    parts = [form]
    for mark, text in marks.items():
        split: list[str] = []
        for index, part in enumerate(parts):
            # Every other part is what was filled in.
            pieces = part.split(mark) if index % 2 == 0 else [part]
            for at, piece in enumerate(pieces):
                split += [text, piece] if at else [piece]
        parts = split
    return "".join(parts)

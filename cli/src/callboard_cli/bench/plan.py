"""What a measurement does: its works, its load and its caps."""

from dataclasses import dataclass
from typing import Literal

from callboard_cli.bench.samples import Work

INSTRUCTIONS = "You are the prompter of a small theatre. Answer in one sentence."
QUESTIONS = (
    "Which line comes after the storm?",
    "Who stands in the wings tonight?",
    "What does the king say when the lights go out?",
    "Where did we leave the lantern of the second act?",
)
SPEECH = "Places, please. The curtain rises in five minutes, and nobody has seen the ghost since supper."
_WORDS = ("owl", "bear", "wolf", "crow", "wren", "lynx", "hare")


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings of one measurement, the same for each target."""

    works: tuple[Work, ...]
    requests: int
    at_once: int
    rate_per_s: float | None
    """Requests that are due each second, whatever became of earlier ones; None keeps `at_once` under way instead."""
    arrivals: Literal["even", "random"]
    seconds: float
    tokens: int
    max_tokens: int
    temperature: float | None
    warm_up: int
    turns: int
    think_s: float
    listeners: int
    prompt_words: int
    text: str
    pairs: int
    timeout_s: float
    seed: int

    def question(self, number: int) -> str:
        """The words of a request, no two alike, so that no cache answers for the engine."""
        asked = f"{QUESTIONS[number % len(QUESTIONS)]} (Call {self.seed}-{number}.)"
        if self.prompt_words:
            names = " ".join(_WORDS[(number + word * word) % len(_WORDS)] for word in range(self.prompt_words))
            return f"{number}: {names}. {asked}"
        return asked

    def items(self, work: Work) -> int:
        """How many requests, or conversations of several turns, a work has."""
        turns = self.turns if work in {"conversations", "rooms"} else 1
        return max(1, self.requests // turns)

"""What was heard of each kind, and how much of it may be wrong."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.hearing.sentences import Kind
from tests.hearing.words import Errors

FEW = 2
HEADER = "| kind | sentences | of | wrong | error | limit | sound | speaking | hearing |"


@dataclass(slots=True)
class Result:
    """What was heard of one kind, and what it cost."""

    kind: Kind
    sentences: int
    errors: Errors
    heard: str
    audio_s: float
    speaking_s: float
    hearing_s: float

    @property
    def is_good(self) -> bool:
        """Whether few enough were."""
        return self.errors.share <= self.kind.limit

    @property
    def is_good_for_few(self) -> bool:
        """The same for one or two sentences, of which so small a recogniser mishears a word."""
        return self.is_good or self.errors.wrong <= FEW


RESULTS: list[Result] = []
"""The results of this run of the tests, for its summary."""


def table(results: Iterable[Result]) -> Iterator[str]:
    """The results as a table in Markdown."""
    yield HEADER
    yield "|---|---|---|---|---|---|---|---|---|"
    yield from map(row, results)


def row(result: Result) -> str:
    """A result as a row of the table."""
    errors = result.errors
    cells = (
        *(result.kind.name, result.sentences, f"{errors.expected} {'sounds' if result.kind.by_sound else 'words'}"),
        *(errors.wrong, f"{errors.share:.1%}", f"{result.kind.limit:.0%}"),
        *(f"{result.audio_s:.0f} s", f"{result.speaking_s:.0f} s", f"{result.hearing_s:.0f} s"),
    )
    return f"| {' | '.join(map(str, cells))} |"

"""The sentences that are heard back, read from sentences.toml."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Sentence:
    """A text, and the words that are to be heard."""

    text: str
    words: str


@dataclass(frozen=True, slots=True)
class Kind:
    """Sentences of one kind, spoken by one voice at one speed, and heard in one language."""

    name: str
    sentences: tuple[Sentence, ...]
    voice: str = "af_heart"
    speed: float = 1.0
    language: str = "en"
    by_sound: bool = False
    sampled: int = 2
    limit: float = 0.15
    """The largest share that may be heard wrong."""

    @property
    def sample(self) -> tuple[Sentence, ...]:
        """The sentences that every run of the tests hears."""
        return self.sentences[:: -(-len(self.sentences) // self.sampled)] if self.sampled else ()


def all_kinds() -> tuple[Kind, ...]:
    """All kinds with all their sentences."""
    table: dict[str, Any] = tomllib.loads(Path(__file__).with_name("sentences.toml").read_text(encoding="utf-8"))
    kinds: list[Kind] = []
    for entry in table["kind"]:
        entry.pop("about", None)
        pairs = [(line, line) if isinstance(line, str) else (line[0], line[1]) for line in entry.pop("lines")]
        kinds.append(Kind(sentences=tuple(Sentence(*pair) for pair in pairs), **entry))
    return tuple(kinds)

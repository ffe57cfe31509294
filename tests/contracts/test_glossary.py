"""The glossary is readable, and names that were retired do not come back."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.contract

ROOT = Path(__file__).parents[2]
FOLDERS = ("libs", "services", "cli", "deploy", "docs", "tests", "changelog", "scripts")
KINDS = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".html", ".conf", ""}

RETIRED_WORDS = {
    "bookkeeper", "bury", "duties", "errand", "errands", "knock", "observatory", "rulebook", "shelf", "stopper",
    "tongue", "treasury",
}  # fmt: skip
"""Words of no name, sentence, metric or log event, also as a part of an identifier."""
RETIRED_NAMES = re.compile(
    r"\b(AccountBook|AdminGuard|CTL_RAISED|CoveredWriter|EncodedClip|GiveBack|MediaRoom|OutOfHolds|PastReader|QuotaDesk"
    r"|QuotaLine|RaiseNews|RequestDesk|SchemaDesk|SoundHolds|TopUps|VoiceBook|WaitingRoom|loose_ends|read_out"
    r"|settle_heap|take_unwritten|why_ignored)\b"
)
RETIRED_IN_PROSE = re.compile(
    r"\b(boards?|buried|buries|chores?|deals?|desks?|fates?|gifts?|loose ends?|surroundings|top-ups?|verdicts?"
    r"|workbench)\b",
    re.IGNORECASE,
)
"""Words of no sentence, and of no name of its own; a longer identifier may hold them with another meaning."""
ORIGIN = "callboard is the board backstage where calls are posted"
"""Where the product's name comes from, once, in the README."""
STORED_WORDS = ('".fate"',)
"""Names of stored data, which outlive the words they were made of."""


def texts() -> Iterator[tuple[str, str]]:
    """Every text file of the repository but this one, by its path from the root."""
    paths = [*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
    for path in paths:
        hidden = any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(ROOT).parts)
        if path.is_file() and path.suffix in KINDS and path != Path(__file__) and not hidden:
            yield str(path.relative_to(ROOT)), path.read_text("utf-8")


def test_retired_names_do_not_come_back() -> None:
    found: dict[str, set[str]] = {}
    for name, text in texts():
        words = set(re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", text).lower()))
        if retired := words & RETIRED_WORDS | {match[0] for match in RETIRED_NAMES.finditer(text)}:
            found[name] = retired
    assert found == {}, "docs/glossary.md has the words to use"


def test_retired_words_do_not_come_back_in_prose() -> None:
    found: dict[str, set[str]] = {}
    for name, text in texts():
        if name.startswith("tests/") or Path(name).suffix not in {".md", ".py", ".json", ".yaml", ".yml", ".html"}:
            continue
        prose = " ".join(text.split())
        for allowed in (ORIGIN, *STORED_WORDS):
            prose = prose.replace(allowed, "")
        if retired := {match[0] for match in RETIRED_IN_PROSE.finditer(prose)}:
            found[name] = retired
    assert found == {}, "docs/glossary.md has the words to use"


def test_the_glossary_has_one_sentence_for_each_term_in_order() -> None:
    page = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    sections = [
        re.findall(r"^\| (?!term |---)(.+?) \| (.+?) \|$", section, re.MULTILINE) for section in page.split("\n## ")[1:]
    ]
    assert all(sections)
    terms = [term for section in sections for term, _ in section]
    assert len(terms) == len(set(terms))
    for section in sections:
        assert [term for term, _ in section] == sorted((term for term, _ in section), key=str.lower)
        for term, meaning in section:
            assert re.fullmatch(r"[A-Z][^.]*\.", re.sub(r"`[^`]*`", "", meaning)), term

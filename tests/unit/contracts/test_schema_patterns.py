"""Patterns mean in a grammar what they mean to validators, or are refused."""

import itertools
import json
import re
from random import Random

import pytest

from callboard_chat.domain.json_check import satisfies
from callboard_contracts.schema_patterns import ENFORCED_FORMATS, UnsupportedPatternError, enforced, enforced_name
from tests.support.grammars import SchemaGrammar

pytestmark = [pytest.mark.unit, pytest.mark.timeout(400)]

ATOMS = (
    '"', '["a]', r"\\", r'\\"', "[!-#]", '(?:"|a)', r"[\\a]", "[Z-a]", r"\n", r"\t", r'[\n"]', r"[\x01-\x1f]", '[^"]',
    "[^a]", r'[^"\\]', ".", r"\S", r"\W", r"[^b\n]", r"\D", "a", "[ab]", "b", r"\w", "n", "u", '(?:ab|"a)', r"\{",
    r"\/", r"\.", r"\s", r"[\s-]", r"[^\w]", "é", r"\u0022", r"\x5c", r"\cJ",
)  # fmt: skip
QUANTIFIERS = ("", "", "", "+", "*", "?", "{1,2}", "{2}", "{0,}", "??")
PROBES = ["".join(letters) for length in range(4) for letters in itertools.product('"\\ab\nu\té .{', repeat=length)]
PATTERNS = 80


def test_translated_patterns_match_what_the_original_matches(request: pytest.FixtureRequest) -> None:
    chance = Random(request.config.getoption("randomly_seed", 1))
    for _ in range(PATTERNS):
        parts = [chance.choice(ATOMS) + chance.choice(QUANTIFIERS) for _ in range(chance.randint(1, 4))]
        pattern = chance.choice(["^", ""]) + "".join(parts) + chance.choice(["$", ""])
        original = re.compile(pattern.replace(r"\cJ", r"\n"))
        grammar = SchemaGrammar({"type": "string", "pattern": pattern})
        for text in chance.sample(PROBES, 100) + PROBES[:100]:
            accepted, matches = grammar.accepts(text), bool(original.search(text))
            assert matches or not accepted, (pattern, text)
            assert not accepted or satisfies(text, {"pattern": pattern}), (pattern, text)
            # Python's $ is also before a last line break, and \W and \S match less where validators disagree.
            agreed = not text.endswith("\n") and text.isascii()
            assert accepted or not matches or not agreed, (pattern, text)


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(?=a)b", "a look-around"), ("(?<!a)b", "a look-around"), (r"(a)\1", "a back-reference"),
        (r"(?<n>a)\k<n>", "a back-reference"), (r"\bword\b", "a word boundary"), ("(?i)a", "a group with options"),
        ("(?P<n>a)", "a group with options"), (r"\0", "a NUL character"), (r"[\x00]", "a NUL character"),
        ("[]", "an empty class"), ("[^]", "an empty class"), ("[a", "a class without an end"),
        ("[b-a]", "upside down"), ("a{,2}", "no quantifier"), ("a*+", "two quantifiers"),
        (r"[\b]", "a word boundary"), (r"[a-\d]", "ends in a class"),
        (r"\Z", "an unknown escape"), (r"\ud800", "no character"), ("a\\", "an unknown escape"),
    ],
)  # fmt: skip
def test_what_cannot_be_enforced_is_named(pattern: str, why: str) -> None:
    with pytest.raises(UnsupportedPatternError, match=why):
        enforced(pattern)


def test_names_have_no_characters_that_json_escapes() -> None:
    assert enforced_name("^a+$", exact=True) == "^a+$"
    with pytest.raises(UnsupportedPatternError, match="quote"):
        enforced_name('^"', exact=True)


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("date", "2024-02-29 2000-02-29 1999-12-31", "2023-02-29 1900-02-29 2023-04-31 0000-01-01 2023-1-1"),
        ("time", "00:00:00Z 23:59:59.123456+23:59", "24:00:00Z 23:60:00Z 23:59:60Z 12:00:00"),
        ("date-time", "2024-02-29T12:00:00Z", "2023-02-29T12:00:00Z 2024-02-29 2024-02-29t12:00:00z"),
        ("uri", "https://a.b:80/c?d=e#f urn:isbn:1 mailto:a@b", "a //b/c http:// https://a.b/%zz"),
        (
            "email",
            "a@b a.b+c@x-y.example o'neill@mail.example " + "a" * 32 + "@b",
            ".a@b a.@b a..b@c a@b_c a@-b @b a@ a@b. " + "a" * 65 + "@b",
        ),
        ("ipv4", "127.0.0.1", "256.0.0.1 1.2.3 01.2.3.4"),
        ("uuid", "2eb8aa08-aa98-11ea-b4aa-73b441d16380", "2eb8aa08aa9811eab4aa73b441d16380"),
    ],
)
def test_formats_are_exact(name: str, right: str, wrong: str) -> None:
    assert name in ENFORCED_FORMATS
    grammar = SchemaGrammar({"type": "string", "format": name})
    assert [text for text in right.split() if not grammar.accepts(text)] == []
    assert [text for text in wrong.split() if grammar.accepts(text)] == []


def test_patterns_stay_small() -> None:
    """A translated pattern is part of a grammar whose size is bounded before it is translated."""
    text = r"\s\S\d\D\w\W." * 50
    assert len(json.dumps("".join(enforced(text)))) < 40 * len(text)

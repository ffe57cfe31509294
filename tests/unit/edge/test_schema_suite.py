"""Schemas are enforced or refused by name: the official test suite, and random replies to random schemas.

No model is needed: what a grammar accepts is told byte by byte.
"""

import re
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from callboard_chat.domain.json_check import parsed, satisfies
from callboard_edge.domain.schema_keywords import UnsupportedSchemaError
from callboard_edge.domain.schema_normalizer import normalized
from tests.support.grammars import SchemaGrammar
from tests.support.json_schema_suite import DRAFTS, groups
from tests.support.random_schemas import in_older_draft, random_schema

pytestmark = [pytest.mark.unit, pytest.mark.timeout(400)]

SCHEMAS = 250
REPLIES = 4
ESCAPED_NAME = re.compile(rb'\\u[0-9a-fA-F]{4}(?:[^"\\]|\\.)*":')
"""A name with an escaped character passes by the patterns for names; the worker's check of a reply refuses it."""


@pytest.mark.parametrize(
    ("draft", "enforced", "refused", "narrower"),
    [
        ("draft4", 131, 28, 8),
        ("draft6", 187, 44, 19),
        ("draft7", 197, 57, 19),
        ("draft2019-09", 246, 115, 21),
        ("draft2020-12", 242, 126, 31),
    ],
)
def test_schemas_of_the_official_suite_are_enforced_or_refused(
    draft: str, enforced: int, refused: int, narrower: int
) -> None:
    """`narrower` counts valid instances that no reply can be, as their properties are in another order."""
    counts: Counter[str] = Counter()
    for group in groups(draft):
        try:
            grammar = SchemaGrammar(normalized(group.schema, strict=False))
        except (UnsupportedSchemaError, ValueError):
            counts["refused"] += 1
            continue
        counts["enforced"] += 1
        for value, valid in group.instances:
            accepted = grammar.accepts(value)
            assert valid or not accepted, (group.name, value)
            counts["narrower"] += valid and not accepted
    assert (counts["enforced"], counts["refused"], counts["narrower"]) == (enforced, refused, narrower)


def test_every_reply_to_a_random_schema_is_json_that_satisfies_it(request: pytest.FixtureRequest) -> None:
    chance = Random(request.config.getoption("randomly_seed", 1))
    counts: Counter[str] = Counter()
    for _ in range(SCHEMAS):
        schema = random_schema(chance)
        for value in replies(schema, chance, counts):
            assert Draft202012Validator(schema).is_valid(value), (schema, value)
    assert counts["refused"] < SCHEMAS / 2
    assert counts["replies"] > SCHEMAS


def test_schemas_of_older_drafts_are_obeyed_as_those_drafts_say(request: pytest.FixtureRequest) -> None:
    chance = Random(request.config.getoption("randomly_seed", 1))
    counts: Counter[str] = Counter()
    for _ in range(SCHEMAS):
        draft = chance.choice(["draft4", "draft6", "draft7"])
        schema = {**in_older_draft(random_schema(chance), draft), "$schema": DRAFTS[draft]}
        for value in replies(schema, chance, counts):
            assert satisfies(value, schema), (schema, value)
    assert counts["refused"] < SCHEMAS / 2
    assert counts["replies"] > SCHEMAS


def replies(schema: dict[str, Any], chance: Random, counts: Counter[str]) -> Iterator[Any]:
    """Random replies to a schema, which satisfy its normalised form too; none where it is refused."""
    try:
        form = normalized(schema, strict=True)
        grammar = SchemaGrammar(form)
    except (UnsupportedSchemaError, ValueError):
        counts["refused"] += 1
        return
    for _ in range(REPLIES):
        reply = grammar.reply(chance)
        if reply is not None:
            counts["replies"] += 1
            value = parsed(reply.decode())
            if ESCAPED_NAME.search(reply) and not satisfies(value, form):
                counts["refused"] += 1
                continue
            assert satisfies(value, form), (schema, reply)
            yield value

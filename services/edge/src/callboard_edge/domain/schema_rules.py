"""Rules that bring one keyword of a schema into the normalised form: those that several kinds of values share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from referencing import Specification

from callboard_contracts.schema_patterns import UnsupportedPatternError
from callboard_edge.domain.schema_keywords import MAX_COUNT, UnsupportedSchemaError

Json = Any
Schema = dict[str, Any] | bool


@dataclass(slots=True)
class Call:
    """One keyword of one schema, and what has been found of the schema so far.

    `found` is the normalised schema, and `extra` what it must satisfy besides. `normalized` normalises a schema inside
    it, given its place.
    """

    schema: dict[str, Any]
    keyword: str
    value: Json
    place: str
    draft: Specification[Json]
    found: dict[str, Any]
    extra: list[Schema]
    normalized: Callable[[Json, str], Schema]

    @property
    def at(self) -> str:
        """The place of the keyword's value."""
        return f"{self.place}/{self.keyword}" if self.place else self.keyword

    def refusal(self, reason: str, keyword: str | None = None) -> UnsupportedSchemaError:
        """The error for what cannot be enforced."""
        return UnsupportedSchemaError(keyword or self.keyword, self.place, reason)


Rule = Callable[[Call], None]


def kept(call: Call) -> None:
    """The keyword as it is."""
    call.found[call.keyword] = call.value


def dropped(_call: Call) -> None:
    """Nothing: the keyword says nothing, or another one has read it."""


def refused(reason: str) -> Rule:
    """A rule that refuses a keyword."""

    def rule(call: Call) -> None:
        raise call.refusal(reason)

    return rule


def one_schema(call: Call) -> None:
    """A keyword with a schema."""
    call.found[call.keyword] = call.normalized(call.value, call.at)


def list_of_schemas(call: Call) -> None:
    """A keyword with several schemas."""
    call.found[call.keyword] = listed(call)


def map_of_schemas(call: Call) -> None:
    """A keyword with schemas by name."""
    call.found[call.keyword] = {name: call.normalized(part, f"{call.at}/{name}") for name, part in call.value.items()}


def listed(call: Call) -> list[Schema]:
    """The schemas of a keyword that has several."""
    return [call.normalized(part, f"{call.at}/{index}") for index, part in enumerate(call.value)]


def count(call: Call) -> None:
    """A bound on how many parts a value has."""
    if call.value <= MAX_COUNT:
        call.found[call.keyword] = int(call.value)
    elif call.keyword.startswith("min"):
        raise call.refusal(f"it is over {MAX_COUNT}")


def check_pattern(call: Call, translate: Callable[[], object]) -> None:
    """Refuses a pattern that cannot be translated."""
    try:
        translate()
    except UnsupportedPatternError as error:
        raise call.refusal(f"it has {error}") from None

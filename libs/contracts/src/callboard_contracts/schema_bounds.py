"""What of a JSON schema costs an engine by its numbers rather than by its size."""

from collections.abc import Iterator
from typing import Any

MAX_ARRAY_ITEMS = 8192
"""What all bounds on the items of arrays add up to at most; converters of schemas make a rule for each item."""


def array_items(schema: dict[str, Any]) -> float:
    """What the bounds on the items of all arrays in a schema add up to, the larger of each pair."""
    return sum(_item_bounds(schema))


def too_many_items() -> str:
    """What is wrong with a schema whose arrays may have too many items."""
    return f"its bounds on the items of arrays add up to more than {MAX_ARRAY_ITEMS}"


def _item_bounds(value: Any) -> Iterator[float]:
    if isinstance(value, list):
        for below in value:
            yield from _item_bounds(below)
    elif isinstance(value, dict):
        bounds = (value.get("minItems"), value.get("maxItems"))
        # Negative bounds, which are none, must not make up for others.
        yield max((bound for bound in bounds if isinstance(bound, int | float) and bound > 0), default=0)
        for below in value.values():
            yield from _item_bounds(below)

"""What schemas say of arrays."""

from collections.abc import Mapping
from typing import Any

from referencing.jsonschema import DRAFT201909, DRAFT202012

from callboard_edge.domain.schema_keywords import LIMITED, MAX_CONTAINED, REFUSED
from callboard_edge.domain.schema_rules import Call, Rule, count, dropped, listed, one_schema

_WITH_MIN_CONTAINS = (DRAFT201909, DRAFT202012)


def _items(call: Call) -> None:
    if isinstance(call.value, list):
        call.found["prefixItems"] = listed(call)
    else:
        one_schema(call)


def _additional_items(call: Call) -> None:
    if isinstance(call.schema.get("items"), list):
        call.found["items"] = call.normalized(call.value, call.at)


def _contains(call: Call) -> None:
    least = int(call.schema.get("minContains", 1)) if call.draft in _WITH_MIN_CONTAINS else 1
    if least > MAX_CONTAINED:
        raise call.refusal(LIMITED["contains"], "minContains")
    inner = call.normalized(call.value, call.at)
    if not least:
        return
    first: Any = call.schema.get("prefixItems", call.schema.get("items"))
    places = (0, len(first)) if isinstance(first, list) else (0,)
    forms = [{"prefixItems": [True] * place + [inner] * least, "minItems": place + least} for place in places]
    call.extra.append({"anyOf": forms})


def _max_contains(call: Call) -> None:
    if "contains" in call.schema:
        raise call.refusal(REFUSED["maxContains"])


def _unique(call: Call) -> None:
    if call.value and call.schema.get("maxItems", 2) > 1:
        raise call.refusal(REFUSED["uniqueItems"])


ARRAY_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("minItems", "maxItems"), count),
    "additionalItems": _additional_items,
    "contains": _contains,
    "items": _items,
    "maxContains": _max_contains,
    "minContains": dropped,
    "uniqueItems": _unique,
}

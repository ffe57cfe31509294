"""What schemas say of numbers, strings and listed values."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jsonschema import Draft202012Validator

from callboard_contracts.schema_patterns import ENFORCED_FORMATS, enforced
from callboard_edge.domain.schema_keywords import LIMITED, MAX_INTEGER
from callboard_edge.domain.schema_rules import Call, Rule, check_pattern, count, kept

Json = Any

_LOWER_BOUNDS = ("minimum", "exclusiveMinimum")
_UPPER_BOUNDS = ("maximum", "exclusiveMaximum")
_INTEGER_FORMATS = {"int32": 2**31, "int64": MAX_INTEGER}
_NUMBER_FORMATS = {"float", "double"}


def _pattern(call: Call) -> None:
    check_pattern(call, lambda: enforced(call.value))
    kept(call)


def _bound(call: Call) -> None:
    if isinstance(call.value, bool):
        return
    lower, keyword = "inimum" in call.keyword, call.keyword
    exclusive = f"exclusiveM{keyword[1:]}"
    if not keyword.startswith("exclusive") and call.schema.get(exclusive) is True:
        keyword = exclusive
    is_exclusive = keyword.startswith("exclusive")
    bounds: list[Json] = [call.schema.get(name) for name in (_UPPER_BOUNDS if lower else _LOWER_BOUNDS)]
    others = [bound if lower else -bound for bound in bounds if _is_number(bound)]
    value = call.value if lower else -call.value
    if any(other <= value if is_exclusive else other < value for other in others):
        # llguidance says what contradicts what.
        call.found[keyword] = call.value
        return
    if (call.value > MAX_INTEGER) if lower else (call.value < -MAX_INTEGER):
        raise call.refusal(f"it is a number that is too large: over {MAX_INTEGER}", keyword)
    if is_exclusive and any(other - value < 1 for other in others):
        # llguidance takes 0 for more than 0 there.
        raise call.refusal(LIMITED["exclusiveMinimum"], keyword)
    call.found[keyword] = max(call.value, -MAX_INTEGER) if lower else min(call.value, MAX_INTEGER)


def _multiple_of(call: Call) -> None:
    if call.value > MAX_INTEGER:
        raise call.refusal(f"it is over 2^53 ({MAX_INTEGER})")
    kept(call)


def _values(call: Call) -> None:
    if any(_is_number(leaf) and abs(leaf) > MAX_INTEGER for leaf in _leaves(call.value)):
        raise call.refusal(f"a number in it is too large: over {MAX_INTEGER}")
    # llama.cpp's copy of llguidance gives up where a value is not of the type beside it.
    types = call.schema.get("type", ())
    types = (types,) if isinstance(types, str) else types
    listed = call.value if call.keyword == "enum" else [call.value]
    values = {"enum": [value for value in listed if not types or _is_one_of(value, types)]}
    if "enum" in call.found:
        call.extra.append(values)
    else:
        call.found.update(values)


def _format(call: Call) -> None:
    if call.value in _INTEGER_FORMATS:
        most = _INTEGER_FORMATS[call.value]
        call.extra.append({"minimum": -most, "maximum": most - 1})
    elif call.value in ENFORCED_FORMATS:
        kept(call)
    elif call.value not in _NUMBER_FORMATS:
        raise call.refusal(f"this format is not enforced; {LIMITED['format']} are")


def _is_one_of(value: Json, types: Sequence[str]) -> bool:
    return any(Draft202012Validator.TYPE_CHECKER.is_type(value, one) for one in types)


def _leaves(value: Json) -> Iterator[Json]:
    if isinstance(value, dict):
        for below in value.values():
            yield from _leaves(below)
    elif isinstance(value, list):
        for below in value:
            yield from _leaves(below)
    else:
        yield value


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


VALUE_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _bound),
    **dict.fromkeys(("minLength", "maxLength"), count),
    **dict.fromkeys(("const", "enum"), _values),
    "format": _format,
    "multipleOf": _multiple_of,
    "pattern": _pattern,
    "type": kept,
}

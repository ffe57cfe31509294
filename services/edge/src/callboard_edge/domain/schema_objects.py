"""What schemas say of objects: their properties, how many there are, and what they are called."""

import json
from collections.abc import Callable, Mapping
from itertools import combinations
from math import comb
from typing import Any

from callboard_contracts.schema_patterns import enforced_name
from callboard_edge.domain.schema_keywords import ANNOTATIONS, LIMITED, MAX_DEPENDENCIES, UnsupportedSchemaError
from callboard_edge.domain.schema_rules import (
    Call,
    Rule,
    Schema,
    check_pattern,
    count,
    kept,
    map_of_schemas,
    one_schema,
)

MAX_ALTERNATIVES = 64
MAX_MATCHES = 512
_OTHER_TYPES: Schema = {"type": ["null", "boolean", "number", "string", "array"]}


def _pattern_properties(call: Call) -> None:
    for pattern in call.value:
        _check_name_pattern(call, pattern)
    if call.value:
        map_of_schemas(call)


def _check_name_pattern(call: Call, pattern: str) -> None:
    check_pattern(call, lambda: enforced_name(pattern, exact=True))


def _least_properties(call: Call) -> None:
    # llguidance counts repeated names, so a lower bound must follow from names that cannot repeat.
    required = set(call.schema.get("required", ()))
    missing = int(call.value) - len(required)
    optional = _optional(call.schema)
    if call.value > call.schema.get("maxProperties", call.value):
        # llguidance says what contradicts what.
        call.found["minProperties"] = int(call.value)
    elif missing <= 0:
        return
    elif missing == 1 and not optional and required.issuperset(call.schema.get("properties", ())):
        call.found["minProperties"] = int(call.value)
    elif 0 < comb(len(optional), missing) <= MAX_ALTERNATIVES:
        chosen = combinations(optional, missing)
        call.extra.append({"anyOf": [*({"required": list(names)} for names in chosen), _OTHER_TYPES]})
    else:
        raise call.refusal(LIMITED["minProperties"])


def _most_properties(call: Call) -> None:
    # llguidance does not count optional properties, so it has to be said which of them are left out.
    optional = _optional(call.schema)
    free = int(call.value) - len(set(call.schema.get("required", ())))
    is_closed = call.schema.get("additionalProperties") is False and not call.schema.get("patternProperties")
    if call.value == 0:
        call.extra.append({"additionalProperties": False})
    elif not (is_closed and optional) or free < 0:
        count(call)
    elif free < len(optional):
        if comb(len(optional), free) > MAX_ALTERNATIVES:
            raise call.refusal(LIMITED["maxProperties"])
        left_out = combinations(optional, len(optional) - free)
        call.extra.append({"anyOf": [{"properties": dict.fromkeys(names, False)} for names in left_out]})


def _optional(schema: dict[str, Any]) -> list[str]:
    """The names of the properties that a schema allows and does not require."""
    required = set(schema.get("required", ()))
    return [name for name, part in schema.get("properties", {}).items() if name not in required and part is not False]


def _dependencies(call: Call) -> None:
    if len(call.value) > MAX_DEPENDENCIES:
        raise call.refusal(LIMITED["dependentSchemas"])
    for name, needed in call.value.items():
        if isinstance(needed, list):
            then: Schema = {"required": [name, *(one for one in needed if one != name)]}
        else:
            inner = call.normalized(needed, f"{call.at}/{name}")
            then = {"required": [name], "allOf": [inner]} if inner is not False else False
        call.extra.append({"anyOf": [{"properties": {name: False}}, then]})


def _property_names(call: Call) -> None:
    if call.value in (True, {}):
        return
    if call.value is False:
        call.extra.append({"additionalProperties": False})
        return
    rules = {name: rule for name, rule in call.value.items() if name not in ANNOTATIONS}
    lengths = "minLength" in rules or "maxLength" in rules
    known = {"type", "minLength", "maxLength"} if lengths else {"type", "const", "enum", "pattern"}
    single = lengths or len(set(rules) - {"type"}) <= 1
    if not set(rules) <= known or not single or rules.pop("type", "string") != "string":
        raise call.refusal(LIMITED["propertyNames"])
    if "patternProperties" in call.schema:
        raise call.refusal(LIMITED["propertyNames"])
    if lengths:
        least, most = int(rules.get("minLength", 0)), rules.get("maxLength")
        rules = {"pattern": f"^[\\s\\S]{{{least},{'' if most is None else int(most)}}}$"}
    elif "pattern" in rules:
        _check_name_pattern(call, rules["pattern"])
    if rules:
        call.found["propertyNames"] = rules


OBJECT_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("dependencies", "dependentRequired", "dependentSchemas"), _dependencies),
    "additionalProperties": one_schema,
    "maxProperties": _most_properties,
    "minProperties": _least_properties,
    "patternProperties": _pattern_properties,
    "properties": map_of_schemas,
    "propertyNames": _property_names,
    "required": kept,
}


def meet_names(schema: dict[str, Any], place: str) -> None:
    """Replaces `propertyNames` by what says the same of properties."""
    rules, properties = schema.pop("propertyNames"), schema.get("properties", {})
    rest = schema.get("additionalProperties", True)
    schema["additionalProperties"] = False
    if "pattern" in rules:
        allows = _matcher(rules["pattern"])
        if rest is not False:
            if rest is not True and rest != {} and properties:
                raise UnsupportedSchemaError("propertyNames", place, LIMITED["propertyNames"])
            schema["patternProperties"] = {rules["pattern"]: rest}
    else:
        listed = [name for name in rules.get("enum", [rules.get("const")]) if isinstance(name, str)]
        properties = {**dict.fromkeys(listed, rest), **properties}
        allows = listed.__contains__
    for name in (*properties, *schema.get("required", ())):
        if not allows(name):
            properties[name] = False
    if properties:
        schema["properties"] = properties


def meet_patterns(schema: dict[str, Any], place: str) -> None:
    """Joins the schemas of patterns to those of the named properties that match, which llama.cpp's copy forgets to."""
    patterns = {pattern: part for pattern, part in schema["patternProperties"].items() if part is not True}
    properties = schema.get("properties", {})
    names = [*properties, *(name for name in schema.get("required", ()) if name not in properties)]
    if len(names) * len(patterns) > MAX_MATCHES:
        raise UnsupportedSchemaError("patternProperties", place, "there are too many of them beside named properties")
    for pattern, part in patterns.items():
        matches = _matcher(pattern)
        for name in filter(matches, names):
            properties[name] = {"allOf": [properties[name], part]} if name in properties else part
    if properties:
        schema["properties"] = properties


def _matcher(pattern: str) -> Callable[[str], bool]:
    """Whether names match a pattern, told in linear time."""
    from llguidance import LLMatcher, LLTokenizer

    grammar = LLMatcher.grammar_from_json_schema({"type": "string", "pattern": enforced_name(pattern, exact=True)})
    matcher = LLMatcher(LLTokenizer("byte"), grammar, log_level=0)

    def matches(name: str) -> bool:
        matcher.reset()
        data = list(json.dumps(name, ensure_ascii=False).encode())
        return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()

    return matches

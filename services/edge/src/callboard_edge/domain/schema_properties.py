"""Says of named properties what patterns and rules of names say, where grammars do not."""

import json
from collections.abc import Callable
from typing import Any

from callboard_contracts.schema_patterns import enforced_name
from callboard_edge.domain.schema_keywords import LIMITED, UnsupportedSchemaError

MAX_MATCHES = 512


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

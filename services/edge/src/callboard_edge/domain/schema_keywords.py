"""How far replies are held to each keyword of JSON schemas."""

from collections.abc import Mapping

from callboard_contracts.schema_patterns import ENFORCED_FORMATS

MAX_INTEGER = 2**53
"""The engines' numbers are exact up to here, as JavaScript's are."""
MAX_COUNT = 2**31
"""No reply has so many parts; a higher bound on them says nothing."""
MAX_CONTAINED = 16
MAX_DEPENDENCIES = 8

REFUSED: Mapping[str, str] = {
    "$dynamicRef": "a reference must name its schema",
    "$recursiveRef": "a reference must name its schema",
    "if": "conditions are not enforced; `anyOf` can list the alternatives",
    "then": "as `if`, without which it says nothing",
    "else": "as `if`, without which it says nothing",
    "uniqueItems": "repeated items cannot be excluded",
    "maxContains": "items cannot be counted by what they are",
}
"""Keywords that are refused, with the reason."""

LIMITED: Mapping[str, str] = {
    "$ref": "references to other documents are refused; where a schema names draft 4, 6 or 7, nothing beside it counts",
    "$schema": "drafts 4, 6, 7, 2019-09 and 2020-12, one for the whole schema",
    "const": f"no number over 2^53 ({MAX_INTEGER})",
    "contains": f"the items that must match come first; `minContains` at most {MAX_CONTAINED}",
    "dependentSchemas": f"at most {MAX_DEPENDENCIES} beside each other, also as `dependentRequired` or `dependencies`",
    "enum": f"no number over 2^53 ({MAX_INTEGER})",
    "exclusiveMaximum": "as `maximum`; refused where the other bound is less than 1 away",
    "exclusiveMinimum": "as `minimum`; refused where the other bound is less than 1 away",
    "format": "only " + ", ".join(f"`{name}`" for name in sorted(ENFORCED_FORMATS)),
    "maximum": f"numbers over 2^53 ({MAX_INTEGER}) are never written where a bound is set",
    "maxProperties": "beside optional `properties` only where others are forbidden, and with at most 64 ways to leave "
    "some out; or 0",
    "minimum": f"numbers under -2^53 (-{MAX_INTEGER}) are never written where a bound is set",
    "minProperties": "at most one more than `required` has; beside optional `properties` it asks for some of them, in "
    "at most 64 ways",
    "not": "only `not: {}`, which allows nothing",
    "oneOf": "only where no value can satisfy two of the alternatives, by their types, `const` or `enum`, or those of "
    "a property that all require",
    "pattern": "no look-around, back-references, word boundaries, options, or anchors inside; `.` and negated classes "
    "never match NUL; `\\d`, `\\w`, `\\s` and their opposites match only what ECMA-262 and Python agree about",
    "patternProperties": "as `pattern`, without quotes, backslashes and control characters; no name may match two of "
    "them",
    "prefixItems": "not under a draft before 2020-12 that the schema names",
    "propertyNames": "only `const`, `enum`, `pattern` or lengths; not beside `patternProperties`, and a pattern or "
    "lengths not beside both `properties` and a schema of `additionalProperties`",
    "unevaluatedItems": "only where nothing beside it, such as `allOf` or `contains`, evaluates some",
    "unevaluatedProperties": "only where nothing beside it, such as `allOf` or `$ref`, evaluates some",
}
"""Keywords that are enforced in part; whatever else they say is refused."""

ENFORCED = frozenset(
    {
        *("type", "properties", "required", "additionalProperties", "items", "additionalItems", "minItems"),
        *("maxItems", "minLength", "maxLength", "multipleOf", "allOf", "anyOf", "dependentRequired", "dependencies"),
        *("$defs", "definitions", "$id", "id", "$anchor", "$dynamicAnchor", "$recursiveAnchor", "minContains"),
    }
)
ANNOTATIONS = frozenset(
    {
        *("$comment", "$vocabulary", "title", "description", "default", "examples", "example", "deprecated"),
        *("readOnly", "writeOnly", "contentEncoding", "contentMediaType", "contentSchema", "discriminator"),
        *("externalDocs", "nullable", "xml"),
    }
)
"""Keywords that say nothing about what is valid; those that begin with `x-` are like them."""


class UnsupportedSchemaError(ValueError):
    """A schema that cannot be enforced; `keyword` is why and `place` where, with slashes between its parts."""

    def __init__(self, keyword: str, place: str, reason: str) -> None:
        super().__init__(reason)
        self.keyword = keyword
        self.place = place
        self.reason = reason


class MalformedSchemaError(ValueError):
    """A schema that its draft does not allow; the message says where."""

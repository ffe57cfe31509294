"""Checks the JSON schemas that clients send for replies and tools, and makes them enforceable."""

import asyncio
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from cachetools import LRUCache

from callboard_contracts.chat import MAX_GRAMMAR_SYMBOLS, MAX_LEXER_FUEL, MAX_LEXER_STATES, ChatRequest
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.schema_bounds import MAX_ARRAY_ITEMS, array_items, too_many_items
from callboard_contracts.schema_grammar import grammar_schema

MAX_SCHEMA_BYTES = 64 * 1024
"""A larger schema would make a grammar that no engine loads in reasonable time."""
MAX_ALL_BYTES = 256 * 1024
MAX_ALL_NODES = 5000
"""All schemas of a request have at most so many objects; to check one of them takes some 75 microseconds."""
SMALL_SCHEMA_BYTES = 2048
"""So much is checked in milliseconds, and does not wait for larger ones."""
MAX_CASELESS_CHARACTERS = 256
"""All patterns of a schema that ignore case have at most so many; each of their classes can take 20 ms to fold."""
MAX_DEPTH = 64
"""How deep a schema may be nested; a worker could not even read a job with more than 200 levels."""
MAX_REQUIRED_TRIED = 64
MAX_REMEMBERED_BYTES = 8 * 1024 * 1024
WAIT_S = 10.0
_UNSATISFIABLE = "Unsatisfiable schema: "
_IMPOSSIBLE = "nothing can satisfy it"
_EMPTY_PATTERN = "Regex is empty"
_BAD_PATTERN = "regex parse error"
_NOT_OFFERED = "not supported"
"""What ends the library's message on a valid pattern that it cannot read and another engine may, as look-ahead is."""
_CASELESS = re.compile(r"\(\?[A-Za-z-]*i")
_TOO_COMPLEX = ("too big", "too large", "too many", "limit exceeded", "fuel")
_NARROWED = ("minProperties", "contains")
"""Keywords that allow less in a grammar than they say, so that nothing may be left where something satisfies them."""
_UNENFORCED = {
    "oneOf": "oneOf",
    "patternProperty": "patternProperties",
    "Properties only supported": "minProperties and maxProperties",
    "circular references": "$ref",
    "multipleOf": "multipleOf",
    "lookaround": "pattern",
}
"""Keywords that llguidance does not enforce, by words of its messages."""

T = TypeVar("T")


class SchemaValidator:
    """Works on one small and one large schema at a time, in threads, and remembers what was good.

    More at once would keep the interpreter from all other work.
    """

    def __init__(self) -> None:
        self._small, self._large = asyncio.Lock(), asyncio.Lock()
        self._enforceable: LRUCache[bytes, str] = LRUCache(MAX_REMEMBERED_BYTES, getsizeof=len)

    async def enforceable(self, request: ChatRequest) -> ChatRequest:
        """The same request with its schemas in the form that engines enforce.

        The parameters of a tool that cannot be enforced are left as they are, unless the tool is strict.

        Raises:
            CallboardError: `invalid_request` with what is wrong, `unsupported` with the keyword that cannot be
                enforced and its place, or too many others are being checked.
        """
        asked = [
            _Asked(tool.parameters, f"tools[{index}].parameters", bool(tool.strict), of_tool=True)
            for index, tool in enumerate(request.tools)
        ]
        wanted = request.output_format
        if wanted.json_schema is not None:
            param = "output_format.json_schema" if wanted.name else "output_format.schema"
            asked.append(_Asked(wanted.json_schema, param, bool(wanted.strict), of_tool=False))
        if not asked:
            return request
        left_bytes, left_nodes = MAX_ALL_BYTES, MAX_ALL_NODES
        found: list[dict[str, Any]] = []
        for each in asked:
            text = _text(each)
            left_bytes -= len(text)
            left_nodes -= text.count("{")
            if left_bytes < 0 or left_nodes < 0:
                message = f"All schemas together may have {MAX_ALL_BYTES} bytes and {MAX_ALL_NODES} objects."
                raise _invalid(message, each.param)
            found.append(await self._form(each, text) if each.schema else each.schema)
        tools = tuple(
            tool.model_copy(update={"parameters": form}) for tool, form in zip(request.tools, found, strict=False)
        )
        if len(found) > len(tools):
            wanted = wanted.model_copy(update={"json_schema": found[-1]})
        return request.model_copy(update={"tools": tools, "output_format": wanted})

    async def _form(self, asked: "_Asked", text: str) -> dict[str, Any]:
        digest = hashlib.sha256(f"{asked.strict} {asked.of_tool} {text}".encode()).digest()
        if (found := self._enforceable.get(digest)) is None:
            found = await self._in_turn(text, lambda: _form(asked, text))
            self._enforceable[digest] = found
        return json.loads(found)

    async def _in_turn(self, text: str, work: Callable[[], T]) -> T:
        turn = self._small if len(text) <= SMALL_SCHEMA_BYTES and not _CASELESS.search(text) else self._large
        try:
            async with asyncio.timeout(WAIT_S), turn:
                return await asyncio.to_thread(work)
        except TimeoutError:
            raise CallboardError(
                ErrorCode.QUEUE_FULL, "Too many schemas are being checked; try again shortly.", retry_after_s=WAIT_S
            ) from None


@dataclass(frozen=True, slots=True)
class _Asked:
    """A schema of a request, and the name of its field."""

    schema: dict[str, Any]
    param: str
    strict: bool
    of_tool: bool


def _text(asked: _Asked) -> str:
    if _is_deeper(asked.schema, MAX_DEPTH):
        raise _invalid(f"The schema is nested more than {MAX_DEPTH} levels deep.", asked.param)
    try:
        text = json.dumps(asked.schema, allow_nan=False)
    except ValueError:
        raise _invalid("The schema holds a number that JSON has no form for.", asked.param) from None
    if len(text) > MAX_SCHEMA_BYTES:
        raise _invalid(f"The schema is larger than {MAX_SCHEMA_BYTES} bytes.", asked.param)
    return text


def _invalid(message: str, param: str) -> CallboardError:
    return CallboardError(ErrorCode.INVALID_REQUEST, message, param=param)


def _form(asked: _Asked, text: str) -> str:
    try:
        return _enforceable(asked, len(text))
    except CallboardError as error:
        if asked.strict or not asked.of_tool or _IMPOSSIBLE in error.info.message:
            raise
    if problem := _problem(asked.schema):
        raise _invalid(f"Not a valid JSON schema: {problem}.", asked.param)
    return text


def _enforceable(asked: _Asked, text_bytes: int) -> str:
    # Loaded only when the first schema comes, to keep the process small.
    from callboard_edge.domain.schema_keywords import MalformedSchemaError, UnsupportedSchemaError
    from callboard_edge.domain.schema_normalizer import FOR_MODELS, FOR_REPLIES, normalized

    try:
        kept = FOR_MODELS if asked.of_tool else FOR_REPLIES
        found = normalized(_bounded(asked.schema, text_bytes), strict=asked.strict, kept=kept)
        text = json.dumps(found)
        _check_grammar(found, len(text), asked.schema)
    except UnsupportedSchemaError as problem:
        place = f" at '{problem.place}'" if problem.place else ""
        raise CallboardError(
            ErrorCode.UNSUPPORTED,
            f"The schema cannot be enforced: '{problem.keyword}'{place}: {problem.reason}.",
            param=asked.param,
        ) from None
    except MalformedSchemaError as problem:
        raise _invalid(f"Not a valid JSON schema: {problem}.", asked.param) from None
    except RecursionError:
        raise _invalid("Not a valid JSON schema: it is nested too deeply.", asked.param) from None
    except (ValueError, OverflowError):
        raise _invalid("Not a valid JSON schema: it holds a number that is too large.", asked.param) from None
    return text


def _bounded(schema: dict[str, Any], text_bytes: int) -> dict[str, Any]:
    """The same schema; raises MalformedSchemaError where it is too large to be normalised."""
    from callboard_edge.domain.schema_keywords import MalformedSchemaError

    # What is too complex for a grammar takes longest to check otherwise.
    if text_bytes > SMALL_SCHEMA_BYTES and _is_too_complex(_grammar_problem(schema)):
        raise MalformedSchemaError("it is too complex")
    return schema


def _check_grammar(schema: dict[str, Any], text_bytes: int, source: dict[str, Any]) -> None:
    """Raises MalformedSchemaError or UnsupportedSchemaError for a normalised schema that llguidance does not take."""
    from callboard_edge.domain.schema_keywords import LIMITED, MalformedSchemaError, UnsupportedSchemaError

    if text_bytes > MAX_ALL_BYTES:
        raise MalformedSchemaError("it is too complex")
    problem = _grammar_problem(grammar_schema(schema))
    if (reason := _reason(grammar_schema(schema), problem)) is not None:
        words = set(_strings(source)) if problem.startswith(_UNSATISFIABLE) else set[str]()
        for keyword in _NARROWED:
            if keyword in words and keyword not in reason:
                raise UnsupportedSchemaError(keyword, "", LIMITED[keyword])
        raise MalformedSchemaError(reason)
    for sign, keyword in _UNENFORCED.items():
        if sign in problem:
            raise UnsupportedSchemaError(keyword, "", LIMITED.get(keyword.partition(" ")[0], "it is too complex"))
    if problem:
        raise MalformedSchemaError("no grammar can be made of it")
    if array_items(schema) > MAX_ARRAY_ITEMS:
        raise MalformedSchemaError(too_many_items())


def _is_deeper(schema: object, depth: int) -> bool:
    level = [schema]
    while level and depth >= 0:
        depth -= 1
        inner = (part.values() if isinstance(part, dict) else part for part in level if isinstance(part, dict | list))
        level = [part for parts in inner for part in parts]
    return bool(level)


def _problem(schema: dict[str, Any]) -> str | None:
    caseless = sum(len(text) for text in _strings(schema) if _CASELESS.search(text))
    if caseless > MAX_CASELESS_CHARACTERS:
        return f"its patterns that ignore case have more than {MAX_CASELESS_CHARACTERS} characters"
    # What is too complex for a grammar takes longest to check otherwise.
    if problem := _impossible(schema):
        return problem
    if array_items(schema) > MAX_ARRAY_ITEMS:
        return too_many_items()
    return _malformed(schema)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for below in value:
            yield from _strings(below)
    elif isinstance(value, dict):
        for key, below in value.items():
            yield key
            yield from _strings(below)


def _malformed(schema: dict[str, Any]) -> str | None:
    # Loaded only when the first schema comes, to keep the process small.
    from callboard_edge.domain.schema_drafts import draft_of
    from callboard_edge.domain.schema_keywords import MalformedSchemaError, UnsupportedSchemaError

    try:
        draft_of(schema)
    except MalformedSchemaError as problem:
        return str(problem)
    except UnsupportedSchemaError:
        # A draft that is not known is no fault of a tool's.
        return _malformed({name: part for name, part in schema.items() if name != "$schema"})
    return None


def _impossible(schema: dict[str, Any]) -> str | None:
    """Why no value can satisfy a schema, or why its grammar is too large for an engine.

    The grammar is built as an engine builds it, which takes milliseconds and no memory to speak of, even for schemas
    that other converters never finish.
    """
    try:
        return _reason(schema, _grammar_problem(schema))
    except ValueError:
        return "it holds a number that is too large"


def _reason(schema: dict[str, Any], problem: str) -> str | None:
    if problem.startswith(_UNSATISFIABLE):
        return f"{_IMPOSSIBLE}: {_contradiction(schema, problem, '')}"
    if problem.startswith(_BAD_PATTERN) and _NOT_OFFERED not in problem:
        return "a pattern is not a regular expression"
    return "it is too complex" if _is_too_complex(problem) else None


def _is_too_complex(problem: str) -> bool:
    return any(words in problem for words in _TOO_COMPLEX)


def _grammar_problem(schema: dict[str, Any]) -> str:
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(
        max_grammar_size=MAX_GRAMMAR_SYMBOLS, initial_lexer_fuel=MAX_LEXER_FUEL, max_lexer_states=MAX_LEXER_STATES
    )
    return LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(schema), limits=limits)


def _contradiction(schema: dict[str, Any], problem: str, place: str) -> str:
    """What contradicts what, and where: of properties the library only says that one cannot be satisfied."""
    properties, required = schema.get("properties"), schema.get("required")
    if isinstance(properties, dict) and isinstance(required, list):
        definitions = {word: schema[word] for word in ("$defs", "definitions") if word in schema}
        for name in required[:MAX_REQUIRED_TRIED]:
            part = properties.get(name) if isinstance(name, str) else None
            if isinstance(part, dict) and (inner := _grammar_problem({**definitions, **part})).startswith(
                _UNSATISFIABLE
            ):
                return _contradiction({**definitions, **part}, inner, f"{place}/{name}" if place else name)
    reason = problem.removeprefix(_UNSATISFIABLE).partition("\n")[0]
    if reason.startswith(_EMPTY_PATTERN):
        reason = "its patterns, format and lengths exclude each other"
    return f"{reason} at '{place}'" if place else reason

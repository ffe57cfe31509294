"""The grammars that the embedded llama.cpp holds replies to. All of them are llguidance's.

llama.cpp's own grammars are not used for what a client sends: some of 100 bytes keep its loop busy for minutes, and its
converter of JSON schemas takes all memory for others. llguidance bounds every step of its work, but where it gives up,
the engine goes on without a grammar. So a grammar is checked before, and the reply is checked against it as it comes.
"""

import asyncio
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import gbnf_to_lark

from callboard_contracts.chat import MAX_GRAMMAR_SYMBOLS, MAX_LEXER_FUEL, MAX_LEXER_STATES, OutputFormat
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.schema_grammar import grammar_schema
from callboard_contracts.schema_patterns import UnsupportedPatternError
from callboard_worker.engine import EngineRefused

MAX_GRAMMAR_BYTES = 32 * 1024
MAX_GRAMMAR_RULES = 500
MAX_GRAMMAR_DEPTH = 100
"""How deep the brackets of a client's own grammar may be nested."""
LIMITS = LLParserLimits(
    max_grammar_size=MAX_GRAMMAR_SYMBOLS,
    initial_lexer_fuel=MAX_LEXER_FUEL,
    max_lexer_states=MAX_LEXER_STATES,
    verbose_errors=False,
)
"""Its other limits are those of the engine, which cannot be set there: some 20 ms of work for each token."""

Thoughts = Literal["none", "may", "open"]

_BYTES = LLTokenizer("byte")
_HEADER = "%llguidance {}\n"
_THOUGHTS: dict[Thoughts, tuple[str, str]] = {
    "none": ("", ""),
    "may": ("thought? ", r"thought[lazy]: /<think>(.|\n)*<\/think>\s*/"),
    "open": ("thought ", r"thought[lazy]: /(.|\n)*<\/think>\s*/"),
}
_UNKNOWN = re.compile(r"Unimplemented keys: (\[[^\]]*\])")
_REASONS = {
    "Unsatisfiable schema": "nothing can satisfy it",
    "Unknown format": "it has a format that the engine does not know",
    "regex parse error": "it has a pattern that the engine does not know",
    "oneOf": "the alternatives of its oneOf overlap",
    "too ": "it is too complex",
    "limit": "it is too complex",
    "fuel": "it is too complex",
}
"""What llguidance's errors mean, by words of theirs; the first that fits counts."""
_OBJECT: dict[str, Any] = {"type": "object"}


@dataclass(frozen=True, slots=True)
class Grammar:
    """A grammar that llguidance takes, for one reply, with what follows that reply.

    `rule` is set where it stands for one value and can be part of a larger grammar.
    """

    text: str
    matcher: LLMatcher
    rule: str | None = None

    def after(self, opening: str, thoughts: Thoughts) -> str:
        """The grammar of a reply whose first part, written as `opening` says, the engine has been given already.

        `thoughts` says whether the model may reason before it, or is reasoning already.
        """
        assert self.rule is not None
        before, rule = _THOUGHTS[thoughts]
        return f"{_HEADER}start: {opening} {before}reply\nreply: {self.rule}\n{rule}"


async def grammar_of(output_format: OutputFormat) -> Grammar | None:
    """The grammar of an output format, checked in a thread; None where text is free.

    Raises:
        EngineRefused: `invalid_request` or `unsupported`, saying what cannot be followed.
    """
    if output_format.kind == "text":
        return None
    return await asyncio.to_thread(_checked, output_format)


class ReplyChecker:
    """Follows a reply byte by byte and notices where it leaves its grammar."""

    def __init__(self, grammar: Grammar, said: str = "") -> None:
        self._matcher = grammar.matcher
        self._skips_space = grammar.rule is not None
        self.feed(said)

    def feed(self, text: str) -> None:
        """Takes the next text; raises EngineRefused where the grammar does not allow it."""
        if self._skips_space:
            # What a model writes between its thoughts and a value.
            text = text.lstrip()
            self._skips_space = not text
        data = list(text.encode())
        if data and self._matcher.try_consume_tokens(data) < len(data):
            raise _left_grammar()

    def end(self) -> None:
        """Takes the end of a reply that the model ended by itself; raises EngineRefused where it is not complete."""
        if not self._matcher.is_accepting():
            raise _left_grammar()


def literals(pieces: Iterable[tuple[int, str, bool]]) -> str:
    """Tokens, each with its text and whether it is a control token, as a sequence in a grammar."""
    return " ".join(f"<[{token}]>" if control else json.dumps(text) for token, text, control in pieces)


def thoughts_after(opening: str, *, has_text: bool) -> Thoughts:
    """Whether a reply may begin with thoughts, by the template's opening of it; one that has text is past them."""
    if has_text or opening.rstrip().endswith("</think>"):
        return "none"
    return "open" if opening.rstrip().endswith("<think>") else "may"


def _checked(output_format: OutputFormat) -> Grammar:
    if output_format.kind == "grammar":
        return _usable(_converted(output_format.grammar or ""), "grammar")
    schema = _OBJECT if output_format.kind == "json_object" else output_format.json_schema or _OBJECT
    try:
        rule = f"%json {json.dumps(grammar_schema(schema))}"
    except UnsupportedPatternError as problem:
        raise _invalid(f"This model's engine cannot follow a pattern: it has {problem}.") from None
    except RecursionError:
        raise _invalid("The JSON schema is nested too deeply.") from None
    return _usable(f"{_HEADER}start: {rule}", "JSON schema", rule)


def _usable(text: str, name: str, rule: str | None = None) -> Grammar:
    matcher = LLMatcher(_BYTES, text, log_level=0, limits=LIMITS)
    if not matcher.is_error():
        # Some limits are met only with the first token.
        matcher.compute_bitmask()
    if matcher.is_error():
        # Its first lines say what is wrong; then it quotes the grammar.
        raise _refusal(name, matcher.get_error().partition("\n   1 |")[0])
    return Grammar(text, matcher, rule)


def _converted(gbnf: str) -> str:
    if len(gbnf.encode()) > MAX_GRAMMAR_BYTES:
        raise _invalid(f"The grammar is larger than {MAX_GRAMMAR_BYTES} bytes.")
    if gbnf.count("::=") > MAX_GRAMMAR_RULES:
        raise _invalid(f"The grammar has more than {MAX_GRAMMAR_RULES} rules.")
    if gbnf.count("(") > MAX_GRAMMAR_DEPTH and _depth(gbnf) > MAX_GRAMMAR_DEPTH:
        raise _invalid(f"The grammar is nested more than {MAX_GRAMMAR_DEPTH} deep.")
    try:
        return gbnf_to_lark(gbnf)
    except Exception:
        # The converter raises Exception itself, with the client's words.
        raise _invalid("The grammar is not valid GBNF.") from None


def _depth(gbnf: str) -> int:
    depth = deepest = 0
    for character in gbnf:
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
    return deepest


def _refusal(name: str, problem: str) -> EngineRefused:
    """The error for what llguidance does not take; its own words quote the client's."""
    if unknown := _UNKNOWN.search(problem):
        keywords = ", ".join(json.loads(unknown.group(1)))
        message = f"This model's engine cannot follow a {name} with {keywords}."
        return EngineRefused(_error(message, ErrorCode.UNSUPPORTED))
    for sign, reason in _REASONS.items():
        if sign in problem:
            return _invalid(f"This model's engine cannot follow the {name}: {reason}.")
    return _invalid(f"This model's engine cannot follow the {name}.")


def _left_grammar() -> EngineRefused:
    return _invalid("The engine cannot follow the output format: it is too complex.")


def _invalid(message: str) -> EngineRefused:
    return EngineRefused(_error(message, ErrorCode.INVALID_REQUEST))


def _error(message: str, code: ErrorCode) -> ErrorInfo:
    return ErrorInfo(code=code, message=message, param="output_format")

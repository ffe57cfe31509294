r"""Regular expressions of JSON schemas, which are ECMA-262's, in the form that grammars take.

Validators read some classes differently: `\d` is ASCII in ECMA-262 and all of Unicode in Python. A translated pattern
matches only what both accept, so a reply satisfies either.

Two faults of llguidance are worked around. A class with all 32 control characters lets quotes and backslashes through,
so NUL belongs to none. The copy in llama.cpp ends a string after one character that JSON escapes, so each of these
stands in a class together with NUL, which a second pattern excludes.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_SPACES = "\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_ECMA_SPACES = rf"\t-\r \xa0{_SPACES}\ufeff"
_ALL_SPACES = rf"\t-\r\x1c-\x1f \x85\xa0{_SPACES}\ufeff"
_NO_LINE_END = "[^\\n\\r\u2028\u2029\\x00]"
_NUL = "\0"
_NO_NUL = r"^[^\x00]*$"
_META = frozenset("^$\\.*+?()[]{}|/-&~")
_CONTROLS = {"f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_QUANTIFIER = re.compile(r"[*+?]|\{\d+(?:,\d*)?\}")
_HEX = re.compile(r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|u\{([0-9A-Fa-f]{1,6})\}")
_PROPERTY = re.compile(r"[pP]\{[A-Za-z_]+(?:=[A-Za-z_]+)?\}")
_GROUP = re.compile(r"\((?:\?:|\?<[A-Za-z_$][\w$]*>)?")
_LOOKAROUND = re.compile(r"\(\?<?[=!]")

_YEAR = "[1-9][0-9]{3}"
_LEAP_YEAR = "(?:[1-9][0-9](?:0[48]|[2468][048]|[13579][26])|(?:[2468][048]|[13579][26])00)"
_DATE = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|"
    f"02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
_TIME = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_AUTHORITY = r"(?:[A-Za-z0-9_-]+\.)*[A-Za-z0-9_-]+(?::[0-9]{1,5})?"
_URI = "(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
_MAILBOX = "[A-Za-z0-9!#$%\\&'*+/=?^_`{|}\\~-]"
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
ENFORCED_FORMATS: dict[str, str | None] = {
    "date": f"^{_DATE}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    # The part before the sign has at most 64 characters.
    "email": f"^{_MAILBOX}(?:\\.?{_MAILBOX}){{0,31}}@{_LABEL}(?:\\.{_LABEL}){{0,3}}$",
    "time": f"^{_TIME}$",
    "uri": f"^[A-Za-z][A-Za-z0-9+.-]*:(?://{_AUTHORITY}(?:/{_URI}*)*|/?{_URI}+(?:/{_URI}*)*)"
    f"(?:\\?(?:{_URI}|[/?])*)?(?:#(?:{_URI}|[/?])*)?$",
    **dict.fromkeys(("duration", "hostname", "ipv4", "ipv6", "uuid")),
}
"""The formats of strings, each with its pattern where one copy of llguidance has none or lets something wrong
through."""


class UnsupportedPatternError(ValueError):
    """A pattern that cannot be enforced; the message is what it has, such as `a look-around`."""


@dataclass(frozen=True, slots=True)
class _Shorthand:
    """What a letter such as `d` stands for, as items of a class: in ECMA-262, to all validators, and to any of them."""

    exact: str
    least: str
    most: str


_SHORTHANDS = {
    "d": _Shorthand("0-9", "0-9", r"\p{Nd}"),
    "D": _Shorthand(r"[^0-9\x00]", r"[^\p{Nd}\x00]", "[^0-9]"),
    "w": _Shorthand("A-Za-z0-9_", "A-Za-z0-9_", "A-Za-z0-9_\u0080-\U0010ffff"),
    "W": _Shorthand(r"[^A-Za-z0-9_\x00]", r"\x01-/:-@\[-\^`{-\x7f", "[^A-Za-z0-9_]"),
    "s": _Shorthand(_ECMA_SPACES, r"\t-\r ", _ALL_SPACES),
    "S": _Shorthand(rf"[^{_ECMA_SPACES}\x00]", rf"[^{_ALL_SPACES}\x00]", r"[^\t-\r ]"),
}


def enforced(pattern: str) -> tuple[str, ...]:
    """A pattern as llguidance reads it, in one or two parts that a text must all match.

    Raises:
        UnsupportedPatternError: it has what grammars cannot express, or what validators do not agree about.
    """
    translator = _Translator(pattern, exact=False)
    text = "".join(translator.parts())
    return (text, _NO_NUL) if translator.has_escapes else (text,)


def enforced_name(pattern: str, *, exact: bool) -> str:
    """A pattern of names; `exact` keeps to ECMA-262 where names that do not match count too.

    Raises:
        UnsupportedPatternError: as `enforced`, or it has characters that JSON escapes.
    """
    translator = _Translator(pattern, exact=exact)
    text = "".join(translator.parts())
    if translator.has_escapes:
        raise UnsupportedPatternError("a quote, a backslash or a control character")
    return text


class _Translator:
    def __init__(self, pattern: str, *, exact: bool) -> None:
        self._text = pattern
        self._at = 0
        self._exact = exact
        self.has_escapes = False

    def parts(self) -> Iterator[str]:
        while self._at < len(self._text):
            match self._text[self._at]:
                case "\\":
                    yield self._escape()
                case "[":
                    yield self._class()
                case "(":
                    yield self._group()
                case "." | "^" | "$" | "|" | ")" as sign:
                    self._at += 1
                    yield _NO_LINE_END if sign == "." else sign
                case sign:
                    yield self._quantifier() or self._literal(self._next(sign))

    def _next(self, sign: str) -> str:
        self._at += 1
        return sign

    def _take(self, expression: re.Pattern[str]) -> re.Match[str] | None:
        match = expression.match(self._text, self._at)
        if match is not None:
            self._at = match.end()
        return match

    def _group(self) -> str:
        if _LOOKAROUND.match(self._text, self._at):
            raise UnsupportedPatternError("a look-around")
        group = self._take(_GROUP)
        if group is None or self._text.startswith("?", self._at):
            raise UnsupportedPatternError("a group with options")
        return "(?:"

    def _quantifier(self) -> str | None:
        match = self._take(_QUANTIFIER)
        if match is None:
            if self._text.startswith("{,", self._at):
                raise UnsupportedPatternError("a brace that is no quantifier")
            return None
        lazy = self._text.startswith("?", self._at)
        self._at += lazy
        if _QUANTIFIER.match(self._text, self._at):
            raise UnsupportedPatternError("two quantifiers in a row")
        return match[0]

    def _escape(self) -> str:
        shorthand = _SHORTHANDS.get(self._text[self._at + 1 : self._at + 2])
        if shorthand is not None:
            self._at += 2
            return f"[{shorthand.exact if self._exact else shorthand.least}]"
        self._at += 1
        if (found := self._take(_PROPERTY)) is not None:
            return f"[\\{found[0]}]" if found[0][0] == "p" else f"[\\{found[0]}--\\x00]"
        return self._literal(self._character())

    def _literal(self, character: str) -> str:
        if character == _NUL:
            raise UnsupportedPatternError("a NUL character")
        if character not in '"\\' and ord(character) >= 0x20:
            return _escaped(character)
        self.has_escapes = True
        return f"[{_escaped(character)}\\x00]"

    def _character(self) -> str:
        """The character of an escape whose backslash is read already."""
        if (found := self._take(_HEX)) is not None:
            code = int(found[1] or found[2] or found[3], 16)
            if 0xD800 <= code < 0xDC00 and self._text.startswith("\\", self._at):
                self._at += 1
                low = self._take(_HEX)
                if low is not None and low[2] and 0xDC00 <= int(low[2], 16) < 0xE000:
                    return chr(0x10000 + ((code - 0xD800) << 10) + int(low[2], 16) - 0xDC00)
            if code > 0x10FFFF or 0xD800 <= code < 0xE000:
                raise UnsupportedPatternError("a code that is no character")
            return chr(code)
        sign = self._next(self._text[self._at : self._at + 1])
        if sign == "c" and "a" <= (letter := self._text[self._at : self._at + 1].lower()) <= "z":
            self._at += 1
            return chr(ord(letter) & 31)
        if sign in _CONTROLS:
            return _CONTROLS[sign]
        if sign and not sign.isalnum():
            return sign
        if sign in {"b", "B"}:
            # Validators in Rust do not know it as a backspace in a class either.
            raise UnsupportedPatternError("a word boundary")
        if sign == "0":
            raise UnsupportedPatternError("a NUL character")
        raise UnsupportedPatternError("a back-reference" if sign.isdecimal() or sign == "k" else "an unknown escape")

    def _class(self) -> str:
        self._at += 1
        negative = self._text.startswith("^", self._at)
        self._at += negative
        items: list[str] = []
        if self._text.startswith("]", self._at):
            raise UnsupportedPatternError("an empty class")
        while not self._text.startswith("]", self._at):
            if self._at >= len(self._text):
                raise UnsupportedPatternError("a class without an end")
            items.append(self._item(negative=negative))
        self._at += 1
        if negative:
            return f"[^{''.join(items)}\\x00]"
        if not any(items):
            raise UnsupportedPatternError("a NUL character")
        return f"[{''.join(items)}]"

    def _item(self, *, negative: bool) -> str:
        first = self._member(negative=negative)
        ranged = self._text.startswith("-", self._at) and not self._text.startswith("-]", self._at)
        if isinstance(first, _Set) or not ranged:
            return first.items if isinstance(first, _Set) else _member(first)
        self._at += 1
        last = self._member(negative=negative)
        if isinstance(last, _Set):
            raise UnsupportedPatternError("a range that ends in a class")
        if last < first:
            raise UnsupportedPatternError("a range that is upside down")
        if first == _NUL:
            first = "\x01"
        return f"{_escaped(first)}-{_escaped(last)}" if first <= last else ""

    def _member(self, *, negative: bool) -> "str | _Set":
        """One character of a class, or a set of them."""
        sign = self._next(self._text[self._at])
        if sign != "\\":
            return sign
        shorthand = _SHORTHANDS.get(self._text[self._at : self._at + 1])
        if shorthand is not None:
            self._at += 1
            return _Set(shorthand.exact if self._exact else shorthand.most if negative else shorthand.least)
        if (found := self._take(_PROPERTY)) is not None:
            return _Set(f"\\{found[0]}" if found[0][0] == "p" or negative else f"[\\{found[0]}--\\x00]")
        return self._character()


@dataclass(frozen=True, slots=True)
class _Set:
    items: str


def _member(character: str) -> str:
    return "" if character == _NUL else _escaped(character)


def _escaped(character: str) -> str:
    if character in _META:
        return f"\\{character}"
    return f"\\x{ord(character):02x}" if ord(character) < 0x20 or ord(character) == 0x7F else character

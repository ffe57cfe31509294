"""Random request bodies: JSON that is almost right, and bytes that are no JSON at all."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.hostile.schemas import ANY
from tests.hostile.targets import Target

T = TypeVar("T")
Json = Any
Draw = Callable[["st.SearchStrategy[T]"], T]


@dataclass(frozen=True, slots=True)
class Fragment:
    """Bytes in the place of a JSON value."""

    text: bytes


@dataclass(frozen=True, slots=True)
class Twice:
    """A value whose key comes twice, before it with another value."""

    first: Json
    second: Json


SUPPRESSED = (
    HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much, HealthCheck.large_base_example,
)  # fmt: skip
FRAGMENTS: tuple[bytes, ...] = (
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"1e-999",
    b"-0",
    b"0.1e+",
    b"007",
    b"9" * 5000,
    b"0." + b"3" * 5000,
    b"18446744073709551616",
    b"-9223372036854775809",
    b'"\\ud800"',
    b'"\\udc00\\ud800"',
    b'"\\u0000"',
    b'"\x00"',
    b'"\xff\xfe"',
    b'"\xc0\xaf"',
    b'"\xed\xa0\x80"',
    b'"\\x"',
    b'"unfinished',
    b"'single'",
    b"[" * 190 + b"]" * 190,
    b"[" * 3000 + b"]" * 3000,
    b'{"a":' * 150 + b"1" + b"}" * 150,
    b"[" + b"[]," * 7000 + b"1]",
    b"[" + b'"",' * 60_000 + b"1]",
    b"[" + b"[]," * 100_000 + b"1]",
    b'"' + b"a" * 200_000 + b'"',
    b'"' + b"\\n" * 100_000 + b'"',
    b'"' + b'\\"' * 50_000,
    b'"' + "é\u0301\u200f\U0001f3ad".encode() * 5000 + b'"',
    b"/* a comment */ 1",
    b"undefined",
    b"",
)

VALUES: st.SearchStrategy[Json] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(min_value=-(2**70), max_value=2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=30),
    st.sampled_from(["", " ", "\x00", "\ufeff", "<|im_end|>", "auto", "owl", "../../etc", "a" * 5000, "\u2028"]),
    st.sampled_from(FRAGMENTS).map(Fragment),
    ANY,
)


def encode(value: Json) -> bytes:
    """JSON, with fragments and doubled keys as they are meant."""
    if isinstance(value, Fragment):
        return value.text
    if isinstance(value, Twice):
        return encode(value.second)
    if isinstance(value, list):
        return b"[" + b",".join(encode(below) for below in value) + b"]"
    if not isinstance(value, dict):
        return json.dumps(value).encode()
    members: list[bytes] = []
    for key, below in value.items():
        parts = (below.first, below.second) if isinstance(below, Twice) else (below,)
        members += [json.dumps(key).encode() + b":" + encode(part) for part in parts]
    return b"{" + b",".join(members) + b"}"


@st.composite
def changed(draw: Draw[Any], right: "st.SearchStrategy[Json]") -> Json:
    """A right value with up to three places changed."""
    value = draw(right)
    for _ in range(draw(st.integers(0, 3))):
        value = _changed_once(draw, value)
    return value


def _changed_once(draw: Draw[Any], value: Json) -> Json:
    if isinstance(value, dict) and value and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(value)))
        other = {**value, key: _changed_once(draw, value[key])}
        match draw(st.sampled_from(["below", "below", "drop", "add", "twice"])):
            case "drop":
                del other[key]
            case "add":
                other[draw(st.text(max_size=8))] = draw(VALUES)
            case "twice":
                other[key] = Twice(draw(VALUES), value[key])
            case _:
                pass
        return other
    if isinstance(value, list) and value and draw(st.booleans()):
        index = draw(st.integers(0, len(value) - 1))
        changed_item = _changed_once(draw, value[index])
        times = draw(st.sampled_from([1, 1, 1, 2, 300, 3000]))
        return [*value[:index], *[changed_item] * times, *value[index + 1 :]]
    if draw(st.integers(0, 5)) == 0:
        return [value]
    return draw(VALUES)


def spoiled(raw: bytes) -> "st.SearchStrategy[bytes]":
    """The bytes as they are most of the time, else cut, lengthened or written in another encoding."""

    def spoil(kind: str, at: int) -> bytes:
        at %= len(raw) + 1
        return {
            "as it is": raw,
            "cut": raw[:at],
            "one byte": raw[:at] + b"\xff" + raw[at + 1 :],
            "a null byte": raw[:at] + b"\0" + raw[at:],
            "byte order mark": b"\xef\xbb\xbf" + raw,
            "UTF-16": raw.decode("utf-8", "replace").encode("utf-16"),
            "garbage behind": raw + b"garbage",
            "two values": raw + raw,
            "blanks": b" " * 100_000 + raw,
        }[kind]

    kinds = st.sampled_from(["as it is"] * 8 + ["cut", "one byte", "a null byte", "byte order mark", "UTF-16"])
    more = st.sampled_from(["garbage behind", "two values", "blanks"])
    return st.builds(spoil, st.one_of(kinds, kinds, more), st.integers(0, 1 << 20))


def raw_bodies(target: Target) -> "st.SearchStrategy[bytes]":
    """Bodies for a route."""
    return changed(target.bodies()).map(encode).flatmap(spoiled)


def examples(strategy: "st.SearchStrategy[T]", count: int, seed: int) -> Sequence[T]:
    """Some values of a strategy; the same for the same seed."""
    found: list[T] = []

    @hypothesis.seed(seed)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=SUPPRESSED,
    )
    @given(strategy)
    def collect(one: T) -> None:
        found.append(one)

    collect()
    return found

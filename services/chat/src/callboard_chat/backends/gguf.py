"""Reads the vocabulary of a GGUF file, and what it says of its model.

The package `gguf` makes an array of each of a vocabulary's 150,000 strings and takes seconds for what is read here in
one pass.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

TOKENS = "tokenizer.ggml.tokens"
TYPES = "tokenizer.ggml.token_type"
ARCHITECTURE = "general.architecture"
POOLING = ".pooling_type"
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

Value = int | float | str | list["Value"]


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a file says of its model; tokens and their types are empty where it has none."""

    tokens: list[str]
    types: list[int]
    architecture: str | None
    size_bytes: int


def read_header(path: Path) -> GgufHeader:
    """Reads a model's file up to its vocabulary.

    Raises:
        ValueError: the file is not in this format.
    """
    found = _entries(path, lambda entries: TOKENS in entries and TYPES in entries)
    tokens, types, architecture = found.get(TOKENS), found.get(TYPES), found.get(ARCHITECTURE)
    if not isinstance(tokens, list) or not isinstance(types, list):
        tokens, types = [], []
    return GgufHeader(
        [str(token) for token in tokens],
        [int(kind) for kind in types if isinstance(kind, int)],
        architecture if isinstance(architecture, str) else None,
        path.stat().st_size,
    )


def pools_texts(path: Path) -> bool:
    """Whether the model says how the vectors of a text's tokens become one, as models for embeddings do.

    Raises:
        ValueError: the file is not in this format.
    """
    return any(name.endswith(POOLING) for name in _entries(path, lambda _entries: False))


def _entries(path: Path, enough: Callable[[Mapping[str, Value]], bool]) -> dict[str, Value]:
    """What a file says of its model, as far as it is needed; raises ValueError."""
    found: dict[str, Value] = {}
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ValueError("no GGUF file")
            _version, _tensors, entries = struct.unpack("<IQQ", file.read(20))
            for _ in range(entries):
                name = _string(file)
                found[name] = _value(file, _number(file, "I"))
                if enough(found):
                    break
    except (struct.error, KeyError):
        raise ValueError("no GGUF file") from None
    return found


def _value(file: BinaryIO, kind: int) -> Value:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        return _number(file, _SCALARS[kind])
    kind = int(_number(file, "I"))
    count = int(_number(file, "Q"))
    if kind in _SCALARS:
        return list(
            struct.unpack(f"<{count}{_SCALARS[kind]}", file.read(count * struct.calcsize(f"<{_SCALARS[kind]}")))
        )
    return [_value(file, kind) for _ in range(count)]


def _string(file: BinaryIO) -> str:
    return file.read(int(_number(file, "Q"))).decode(errors="replace")


def _number(file: BinaryIO, code: str) -> int:
    value: int = struct.unpack(f"<{code}", file.read(struct.calcsize(f"<{code}")))[0]
    return value

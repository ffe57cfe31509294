"""Writes a configuration that the program has changed."""

import json
from collections.abc import Mapping
from typing import Any


def written(table: Mapping[str, Any]) -> str:
    """A table as TOML, one line for each of its keys."""
    return "".join(f"{json.dumps(key)} = {_inline(value)}\n" for key, value in table.items())


def _inline(value: Any) -> str:
    """A value in TOML, on one line."""
    if isinstance(value, dict):
        entries: dict[str, Any] = value
        return "{" + ", ".join(f"{json.dumps(key)} = {_inline(each)}" for key, each in entries.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(each) for each in value) + "]"
    return json.dumps(value, ensure_ascii=False)

"""Reads `callboard.toml`, the environment over it, and secrets from files.

A wrong setting ends in one line that names the key, what was found and what is allowed.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from callboard_contracts.config import Config

CONFIG_VARIABLE = "CALLBOARD_CONFIG"
PREFIX = "CALLBOARD__"
SECRET_SUFFIX = "_FILE"  # noqa: S105 - the name of a suffix, not a secret
DEFAULT_FILE = Path("callboard.toml")

Table = dict[str, Any]


class SettingsError(Exception):
    """A setting is wrong; the message is one line for the operator."""


def load_config(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """Reads the configuration of this process.

    The file is the argument, else `$CALLBOARD_CONFIG`, else `callboard.toml` in the working directory, else none.
    `CALLBOARD__EDGE__PORT=8081` overrides one key, and a name that ends in `_FILE` takes the value from that file.

    Raises:
        SettingsError: the file cannot be read, is not TOML, or a value is not allowed.
    """
    table = _read(path, environ)
    for name, value in sorted(environ.items()):
        if name.startswith(PREFIX):
            _override(table, name, value)
    try:
        return Config.model_validate(table)
    except ValidationError as error:
        raise SettingsError(_one_line(error)) from None


def _read(path: Path | None, environ: Mapping[str, str]) -> Table:
    named = path or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE) else None)
    file = named or DEFAULT_FILE
    if named is None and not file.exists():
        return {}
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: not valid TOML: {error}") from None


def _override(table: Table, name: str, value: str) -> None:
    keys = name.removeprefix(PREFIX).lower().split("__")
    if keys[-1].endswith(SECRET_SUFFIX.lower()):
        plain = keys[-1].removesuffix(SECRET_SUFFIX.lower())
        if plain not in {"model", "voices"}:
            keys[-1] = plain
            value = _secret(name, value)
            _set(table, keys, value, name)
            return
    # A password of digits is no number.
    _set(table, keys, value if _is_secret(keys[-1]) else _typed(value), name)


def _secret(name: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(f"{name}: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{name}: {path} is not text") from None


def _set(table: Table, keys: list[str], value: Any, name: str) -> None:
    *parents, last = keys
    for key in parents:
        child = table.setdefault(key, {})
        if not isinstance(child, dict):
            raise SettingsError(f"{name}: {key} is a value, not a table")
        table = child
    table[last] = value


def _typed(value: str) -> Any:
    """A list, a number or a truth value where the text is one in TOML, else the text itself."""
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value


def _one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    key = ".".join(str(part) for part in first["loc"] if part != "[key]")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return f"{key}: no such setting"
    if not key:
        return message
    shown = "" if _is_secret(key) or isinstance(first["input"], dict) else f"found {first['input']!r}, "
    return f"{key}: {shown}{message[:1].lower()}{message[1:]}"


def _is_secret(key: str) -> bool:
    return any(word in key for word in ("password", "api_key", "secret", "admin_token"))

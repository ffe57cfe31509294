"""Loads `callboard.toml`, overrides from the environment, and secrets from files.

A wrong setting is reported in one line that names the key, what was found and what is allowed.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from callboard_contracts.config import Config
from callboard_kit.bus_credentials import with_local_credentials

CONFIG_VARIABLE = "CALLBOARD_CONFIG"
PREFIX = "CALLBOARD__"
FILE_SUFFIX = "_file"
PLAIN_SETTINGS = frozenset({"model_file", "voices_file", "tls_ca_file", "tls_cert_file", "tls_key_file"})
"""Settings whose own name ends in the suffix."""
DEFAULT_FILE = Path("callboard.toml")

Table = dict[str, Any]


class SettingsError(Exception):
    """A setting is wrong; the message is one line for the operator."""


def load_config(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """Loads the configuration of this process from `config_file` and the environment.

    `CALLBOARD__EDGE__PORT=8081` overrides one key; a name that ends in `_FILE` reads the value from that file. Without
    credentials for a bus on this machine, those that `callboard up` keeps in `site.data_dir` are taken.

    Raises:
        SettingsError: the file cannot be read, is not TOML, or a value is not allowed.
    """
    file = config_file(path, environ)
    table = {} if file is None else _read(file)
    for name, value in sorted(environ.items()):
        if name.startswith(PREFIX):
            _override(table, name, value)
    try:
        return with_local_credentials(Config.model_validate(table))
    except ValidationError as error:
        raise SettingsError(_one_line(error)) from None


def config_file(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Returns the argument, else `$CALLBOARD_CONFIG`, else `callboard.toml` in the working directory if it exists."""
    named = path or environ.get(CONFIG_VARIABLE)
    if named:
        return Path(named)
    return DEFAULT_FILE if DEFAULT_FILE.exists() else None


def _read(file: Path) -> Table:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: not valid TOML: {error}") from None


def _override(table: Table, name: str, value: str) -> None:
    *parents, key = name.removeprefix(PREFIX).lower().split("__")
    found: Any = value
    if key.endswith(FILE_SUFFIX) and key not in PLAIN_SETTINGS:
        key = key.removesuffix(FILE_SUFFIX)
        found = _read_secret(name, value)
    elif not _is_secret(key):  # A password of digits is not a number.
        found = _parse(value)
    section: Any = table
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise SettingsError(f"{name}: {parent} is a value, not a table")
    section[key] = found


def _read_secret(name: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(f"{name}: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{name}: {path} is not text") from None


def _parse(value: str) -> Any:
    """Returns the value that the text is in TOML, else the text itself."""
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
    return any(word in key for word in ("password", "api_key", "secret", "admin_token", "nkey_seed"))

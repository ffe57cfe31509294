"""Which configuration a command works with: the operator's own file, or the one that comes with Callboard."""

import os
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from callboard_cli.failures import CommandError, ExitCode
from callboard_contracts.config import Config
from callboard_kit.settings import CONFIG_VARIABLE, DEFAULT_FILE, SettingsError, load_config


@dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration and the file it was read from."""

    config: Config
    path: Path


def read_config(path: Path | None) -> Configuration:
    """Reads the named file, else `$CALLBOARD_CONFIG`, else `./callboard.toml`, else the packaged default.

    Raises:
        CommandError: a setting is wrong; one line says which.
    """
    named = path or (Path(os.environ[CONFIG_VARIABLE]) if os.environ.get(CONFIG_VARIABLE) else None)
    try:
        if named is not None or DEFAULT_FILE.exists():
            used = (named or DEFAULT_FILE).absolute()
            return Configuration(load_config(used), used)
        with as_file(files("callboard_cli") / "callboard.toml") as packaged:
            return Configuration(load_config(packaged), packaged)
    except SettingsError as error:
        raise CommandError(str(error), ExitCode.USAGE) from None

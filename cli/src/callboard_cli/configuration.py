"""Which configuration a command works with: the operator's own file, or the one that comes with Callboard."""

from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from callboard_contracts.config import Config
from callboard_kit.settings import config_file, load_config


@dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration and the file it was read from."""

    config: Config
    path: Path


def read_config(path: Path | None) -> Configuration:
    """Reads the named file, else `$CALLBOARD_CONFIG`, else `./callboard.toml`, else the packaged default.

    Raises:
        SettingsError: a setting is wrong.
    """
    used = config_file(path)
    if used is not None:
        return Configuration(load_config(used.absolute()), used.absolute())
    with as_file(files("callboard_cli") / "callboard.toml") as packaged:
        return Configuration(load_config(packaged), packaged)

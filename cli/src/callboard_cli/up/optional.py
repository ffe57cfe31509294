"""Leaves out of the packaged configuration what this machine has no files for and can do without."""

import tomllib
from collections.abc import Callable

from callboard_cli.configuration import Configuration, read_config
from callboard_cli.models.cache import ModelCache
from callboard_cli.models.catalogue import needed_by
from callboard_cli.up.toml_writer import written
from callboard_contracts.config import Config
from callboard_kit.bus_credentials import write_private
from callboard_kit.model_files import model_folder

FILE = "built-in.toml"


def missing_file(config: Config, section: str) -> str | None:
    """The first file that the pools of one section need and that is not there."""
    only = Config(site=config.site).model_copy(update={section: getattr(config, section)})
    cache = ModelCache(model_folder(config.site))
    return next((file.name for file in needed_by(only) if cache.state(file) == "missing"), None)


def without_recogniser(packaged: Configuration, say: Callable[[str], None]) -> Configuration:
    """The packaged configuration, without speech to text where its files are not there.

    They are half as much again as all others, so that the first start does not wait for them unasked.
    """
    missing = missing_file(packaged.config, "stt")
    if missing is None:
        return packaged
    folder = model_folder(packaged.config.site)
    say(f"no speech to text: {missing} is not in {folder}; `callboard models fetch` fetches it")
    table = tomllib.loads(packaged.path.read_text(encoding="utf-8"))
    del table["stt"]
    path = packaged.config.site.data_dir.absolute() / FILE
    write_private(path, written(table))
    return read_config(path)

"""The single-machine configuration and the model files that it needs."""

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

from callboard_contracts.config import SiteSection
from callboard_kit.model_files import model_path
from tests.support.processes import Table

CHAT_MODEL = "smollm2"
SPEECH_MODEL = "kokoro"
VOICE = "af_heart"


def built_in_config() -> Table:
    """The models, pools and limits of `callboard up` where there is no configuration file."""
    text = files("callboard_cli").joinpath("callboard.toml").read_text(encoding="utf-8")
    table: dict[str, Any] = tomllib.loads(text)
    return {part: table[part] for part in ("chat", "tts", "quota")}


def model_file(kind: str) -> Path:
    """Where the file that a pool's setting names lies, for instance `chat.model_file` or `tts.voices_file`."""
    section, _, setting = kind.partition(".")
    pool: dict[str, Any] = built_in_config()[section]["pools"]["local"]
    return model_path(SiteSection(), pool[setting])


def missing_model_files() -> list[str]:
    """The names of those files that are not there; `make models` fetches them."""
    kinds = ("chat.model_file", "tts.model_file", "tts.voices_file")
    return [model_file(kind).name for kind in kinds if not model_file(kind).exists()]

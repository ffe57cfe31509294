"""Where model files are stored on this machine; `callboard models fetch` downloads them."""

import os
from collections.abc import Mapping
from pathlib import Path

from callboard_contracts.config import SiteSection

FOLDER_VARIABLE = "CALLBOARD_MODEL_DIR"


def model_folder(site: SiteSection, environ: Mapping[str, str] = os.environ) -> Path:
    """Returns `site.model_dir`, else `$CALLBOARD_MODEL_DIR`, else a folder in the user's cache."""
    if site.model_dir is not None:
        return site.model_dir.expanduser()
    if environ.get(FOLDER_VARIABLE):
        return Path(environ[FOLDER_VARIABLE]).expanduser()
    cache = Path(environ["XDG_CACHE_HOME"]) if environ.get("XDG_CACHE_HOME") else Path("~/.cache")
    return cache.expanduser() / "callboard" / "models"


def model_path(site: SiteSection, name: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Returns the file that a setting names: a bare name is in `model_folder`, anything with a `/` is a path."""
    if "/" in name:
        return Path(name).expanduser()
    return model_folder(site, environ) / name

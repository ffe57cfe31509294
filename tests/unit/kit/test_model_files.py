"""Where model files lie."""

from pathlib import Path

import pytest

from callboard_contracts.config import SiteSection
from callboard_kit.model_files import model_folder, model_path

pytestmark = pytest.mark.unit

HOME_CACHE = Path("~/.cache/callboard/models").expanduser()


@pytest.mark.parametrize(
    ("site", "environ", "folder"),
    [
        (SiteSection(model_dir=Path("/models")), {"CALLBOARD_MODEL_DIR": "/other"}, Path("/models")),
        (SiteSection(), {"CALLBOARD_MODEL_DIR": "/other", "XDG_CACHE_HOME": "/cache"}, Path("/other")),
        (SiteSection(), {"XDG_CACHE_HOME": "/cache"}, Path("/cache/callboard/models")),
        (SiteSection(), {}, HOME_CACHE),
        (SiteSection(), {"CALLBOARD_MODEL_DIR": "", "XDG_CACHE_HOME": ""}, HOME_CACHE),
    ],
)
def test_folder_comes_from_the_setting_then_the_environment_then_the_cache(
    site: SiteSection, environ: dict[str, str], folder: Path
) -> None:
    assert model_folder(site, environ) == folder


def test_a_bare_name_lies_in_the_folder() -> None:
    assert model_path(SiteSection(model_dir=Path("/models")), "a.gguf", {}) == Path("/models/a.gguf")


def test_anything_with_a_slash_is_a_path() -> None:
    site = SiteSection(model_dir=Path("/models"))
    assert model_path(site, "/srv/a.gguf", {}) == Path("/srv/a.gguf")
    assert model_path(site, "./a.gguf", {}) == Path("a.gguf")
    assert model_path(site, "~/a.gguf", {}) == Path("~/a.gguf").expanduser()

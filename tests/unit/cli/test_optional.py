"""What `up` leaves out of the packaged configuration on a machine that lacks its files."""

from pathlib import Path

import pytest

from callboard_cli.configuration import read_config
from callboard_cli.models.catalogue import select
from callboard_cli.up.optional import without_recogniser

pytestmark = pytest.mark.unit


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of models, and no configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CALLBOARD_MODEL_DIR", str(tmp_path / "models"))
    return tmp_path / "models"


def test_speech_to_text_is_left_out_where_its_files_are_missing(models: Path) -> None:
    said: list[str] = []
    (models.parent / "var").mkdir()
    packaged = read_config(None)
    left = without_recogniser(packaged, said.append)
    assert packaged.config.stt.models
    assert (left.config.stt.pools, left.config.stt.models) == ({}, {})
    assert left.config.model_copy(update={"stt": packaged.config.stt}) == packaged.config
    assert said == [
        f"no speech to text: whisper-base/model.bin is not in {models}; `callboard models fetch` fetches it"
    ]


def test_speech_to_text_stays_where_its_files_are(models: Path) -> None:
    for file in select(["whisper"]):
        path = models / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as made:
            made.truncate(file.size_bytes)
    packaged = read_config(None)
    assert without_recogniser(packaged, pytest.fail) is packaged

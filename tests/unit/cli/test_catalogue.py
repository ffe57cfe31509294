"""The catalogue of model files."""

import re
from pathlib import Path

import pytest

from callboard_cli.configuration import read_config
from callboard_cli.failures import CommandError
from callboard_cli.models.catalogue import catalogue, needed_by, select
from callboard_contracts.config import Config
from callboard_contracts.voices import KOKORO_VOICES

pytestmark = pytest.mark.unit


def test_every_file_is_pinned() -> None:
    files = catalogue()
    assert len({file.name for file in files}) == len(files)
    for file in files:
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256), file.name
        assert file.size_bytes > 0
        assert len(file.sources) == 2


def test_every_kokoro_voice_has_a_file() -> None:
    voices = {file.name.removeprefix("kokoro-voices/").removesuffix(".bin") for file in select(["kokoro-voices"])}
    assert voices == set(KOKORO_VOICES)


def test_select_takes_names_groups_and_folders_once_each() -> None:
    chosen = select(["smollm2", "smollm2-135m-instruct-q4_1.gguf", "kokoro-82m-int8.onnx"])
    assert [file.group for file in chosen] == ["smollm2", "kokoro"]


def test_select_of_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(CommandError, match="'llama-900b' is not known; there are kokoro, smollm2, whisper"):
        select(["llama-900b"])


def test_the_packaged_configuration_needs_every_known_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = read_config(None).config
    assert {file.name for file in needed_by(config)} == {file.name for file in catalogue()}


def test_an_own_model_file_is_not_fetched() -> None:
    config = Config.model_validate(
        {"chat": {"pools": {"own": {"backend": "llamacpp", "model_file": "/models/own.gguf"}}}}
    )
    assert needed_by(config) == ()


def test_pools_that_call_other_servers_need_no_files() -> None:
    config = Config.model_validate(
        {
            "chat": {"pools": {"far": {"backend": "openai", "url": "http://127.0.0.1:1/v1"}}},
            "tts": {"pools": {"far": {"backend": "openai", "url": "http://127.0.0.1:1/v1"}}},
        }
    )
    assert needed_by(config) == ()

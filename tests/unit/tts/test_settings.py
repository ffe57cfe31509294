"""What a worker takes out of the configuration, and the engines it builds."""

from pathlib import Path
from typing import Any

import pytest

from callboard_contracts.config import Config
from callboard_kit.lifecycle import StartError
from callboard_tts.app import build_engine
from callboard_tts.backends.fake import FakeEngine
from callboard_tts.settings import pool_settings

pytestmark = pytest.mark.unit


def config(**pool: Any) -> Config:
    return Config.model_validate(
        {
            "site": {"model_dir": "models"},
            "tts": {
                "pools": {"main": {"backend": "kokoro_onnx", **pool}, "other": {"backend": "fake"}},
                "models": {
                    "kokoro": {"pool": "main", "aliases": ["tts-1"], "voice_aliases": {"alloy": "af_sky"}},
                    "tones": {"pool": "other", "engine_model": "fake?fail_piece=1"},
                },
            },
        }
    )


def test_files_are_looked_up_in_the_model_folder() -> None:
    pool = pool_settings(config(), "main", {})
    assert pool.model_path == Path("models/kokoro-82m-int8.onnx")
    assert pool.voices_path == Path("models/kokoro-voices")


def test_paths_are_taken_as_they_are() -> None:
    pool = pool_settings(config(model_file="some/model.onnx", voices_file="some/voices.npz"), "main", {})
    assert (pool.model_path, pool.voices_path) == (Path("some/model.onnx"), Path("some/voices.npz"))


def test_models_of_other_pools_are_left_out() -> None:
    pool = pool_settings(config(), "main", {})
    assert set(pool.models) == {"kokoro", "tts-1"}
    assert pool.models["tts-1"].voice_aliases == {"alloy": "af_sky"}
    assert pool_settings(config(), "other", {}).models["tones"].engine_model == "fake?fail_piece=1"


def test_unknown_pool_is_named_with_those_allowed() -> None:
    with pytest.raises(StartError, match="found 'none', allowed are main, other"):
        pool_settings(config(), "none", {})


def test_openai_needs_an_address() -> None:
    with pytest.raises(StartError, match=r"tts\.pools\.main\.url"):
        pool_settings(config(backend="openai"), "main", {})


def test_fake_is_built() -> None:
    assert isinstance(build_engine(pool_settings(config(), "other", {})), FakeEngine)


def test_utterances_share_the_lanes_and_are_never_fewer() -> None:
    pool = pool_settings(config(slots=2), "main", {})
    assert (pool.lanes, pool.slots) == (2, 16)
    pool = pool_settings(config(slots=4, utterances_at_once=1), "main", {})
    assert (pool.lanes, pool.slots) == (4, 4)


def test_another_voice_for_actions_needs_its_name() -> None:
    with pytest.raises(ValueError, match="role_play_voice: found none"):
        Config.model_validate({"tts": {"role_play": "voice"}})

"""A pool's settings are complete, or the process says in one line what is wrong."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from callboard_chat import settings
from callboard_chat.domain.shared_jobs import SharingRule
from callboard_chat.settings import pool_settings
from callboard_contracts.config import Config
from callboard_kit.lifecycle import StartError

pytestmark = pytest.mark.unit


def config(**pool: Any) -> Config:
    return Config.model_validate(
        {
            "chat": {
                "pools": {"stage": {"backend": "fake", **pool}, "other": {"backend": "fake"}},
                "models": {
                    "owl": {"pool": "stage", "engine_model": "owl-q4", "aliases": ["owl:latest"]},
                    "wren": {"pool": "stage", "context_tokens": 8192},
                    "crow": {"pool": "other"},
                },
            }
        }
    )


def test_a_pool_has_its_own_models_under_all_their_names() -> None:
    pool = pool_settings(config(), "stage", {})
    assert sorted(pool.models) == ["owl", "owl:latest", "wren"]
    assert pool.models["owl:latest"].engine_model == "owl-q4"
    assert pool.context_tokens == 8192
    assert pool.can_continue


def test_an_unknown_pool_is_named_with_those_that_exist() -> None:
    with pytest.raises(StartError, match="found 'attic', allowed are other, stage"):
        pool_settings(config(), "attic", {})


@pytest.mark.parametrize("backend", ["openai", "ollama"])
def test_an_engine_elsewhere_needs_an_address(backend: str) -> None:
    with pytest.raises(StartError, match=r"chat\.pools\.stage\.url"):
        pool_settings(config(backend=backend), "stage", {})


def test_a_model_file_is_a_path_or_a_name_in_the_folder_of_models() -> None:
    environ = {"CALLBOARD_MODEL_DIR": "/models"}
    assert pool_settings(config(model_file="a.gguf"), "stage", environ).model_path == Path("/models/a.gguf")
    assert pool_settings(config(model_file="/x/a.gguf"), "stage", environ).model_path == Path("/x/a.gguf")
    assert pool_settings(config(), "stage", environ).model_path.parent == Path("/models")


def test_restart_means_that_a_reply_cannot_go_on() -> None:
    assert not pool_settings(config(resume="restart"), "stage", {}).can_continue


@pytest.mark.parametrize(
    ("pool", "cache_mib"),
    [
        ({}, 512),
        ({"memory_limit_mib": 1024}, 128),
        ({"memory_limit_mib": 1_000_000}, 8192),
        ({"prompt_cache_mib": 300, "memory_limit_mib": 1024}, 300),
        ({"prompt_cache_mib": 0}, 0),
    ],
)
def test_the_prompt_cache_is_an_eighth_of_the_memory_limit_unless_it_is_set(
    pool: dict[str, int], cache_mib: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "default_limit_bytes", lambda: 4 * 2**30)
    assert pool_settings(config(**pool), "stage", {}).prompt_cache_mib == cache_mib


def test_control_tokens_are_parsed_only_where_every_name_of_a_model_says_so() -> None:
    written = config().model_dump()
    models = written["chat"]["models"]
    models["owl"]["parse_special"] = models["wren"]["parse_special"] = True
    assert pool_settings(Config.model_validate(written), "stage", {}).parse_special == {"owl-q4", "wren"}
    models["lark"] = {"pool": "stage", "engine_model": "owl-q4"}
    assert pool_settings(Config.model_validate(written), "stage", {}).parse_special == {"wren"}


def test_a_pool_that_shares_its_jobs_has_slots_for_both_and_its_models_as_volunteers_get_them() -> None:
    shared = config(volunteers="second", slots=2, volunteer_slots=8, second_after_jobs=1, second_after_s=3)
    shared.chat.models["wren"] = shared.chat.models["wren"].model_copy(update={"volunteer_models": ("x/wren",)})
    pool = pool_settings(shared, "stage", {})
    assert (pool.slots, pool.own_slots, pool.sharing) == (10, 2, SharingRule(True, 1, 3.0))
    assert pool.models["owl"].engine_model == "owl-q4"
    assert pool.volunteer_models is not None
    written = pool.volunteer_models["owl:latest"]
    assert (written.engine_model, written.tools, written.json_schema, written.prompt_format) == (
        "owl",
        "refuse",
        False,
        "alpaca",
    )
    assert pool.volunteer_names == {"wren": ("x/wren",)}
    alone = pool_settings(config(slots=2), "stage", {})
    assert (alone.slots, alone.own_slots, alone.sharing, alone.volunteer_models) == (2, 2, None, None)


def test_volunteers_alone_share_with_nobody() -> None:
    with pytest.raises(ValidationError, match="no engine to share jobs with"):
        config(backend="volunteers", volunteers="first")

"""What a chat worker's process is told before its engine is loaded."""

import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from callboard_chat.app import build_engine
from callboard_chat.settings import pool_settings
from callboard_contracts.config import Config
from callboard_kit.lifecycle import StartError
from callboard_kit.openmp import SPIN_COUNT

pytestmark = pytest.mark.unit


def test_threads_of_llamacpp_are_told_how_to_wait_before_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    def engine(*_: Any, **_options: Any) -> str | None:
        return os.environ.get("GOMP_SPINCOUNT")

    monkeypatch.setitem(sys.modules, "callboard_chat.backends.llamacpp", SimpleNamespace(LlamaCppEngine=engine))
    config = {"chat": {"pools": {"stage": {"backend": "llamacpp"}}, "models": {"owl": {"pool": "stage"}}}}
    built: object = build_engine(pool_settings(Config.model_validate(config), "stage", {"CALLBOARD_MODEL_DIR": "/m"}))
    assert built == str(SPIN_COUNT)


@pytest.mark.parametrize(("url", "key"), [("engine:8000/v1", "k"), ("http://engine/v1", "k\r\nX: y")])
def test_an_address_or_a_key_that_cannot_be_used_ends_the_start_with_the_setting_and_no_secret(
    url: str, key: str
) -> None:
    pool = {"backend": "openai", "url": url, "api_key": key}
    config = Config.model_validate({"chat": {"pools": {"stage": pool}, "models": {"owl": {"pool": "stage"}}}})
    with pytest.raises(StartError, match=r"chat\.pools\.stage: an engine's address") as refused:
        build_engine(pool_settings(config, "stage", {}))
    assert key not in str(refused.value)

"""What a chat worker's process is told before its engine is loaded."""

import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from callboard_chat.app import build_engine
from callboard_chat.settings import pool_settings
from callboard_contracts.config import Config
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

import json
import logging
import tomllib
from pathlib import Path

import pytest

from callboard_kit.logs import PACKAGES, JsonFormatter

pytestmark = pytest.mark.unit


def line(record: logging.LogRecord) -> dict[str, object]:
    text = JsonFormatter("chat").format(record)
    assert "\n" not in text
    parsed: dict[str, object] = json.loads(text)
    return parsed


def test_event_and_fields_stand_beside_each_other() -> None:
    record = logging.LogRecord("callboard_chat.app", logging.INFO, "app.py", 1, "job_done", (), None)
    record.request_id = "r1"
    written = line(record)
    assert (written["event"], written["service"], written["level"], written["request_id"]) == (
        "job_done",
        "chat",
        "info",
        "r1",
    )


def test_exception_is_named_but_its_text_is_not_written() -> None:
    error = ValueError("what the client said")
    record = logging.LogRecord(
        "callboard_chat", logging.ERROR, "app.py", 1, "job_failed", (), (ValueError, error, None)
    )
    written = line(record)
    assert written["exception"] == "ValueError"
    assert "what the client said" not in json.dumps(written)


def test_every_package_of_ours_logs_its_own_events() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(PACKAGES) == set(project["tool"]["importlinter"]["root_packages"])

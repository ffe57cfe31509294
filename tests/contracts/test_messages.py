"""Messages that an older service wrote keep their meaning.

The samples are frozen: when one no longer parses, the change breaks a running installation and needs a new version.
The schemas follow the code by `python -m tests.contracts.write_schemas`, so that a review sees every wire change.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.messages import MESSAGES

pytestmark = pytest.mark.contract

HERE = Path(__file__).parent
RENAMED = {"seal": "signature", "top_up": "extends", "top_ups": "extensions"}
"""Fields that version 1 called otherwise; its senders are still understood."""


def in_todays_words(value: Any) -> Any:
    """A sample of version 1 with its fields under their present names."""
    if isinstance(value, dict):
        return {RENAMED.get(name, name): in_todays_words(part) for name, part in value.items()}
    return [in_todays_words(part) for part in value] if isinstance(value, list) else value


def schema_on_file(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((HERE / "schemas" / f"{name}.json").read_text(encoding="utf-8"))
    return schema


@pytest.mark.parametrize("name", MESSAGES)
def test_frozen_sample_still_parses_to_itself(name: str) -> None:
    sample = json.loads((HERE / "samples" / f"{name}.v1.json").read_text(encoding="utf-8"))
    parsed = MESSAGES[name].model_validate(sample)
    written = json.loads(parsed.model_dump_json())
    lost = {field: value for field, value in in_todays_words(sample).items() if written.get(field) != value}
    assert not lost, f"{name}: these fields lost their value: {sorted(lost)}"


@pytest.mark.parametrize("name", MESSAGES)
def test_unknown_fields_of_a_newer_sender_are_ignored(name: str) -> None:
    sample = json.loads((HERE / "samples" / f"{name}.v1.json").read_text(encoding="utf-8"))
    model = MESSAGES[name]
    assert model.model_validate({**sample, "added_later": 1}) == model.model_validate(sample)


@pytest.mark.parametrize("name", MESSAGES)
def test_no_field_that_others_rely_on_went_away_or_became_required(name: str) -> None:
    before, now = schema_on_file(name), MESSAGES[name].model_json_schema()
    gone = set(before["properties"]) - set(now["properties"])
    assert not gone, f"{name}: fields removed from the wire: {sorted(gone)}"
    demanded = set(now.get("required", [])) - set(before.get("required", []))
    assert not demanded, f"{name}: older senders do not send these fields: {sorted(demanded)}"


@pytest.mark.parametrize("name", MESSAGES)
def test_schema_on_file_is_the_codes(name: str) -> None:
    assert schema_on_file(name) == MESSAGES[name].model_json_schema(), (
        "the wire changed: look at the difference, then run python -m tests.contracts.write_schemas"
    )


def test_no_sample_or_schema_is_left_over() -> None:
    assert {file.name.removesuffix(".v1.json") for file in (HERE / "samples").iterdir()} == set(MESSAGES)
    assert {file.stem for file in (HERE / "schemas").iterdir()} == set(MESSAGES)

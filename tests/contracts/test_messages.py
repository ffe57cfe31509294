"""Messages that an older service wrote keep their meaning.

The samples are frozen: when one no longer parses, the change breaks a running installation and needs a new version.
The schemas follow the code by `python -m tests.contracts.write_schemas`, so that a review sees every wire change.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from callboard_contracts.model import Message
from tests.contracts.messages import MESSAGES

pytestmark = pytest.mark.contract

HERE = Path(__file__).parent
RENAMED = {"seal": "signature", "top_up": "extends", "top_ups": "extensions"}
"""Fields that version 1 called otherwise; its senders are still understood."""
GONE = {"resume_request.v1.json": "resume"}
"""A field that version 1 had beside the others: a worker's questions that did not resume are heartbeats now."""


def in_todays_words(value: Any) -> Any:
    """A sample of version 1 with its fields under their present names."""
    if isinstance(value, dict):
        return {RENAMED.get(name, name): in_todays_words(part) for name, part in value.items()}
    return [in_todays_words(part) for part in value] if isinstance(value, list) else value


def schema_on_file(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((HERE / "schemas" / f"{name}.json").read_text(encoding="utf-8"))
    return schema


def lost(sample: Any, written: Any, place: str = "") -> list[str]:
    """The places of a sample whose value is not in what was written again; new fields may have come."""
    if isinstance(sample, dict) and isinstance(written, dict):
        return [found for name, value in sample.items() for found in lost(value, written.get(name), f"{place}.{name}")]
    if isinstance(sample, list) and isinstance(written, list) and len(sample) == len(written):
        pairs = enumerate(zip(sample, written, strict=True))
        return [found for n, (old, new) in pairs for found in lost(old, new, f"{place}[{n}]")]
    return [] if sample == written else [place]


SAMPLES = sorted(path.name for path in (HERE / "samples").iterdir())


def sample_of(name: str) -> tuple[type[Message], Any]:
    return MESSAGES[name.split(".")[0]], json.loads((HERE / "samples" / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [name for name in SAMPLES if name.endswith(".v1.json")])
def test_frozen_sample_of_version_1_still_says_what_it_said(name: str) -> None:
    model, sample = sample_of(name)
    written = json.loads(model.model_validate(sample).model_dump_json())
    sample.pop(GONE.get(name), None)
    assert lost(in_todays_words(sample), written) == []


@pytest.mark.parametrize("name", [name for name in SAMPLES if name.endswith(".v2.json")])
def test_frozen_sample_of_version_2_is_written_as_it_says(name: str) -> None:
    model, sample = sample_of(name)
    read = model.model_validate(sample)
    assert lost(sample, json.loads(read.model_dump_json(exclude_none=True))) == []
    assert model.model_validate_json(read.encoded()) == read


def test_version_of_a_job_is_always_sent() -> None:
    model, sample = sample_of("chat_job.v2.json")
    assert json.loads(model.model_validate(sample).encoded())["version"] == 2


@pytest.mark.parametrize("name", SAMPLES)
def test_unknown_fields_of_a_newer_sender_are_ignored(name: str) -> None:
    model, sample = sample_of(name)
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
    assert {name.split(".")[0] for name in SAMPLES} == set(MESSAGES)
    assert {file.stem for file in (HERE / "schemas").iterdir()} == set(MESSAGES)

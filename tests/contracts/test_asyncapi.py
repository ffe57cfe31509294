"""The AsyncAPI document describes every message that quota and rooms take, and its own references resolve."""

import json
from pathlib import Path
from typing import Any

import pytest

from callboard_contracts import subjects

pytestmark = pytest.mark.contract

DOCUMENT: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "docs" / "reference" / "asyncapi.json").read_text(encoding="utf-8")
)
REQUESTS = {value for name, value in vars(subjects).items() if name.startswith(("QUOTA_", "ROOMS_", "CHARACTERS_"))}
CONTROL = {subjects.CTL_ACCOUNTS, subjects.CTL_INVALIDATE}


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set[str]()
        return own.union(*map(references, value.values()))
    return set[str]().union(*map(references, value)) if isinstance(value, list) else set()


def test_every_request_is_described_with_its_reply() -> None:
    addresses = {channel["address"] for channel in DOCUMENT["channels"].values()}
    assert addresses >= REQUESTS | CONTROL
    assert {name for name, operation in DOCUMENT["operations"].items() if "reply" in operation} == REQUESTS


def test_reservation_names_its_models() -> None:
    messages = DOCUMENT["components"]["messages"]
    payloads = {messages[f"quota.reserve:{end}"]["payload"]["$ref"] for end in ("SubscribeMessage", "Reply")}
    assert payloads == {"#/components/schemas/ReserveRequest", "#/components/schemas/ReserveReply"}


def test_every_reference_resolves() -> None:
    for reference in references(DOCUMENT):
        found: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            found = found[step.replace("~1", "/").replace("%2A", "*").replace("%7B", "{").replace("%7D", "}")]
        assert found

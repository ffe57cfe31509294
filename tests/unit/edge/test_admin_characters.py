"""The admin API's characters."""

import base64
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from callboard_contracts.characters import memory_key
from callboard_contracts.rooms import Room, room_id
from tests.support.characters import V2, card_text, picture
from tests.unit.edge.admin_harness import AdminHarness, Operator
from tests.unit.edge.harness import running

pytestmark = pytest.mark.unit


@pytest.fixture
async def operator() -> AsyncGenerator[Operator]:
    admin_harness = AdminHarness()
    async with running(admin=admin_harness.administration()) as harness:
        yield Operator(harness, admin_harness)


async def told(operator: Operator, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    status, _headers, answer = await operator.ask(method, path, body)
    return status, json.loads(answer)


async def imported(operator: Operator, data: bytes, **fields: Any) -> tuple[int, Any]:
    return await told(operator, "POST", "/characters", {"file": base64.b64encode(data).decode(), **fields})


async def test_character_is_written_shown_changed_and_deleted(operator: Operator) -> None:
    status, first = await told(operator, "PUT", "/characters/mira?revision=0", {"desc": "miller", "voice": None})
    assert (status, first["name"], first["display_name"], first["desc"]) == (200, "mira", "mira", "miller")
    assert await told(operator, "GET", "/characters/mira") == (200, first)
    assert await told(operator, "GET", "/characters") == (200, {"characters": [first]})
    status, body = await told(operator, "PUT", "/characters/mira?revision=0", {})
    assert (status, body["error"]["code"]) == (409, "conflict")
    settings = {field: value for field, value in first.items() if field != "revision"}
    assert (await told(operator, "PUT", "/characters/mira", settings))[0] == 200
    assert (await told(operator, "DELETE", "/characters/mira"))[0] == 200
    assert (await told(operator, "GET", "/characters/mira"))[0] == 404


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"memory": 5}, "memory"),
        ({"model": "nobody"}, "model"),
        ({"memory_messages": 10**6}, "memory_messages"),
        ({"words": {"a": 7}}, "words.a"),
        ({"sampling": {"temperature": "hot"}}, "sampling.temperature"),
    ],
)
async def test_wrong_setting_is_refused_by_its_name(operator: Operator, body: dict[str, Any], param: str) -> None:
    status, answer = await told(operator, "PUT", "/characters/mira", body)
    assert status in {400, 404}
    assert answer["error"]["param"] == param


async def test_card_is_imported_and_exported(operator: Operator) -> None:
    status, body = await imported(operator, picture(card_text(V2)), name="mira", model="owl")
    assert (status, body["name"], body["model"], body["picture_dropped"]) == (200, "mira", "owl", False)
    assert (await imported(operator, picture(card_text(V2)), name="mira"))[0] == 409
    assert (await imported(operator, b"no card", name="mo"))[0] == 400
    assert (await told(operator, "POST", "/characters", {"card": V2, "name": "mo"}))[0] == 200
    for wrong in ({}, {"card": V2, "file": ""}, {"file": "no base64!"}, {"file": "ü"}):
        assert (await told(operator, "POST", "/characters", wrong))[0] == 400
    status, headers, data = await operator.ask("GET", "/characters/mira/export?format=png")
    assert (status, headers["Content-Type"], data[:4]) == (200, "image/png", b"\x89PNG")
    status, headers, data = await operator.ask("GET", "/characters/mira/export?spec=v3")
    assert (headers["Content-Type"], json.loads(data)["spec"]) == ("application/json", "chara_card_v3")


async def test_character_is_made_to_forget(operator: Operator) -> None:
    await told(operator, "PUT", "/characters/mira", {})
    character = (await operator.admin_harness.characters.records.find("mira")).character
    for speaker in ("Ada", "Bo"):
        key = memory_key("t", character, speaker)
        room = Room(id=room_id("character", key), kind="character", key=key, created_at=0, active_at=0)
        operator.admin_harness.rooms.set(room.id, room.compact())
    assert await told(operator, "DELETE", "/characters/mira/memory?speaker=Ada") == (200, {"forgotten": 1})
    assert [one.key for one in operator.admin_harness.ended] == [memory_key("t", character, "Ada")]


async def test_stranger_is_not_shown_characters(operator: Operator) -> None:
    status, _headers, _body = await operator.ask("GET", "/characters", token=None)
    assert status == 401

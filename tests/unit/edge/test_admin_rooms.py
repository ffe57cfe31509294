"""The admin API's rooms: what operators see of them, and how they end them."""

import json
from collections.abc import AsyncGenerator

import pytest

from callboard_contracts.rooms import Room, RoomKind, RoomMessage, RoomRequest, room_id, secret_digest
from tests.unit.edge.admin_harness import AdminHarness, Operator
from tests.unit.edge.harness import running

pytestmark = pytest.mark.unit

SAID = (
    RoomMessage(role="user", speaker="Ann", text="Who?", turn="t", at=1000.0),
    RoomMessage(role="assistant", speaker="Owl", text="A < B.\n\nMe.", turn="t", at=1002.5),
)


@pytest.fixture
async def operator() -> AsyncGenerator[Operator]:
    admin_harness = AdminHarness()
    rooms: tuple[tuple[RoomKind, str, float], ...] = (
        ("ait", "stage", 2000.0),
        ("translation", "stage", 3000.0),
        ("ait", "a b/c", 1500.0),
    )
    for kind, key, active_at in rooms:
        room = Room(
            id=room_id(kind, key),
            kind=kind,
            key=key,
            created_at=1000.0,
            active_at=active_at,
            messages=SAID,
            secret_digest=secret_digest("sesame"),
        )
        admin_harness.rooms.set(room.id, room.compact())
    admin_harness.rooms.set("f" * 32, b"of another version")
    async with running(admin=admin_harness.administration()) as harness:
        yield Operator(harness, admin_harness)


async def test_rooms_are_listed_the_last_active_first_without_their_secrets(operator: Operator) -> None:
    status, _headers, answer = await operator.ask("GET", "/rooms?limit=2")
    assert status == 200
    listed = json.loads(answer)
    assert (listed["count"], [room["kind"] for room in listed["rooms"]]) == (3, ["translation", "ait"])
    assert listed["rooms"][0]["claimed"]
    assert secret_digest("sesame") not in answer.decode()


async def test_room_is_shown_by_its_id_or_its_key(operator: Operator) -> None:
    for name in (room_id("ait", "a b/c"), "a%20b%2Fc"):
        status, _headers, answer = await operator.ask("GET", f"/rooms/{name}")
        assert status == 200
        assert [one["text"] for one in json.loads(answer)["dialogue"]] == [one.text for one in SAID]
    status, _headers, answer = await operator.ask("GET", "/rooms/stage")
    assert status == 400
    assert room_id("translation", "stage") in answer.decode()
    assert (await operator.ask("GET", "/rooms/nowhere"))[0] == 404


async def test_room_is_ended_above_its_secret(operator: Operator) -> None:
    status, _headers, _answer = await operator.ask("DELETE", f"/rooms/{room_id('ait', 'stage')}")
    assert status == 200
    assert operator.admin_harness.ended == [RoomRequest(kind="ait", key="stage", by_admin=True)]
    assert (await operator.ask("DELETE", "/rooms/nowhere"))[0] == 404


async def test_dialogue_is_exported_with_times(operator: Operator) -> None:
    path = f"/rooms/{room_id('ait', 'stage')}/export"
    status, headers, answer = await operator.ask("GET", f"{path}?format=vtt")
    assert (status, headers["Content-Type"]) == (200, "text/vtt; charset=utf-8")
    assert answer.decode() == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n<v Ann>Who?\n\n00:00:02.500 --> 00:00:03.500\n<v Owl>A &lt; B.\nMe.\n"
    )
    status, _headers, answer = await operator.ask("GET", path)
    exported = json.loads(answer)
    assert (status, exported["messages"][1]["speaker"]) == (200, "Owl")
    assert (await operator.ask("GET", f"{path}?format=srt"))[0] == 400

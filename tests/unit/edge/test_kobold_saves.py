"""KoboldAI Lite's slots on the server, over HTTP."""

import asyncio
import hashlib
import io
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from callboard_contracts.quota import IdentifyReply, IdentifyRequest
from callboard_contracts.saves import MAX_SAVE_BYTES
from tests.unit.edge.harness import EdgeHarness, running

pytestmark = pytest.mark.unit

ANN, BOB = "cb_ann", "cb_bob"
TENANTS = {hashlib.sha256(key.encode()).hexdigest(): name for key, name in ((ANN, "ann"), (BOB, "bob"))}
STORY = {"slot": 2, "title": "The owl", "format": "kcpp_lzma_b64", "data": "XQAAAA"}


@pytest.fixture
async def edge(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[EdgeHarness]:
    async with running() as harness:

        async def identify(request: IdentifyRequest) -> IdentifyReply:
            return IdentifyReply(tenant=TENANTS.get(request.key_digest or "", "anonymous"))

        monkeypatch.setattr(harness.quota, "identify", identify)
        yield harness


async def ask(edge: EdgeHarness, path: str, body: object = None, key: str | None = ANN) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    url = f"{edge.url}/api/extra/data/{path}"
    # aiohttp warns of large bodies that are not files.
    raw = io.BytesIO(json.dumps({} if body is None else body).encode())
    async with edge.session.post(url, data=raw, headers=headers) as response:
        return response.status, await response.json()


async def test_a_story_is_saved_for_the_holder_of_a_key_and_nobody_else(edge: EdgeHarness) -> None:
    assert await ask(edge, "list") == (200, [""] * 12)
    assert await ask(edge, "save", STORY) == (200, {"success": True, "error": ""})
    assert await ask(edge, "list") == (200, ["", "", "The owl", *[""] * 9])
    kept = {name: STORY[name] for name in ("title", "format", "data")}
    assert await ask(edge, "load", {"slot": 2}) == (200, {"success": True, "data": kept})
    assert await ask(edge, "list", key=BOB) == (200, [""] * 12)
    refused = {"success": False, "data": None, "error": "The slot is empty."}
    assert await ask(edge, "load", {"slot": 2}, BOB) == (200, refused)
    assert await ask(edge, "save", {**STORY, "data": ""}) == (200, {"success": True, "error": ""})
    assert await ask(edge, "load", {"slot": 2}) == (200, refused)


async def test_callers_without_a_key_have_no_slots(edge: EdgeHarness) -> None:
    assert await ask(edge, "list", key=None) == (200, [])
    error = {"success": False, "error": "Slots need an API key as the password."}
    assert await ask(edge, "save", STORY, None) == (200, error)
    assert await ask(edge, "load", {"slot": 2}, None) == (200, {**error, "data": None})


@pytest.mark.parametrize("slot", [12, -1, "x", None, [1]])
async def test_a_slot_that_does_not_exist_is_said(edge: EdgeHarness, slot: object) -> None:
    assert await ask(edge, "save", {**STORY, "slot": slot}) == (
        200,
        {"success": False, "error": "There are slots 0 to 11."},
    )
    assert (await ask(edge, "load", {"slot": slot}))[1]["success"] is False


async def test_large_stories_pass_where_other_bodies_may_not_be_so_large(edge: EdgeHarness) -> None:
    """The site's limit is a hundredth of what a slot holds."""
    most = {**STORY, "data": "a" * MAX_SAVE_BYTES}
    assert await ask(edge, "save", most) == (200, {"success": True, "error": ""})
    assert (await ask(edge, "load", {"slot": 2}))[1]["data"]["data"] == most["data"]
    over = {**STORY, "data": "a" * (MAX_SAVE_BYTES + 1)}
    assert await ask(edge, "save", over) == (200, {"success": False, "error": "A slot holds 10 MiB at most."})
    status, answer = await ask(edge, "save", {**STORY, "data": "a" * (MAX_SAVE_BYTES + 65_536)})
    assert (status, answer["detail"]["code"]) == (413, "body_too_large")
    status, answer = await ask(edge, "load", {"slot": 2, "data": "a" * 200_000})
    assert (status, answer["detail"]["code"]) == (413, "body_too_large")


async def test_a_full_store_is_said(edge: EdgeHarness) -> None:
    bodies = [{"slot": slot, "title": "t", "data": "a" * MAX_SAVE_BYTES} for slot in range(7)]
    answers = [await ask(edge, "save", body) for body in bodies]
    assert [answer["success"] for _status, answer in answers] == [True] * 6 + [False]
    assert "keeps as much as it may" in answers[-1][1]["error"]


async def test_many_saves_at_once_wait_for_each_other(edge: EdgeHarness) -> None:
    answers = await asyncio.gather(*(ask(edge, "save", {**STORY, "slot": slot}) for slot in range(12)))
    assert [answer["success"] for _status, answer in answers] == [True] * 12


@pytest.mark.parametrize("body", [b"{", b'{"slot": 1, "data": 7}', b'{"slot": 1, "data": "\\ud800"}', b"[]"])
async def test_bodies_that_cannot_be_read_save_nothing(edge: EdgeHarness, body: bytes) -> None:
    url = f"{edge.url}/api/extra/data/save"
    async with edge.session.post(url, data=body, headers={"Authorization": f"Bearer {ANN}"}) as response:
        assert response.status == 400
    assert await ask(edge, "list") == (200, [""] * 12)

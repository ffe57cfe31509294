"""Questions to quota: asked again while nobody has them, never twice, and what comes late is given back."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from callboard_contracts import subjects
from callboard_contracts.quota import Hold, HoldEntry, ReleaseReply, ReserveReply, ReserveRequest, Work
from callboard_kit.bus import BusUnavailable, NoResponders
from callboard_kit.quota_rpc import QuotaRpc
from tests.support.scripted_bus import ScriptedBus

pytestmark = pytest.mark.unit

ASKED = ReserveRequest(request_id="r1", kind="chat", model="owl", work=Work(prompt_tokens=5), life_s=10.0)
HOLD = Hold(
    id="h1",
    request_id="r1",
    tenant="k_a",
    kind="chat",
    model="owl",
    entries=(HoldEntry(tenant="k_a", metric="units", bucket="h1", amount=5),),
    expires_at=60.0,
)
GRANTED = ReserveReply(tenant="k_a", hold=HOLD)


def line_on(
    bus: ScriptedBus, timeout_s: float, wait_s: float = 0.0, *, retries: bool = True
) -> tuple[QuotaRpc, list[asyncio.Task[None]]]:
    """A line to quota, and the chores that it starts."""
    chores: list[asyncio.Task[None]] = []

    def start(chore: Coroutine[Any, Any, None], _name: str) -> None:
        chores.append(asyncio.ensure_future(chore))

    return QuotaRpc(bus.as_bus(), timeout_s, start, wait_s, retries=retries), chores


async def reserved(bus: ScriptedBus, timeout_s: float) -> ReserveReply | None:
    line, chores = line_on(bus, timeout_s)
    reply = await line.reserve(ASKED)
    assert chores == []
    return reply


def sent(message: ReserveReply | ReleaseReply) -> bytes:
    return message.model_dump_json().encode()


async def test_question_that_nobody_heard_is_asked_again() -> None:
    bus = ScriptedBus(NoResponders("quota"), NoResponders("quota"), sent(GRANTED))
    assert await reserved(bus, 2.0) == GRANTED
    assert bus.asked == [subjects.QUOTA_RESERVE] * 3


async def test_question_that_somebody_may_have_is_asked_once() -> None:
    bus = ScriptedBus(BusUnavailable("no answer"), sent(GRANTED))
    assert await reserved(bus, 2.0) is None
    assert bus.asked == [subjects.QUOTA_RESERVE]


async def test_question_without_an_answer_is_repeated_as_such_for_as_long_as_its_sender_waits() -> None:
    bus = ScriptedBus(BusUnavailable("no answer"), NoResponders("quota"), BusUnavailable("no answer"), sent(GRANTED))
    line, chores = line_on(bus, 0.3, 20.0)
    assert await line.reserve(ASKED) == GRANTED
    assert chores == []
    requests = [ReserveRequest.model_validate_json(payload) for payload in bus.sent]
    assert [request.repeat for request in requests] == [0, 1, 1, 2]
    # No request is waited for beyond its own life.
    assert requests[0].wait_s == ASKED.life_s
    assert [request.model_copy(update={"repeat": 0, "wait_s": 0.0}) for request in requests] == [ASKED] * 4
    assert all(0 < wait_s <= ASKED.life_s for wait_s in bus.waits_s)


async def test_question_that_is_not_to_be_repeated_is_only_waited_for() -> None:
    for request, retries in ((ASKED, False), (ASKED.model_copy(update={"extends": HOLD}), True)):
        bus = ScriptedBus(BusUnavailable("no answer"), sent(GRANTED))
        line, _ = line_on(bus, 0.3, 20.0, retries=retries)
        assert await line.reserve(request) is None
        assert len(bus.asked) == 1


async def test_nothing_is_asked_while_the_bus_is_away() -> None:
    bus = ScriptedBus(sent(GRANTED))
    bus.connected = False
    assert await reserved(bus, 0.3) is None
    assert bus.asked == []


@pytest.mark.parametrize("answer", [b"", b"{", b'{"hold": 5}'])
async def test_answer_that_is_none_counts_as_none(answer: bytes) -> None:
    assert await reserved(ScriptedBus(answer), 1.0) is None


async def test_hold_that_comes_late_is_given_back_and_nothing_else_is() -> None:
    bus = ScriptedBus(BusUnavailable("no answer"), sent(ReleaseReply(settled=True)))
    line, chores = line_on(bus, 1.0)
    assert await line.reserve(ASKED) is None
    assert bus.on_late is not None
    bus.on_late(b"")
    bus.on_late(sent(ReserveReply()))
    assert chores == []
    bus.on_late(sent(GRANTED))
    await asyncio.gather(*chores)
    assert bus.asked == [subjects.QUOTA_RESERVE, subjects.QUOTA_RELEASE]


async def test_a_hold_that_no_request_waits_for_is_asked_for_once_and_always_heard_of() -> None:
    bus = ScriptedBus(sent(GRANTED), b"", b"{", BusUnavailable("no connection"))
    line, chores = line_on(bus, 1.0, 20.0)
    heard: list[ReserveReply | None] = []
    for _ in range(4):
        line.reserve_later(ASKED, heard.append)
    assert heard == [GRANTED, None, None, None]
    assert bus.asked == [subjects.QUOTA_RESERVE] * 4
    # Quota keeps nobody waiting for its store who does not wait.
    assert [ReserveRequest.model_validate_json(payload) for payload in bus.sent] == [ASKED] * 4
    assert chores == []

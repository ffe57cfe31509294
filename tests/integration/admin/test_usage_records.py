"""Usage as an operator reads it from a real bus."""

import asyncio
import math
import time

import pytest

from callboard_admin.usage_records import EVENTS_PER_BATCH, UsageRecords
from callboard_contracts import subjects
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.quota import UsageEvent, VerifyReply, VerifyRequest, Work
from callboard_kit.bus import Bus, BusUnavailable, NoResponders

pytestmark = pytest.mark.integration

ANN, BEN = "k_0123456789abcdef", "k_fedcba9876543210"


def event(n: int, tenant: str, at: float) -> UsageEvent:
    return UsageEvent(
        request_id=f"r{n}",
        tenant=tenant,
        kind="chat",
        model="owl",
        pool="main",
        work=Work(completion_tokens=n),
        outcome="stop",
        at=at,
    )


async def store(bus: Bus, one: UsageEvent) -> None:
    await bus.publish_stored(subjects.usage(one.tenant), one.model_dump_json().encode(), f"{one.request_id}.chat")


async def test_events_are_read_in_batches_and_end_while_new_ones_come(bus: Bus) -> None:
    now = time.time()
    for start in range(1, 1201, 100):
        await asyncio.gather(*(store(bus, event(n, ANN if n % 3 else BEN, now)) for n in range(start, start + 100)))
    await bus.publish_stored(subjects.usage(ANN), b"no event", "x")
    records = UsageRecords(bus)
    found: list[object] = []
    async for rows in records.events(now - 60, math.inf):
        assert len(rows) <= EVENTS_PER_BATCH
        found += [row["completion_tokens"] for row in rows]
        await store(bus, event(5000 + len(found), ANN, now))
    assert sorted(found, key=str) == sorted(range(1, 1201), key=str)
    of_ben = [row async for rows in records.events(now - 60, math.inf, BEN) for row in rows]
    assert len(of_ben) == 400
    assert {row["tenant"] for row in of_ben} == {BEN}


async def test_events_are_those_of_the_span(bus: Bus) -> None:
    now = time.time()
    for n, at in enumerate((now - 7200, now - 3600, now - 10)):
        await store(bus, event(n, ANN, at))
    records = UsageRecords(bus)
    for since, until, expected in ((now - 8000, now, 3), (now - 4000, math.inf, 2), (now - 8000, now - 60, 2)):
        assert sum([len(rows) async for rows in records.events(since, until)]) == expected
    assert [rows async for rows in records.events(now + 7200, math.inf)] == []


async def test_sums_are_those_of_the_hours_that_the_span_touches(bus: Bus) -> None:
    now = time.time()
    hours = [time.strftime("h%Y%m%d%H", time.gmtime(now - n * 3600)) for n in range(30)]
    for tenant, hour, amount in ((ANN, hours[0], 5), (ANN, hours[2], 7), (BEN, hours[2], 11), (ANN, hours[29], 100)):
        subject = subjects.used(tenant, "units", hour)
        await bus.publish_stored(subject, b"", None, headers={"Nats-Incr": str(amount)})
    records = UsageRecords(bus)
    assert await records.used(now - 3 * 3600, now) == {ANN: 12, BEN: 11}
    assert await records.used(now - 3 * 3600, now, BEN) == {BEN: 11}
    assert await records.used(now - 3 * 3600, now - 3600) == {ANN: 7, BEN: 11}
    assert (await records.used(0, now))[ANN] == 112


async def test_verification_is_awaited_while_heartbeats_come(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callboard_admin.usage_records.SILENCE_S", 0.5)
    records = UsageRecords(bus)
    with pytest.raises(NoResponders):
        await records.verify(0.0)
    requests: asyncio.Queue[tuple[str, VerifyRequest]] = asyncio.Queue(4)

    await bus.subscribe_now(
        subjects.QUOTA_VERIFY,
        lambda message: requests.put_nowait((message.reply, VerifyRequest.model_validate_json(message.data))),
    )
    reply = asyncio.ensure_future(records.verify(7.0))
    reply_to, request = await asyncio.wait_for(requests.get(), 20)
    assert request.since == 7.0
    for _ in range(4):
        await bus.publish(reply_to)
        await asyncio.sleep(0.2)
    await bus.publish(reply_to, VerifyReply(events=3).model_dump_json().encode())
    assert (await asyncio.wait_for(reply, 20)).events == 3
    with pytest.raises(BusUnavailable, match="not heard of again"):
        await asyncio.wait_for(records.verify(7.0), 20)


@pytest.mark.parametrize(
    ("request_id", "code"),
    [("unknown", ErrorCode.NOT_FOUND), ("a.b", ErrorCode.INVALID_REQUEST), ("*", ErrorCode.INVALID_REQUEST)],
)
async def test_audit_trail_of_an_unknown_request_is_refused(bus: Bus, request_id: str, code: ErrorCode) -> None:
    with pytest.raises(CallboardError) as caught:
        await UsageRecords(bus).audit_trail(request_id)
    assert caught.value.info.code is code

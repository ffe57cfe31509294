"""A verification as its requester sees it."""

import asyncio
import time

import pytest
from nats.aio.msg import Msg

from callboard_contracts import subjects
from callboard_contracts.quota import VerifyReply, VerifyRequest
from callboard_kit.bus import Bus

pytestmark = pytest.mark.integration


async def heard(bus: Bus, request: VerifyRequest) -> list[Msg]:
    """Every message that came for a verification, its answer last."""
    messages: list[Msg] = []
    inbox = bus.connection.new_inbox()
    subscription = await bus.subscribe_now(inbox, messages.append)
    await bus.publish(subjects.QUOTA_VERIFY, request.model_dump_json().encode(), reply=inbox)
    async with asyncio.timeout(15):
        while not messages or not messages[-1].data:
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.3)
    await bus.unsubscribe(subscription)
    return messages


async def test_process_is_heard_of_while_it_verifies_and_not_afterwards(bus: Bus) -> None:
    # A difference is looked at several times, which takes a moment.
    hour = time.strftime("h%Y%m%d%H", time.gmtime())
    counter = subjects.used("i_0123456789abcdef", "units", hour)
    await bus.publish_stored(counter, b"", None, headers={"Nats-Incr": "5"})
    since = time.time() - 60
    *beats, answer = await heard(bus, VerifyRequest(since=since, heartbeat_s=0.1))
    assert len(beats) >= 5
    assert not any(beat.data for beat in beats)
    report = VerifyReply.model_validate_json(answer.data)
    assert (report.drift_count, report.drift_units) == (1, 5)
    (only,) = await heard(bus, VerifyRequest(since=since))
    assert VerifyReply.model_validate_json(only.data).drift_count == 1

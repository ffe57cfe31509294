"""Questions to quota have an owner, whoever still waits for the answer."""

import asyncio

import pytest

from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.quota import ReserveReply, Work
from callboard_kit.bus import BusUnavailable
from callboard_worker.hold_extensions import HoldExtensions
from tests.support.scripted_bus import ScriptedBus
from tests.unit.tts.fake_bus import LIMIT, FakeBus, hold_for

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", ErrorCode.QUOTA_UNAVAILABLE),
        (b"no answer", ErrorCode.QUOTA_UNAVAILABLE),
        (ReserveReply().model_dump_json().encode(), ErrorCode.QUOTA_UNAVAILABLE),
        (BusUnavailable("gone"), ErrorCode.QUOTA_UNAVAILABLE),
        (ReserveReply(error=LIMIT).model_dump_json().encode(), ErrorCode.QUOTA_EXCEEDED),
    ],
)
async def test_answer_without_a_hold_is_an_error(answer: bytes | Exception, code: ErrorCode) -> None:
    found = await HoldExtensions(ScriptedBus(answer).as_bus(), 1.0).ask(hold_for(1000), Work(audio_ms=500), 10.0)
    assert isinstance(found, ErrorInfo)
    assert found.code is code


async def test_hold_that_cannot_be_given_back_is_left_to_its_lease() -> None:
    bus = ScriptedBus(BusUnavailable("gone"))
    extensions = HoldExtensions(bus.as_bus(), 1.0)
    extensions.give_back(hold_for(1000))
    await extensions.close(1.0)
    assert bus.asked == ["quota.release"]


async def test_closing_waits_for_an_answer_and_gives_its_hold_back() -> None:
    bus = FakeBus()
    bus.quota.silent = True
    extensions = HoldExtensions(bus.as_bus(), 1.0)
    asking = asyncio.ensure_future(extensions.ask(hold_for(1000), Work(audio_ms=500), 10.0))
    await asyncio.sleep(0.01)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    asyncio.get_running_loop().call_later(0.02, bus.quota.answer.set)
    await extensions.close(1.0)
    assert bus.quota.released == [hold.id for hold in bus.quota.granted] == ["h1"]


async def test_closing_ends_what_gets_no_answer() -> None:
    bus = FakeBus()
    bus.quota.silent = True
    extensions = HoldExtensions(bus.as_bus(), 5.0)
    asking = asyncio.ensure_future(extensions.ask(hold_for(1000), Work(audio_ms=500), 10.0))
    await asyncio.sleep(0.01)
    await extensions.close(0.05)
    with pytest.raises(asyncio.CancelledError):
        await asking
    bus.quota.answer.set()
    await asyncio.sleep(0.01)

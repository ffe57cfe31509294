"""Questions to quota: asked again while nobody has them, never twice, and what comes late is given back."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from callboard_contracts import subjects
from callboard_contracts.quota import Hold, HoldEntry, ReleaseReply, ReserveReply, ReserveRequest, Work
from callboard_kit.bus import Bus, BusUnavailable, NoResponders
from callboard_kit.quota_line import QuotaLine

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


class ScriptedBus:
    """Answers one question after another as it is told; an exception is raised."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.answers = list(answers)
        self.connected = True
        self.asked: list[str] = []
        self.on_late: Callable[[bytes], None] | None = None
        self.chores: list[asyncio.Task[None]] = []

    async def request(
        self,
        subject: str,
        payload: bytes,
        timeout_s: float,
        on_late: Callable[[bytes], None] | None = None,
        late_s: float = 0.0,
    ) -> bytes:
        assert payload
        assert min(timeout_s, late_s) > 0
        self.asked.append(subject)
        self.on_late = on_late
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def line(self, timeout_s: float) -> QuotaLine:
        return QuotaLine(cast("Bus", self), timeout_s, self.start)

    def start(self, chore: Coroutine[Any, Any, None], _name: str) -> None:
        self.chores.append(asyncio.ensure_future(chore))


def sent(message: ReserveReply | ReleaseReply) -> bytes:
    return message.model_dump_json().encode()


async def test_question_that_nobody_heard_is_asked_again() -> None:
    bus = ScriptedBus(NoResponders("quota"), NoResponders("quota"), sent(GRANTED))
    assert await bus.line(2.0).reserve(ASKED) == GRANTED
    assert bus.asked == [subjects.QUOTA_RESERVE] * 3


async def test_question_that_somebody_may_have_is_asked_once() -> None:
    bus = ScriptedBus(BusUnavailable("no answer"), sent(GRANTED))
    assert await bus.line(2.0).reserve(ASKED) is None
    assert bus.asked == [subjects.QUOTA_RESERVE]


async def test_nothing_is_asked_while_the_bus_is_away() -> None:
    bus = ScriptedBus(sent(GRANTED))
    bus.connected = False
    assert await bus.line(0.3).reserve(ASKED) is None
    assert bus.asked == []


@pytest.mark.parametrize("answer", [b"", b"{", b'{"hold": 5}'])
async def test_answer_that_is_none_counts_as_none(answer: bytes) -> None:
    assert await ScriptedBus(answer).line(1.0).reserve(ASKED) is None


async def test_hold_that_comes_late_is_given_back_and_nothing_else_is() -> None:
    bus = ScriptedBus(BusUnavailable("no answer"), sent(ReleaseReply(settled=True)))
    await bus.line(1.0).reserve(ASKED)
    assert bus.on_late is not None
    bus.on_late(b"")
    bus.on_late(sent(ReserveReply()))
    assert bus.chores == []
    bus.on_late(sent(GRANTED))
    await asyncio.gather(*bus.chores)
    assert bus.asked == [subjects.QUOTA_RESERVE, subjects.QUOTA_RELEASE]

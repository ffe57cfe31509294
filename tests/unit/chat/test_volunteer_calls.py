"""What becomes of jobs whose pop nobody can be answered."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

import pytest
from nats.aio.msg import Msg

from callboard_chat.domain.pending_jobs import PendingJobs
from callboard_chat.domain.volunteer_matching import WaitingJob
from callboard_chat.domain.volunteer_models import VolunteerModels
from callboard_chat.handlers.volunteer_calls import TakesVolunteers, serving_volunteers
from callboard_contracts import subjects
from callboard_contracts.volunteer_conditions import Conditions
from callboard_contracts.volunteers import PopReply, PopRequest, VolunteerOffer
from callboard_kit.bus import Bus, BusUnavailable, NoResponders

pytestmark = pytest.mark.unit

WORKER = "0123abcd" * 4
OFFER = VolunteerOffer(
    worker_id="w", worker_name="barn", account="k_own", models=("owl",), max_length=80, max_context_length=1024
)


@dataclass
class EdgeLine:
    """A bus with edges at its other end that are there, or are not."""

    there: bool = True
    connection: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(max_payload=10**6))
    handlers: dict[str, Callable[[Msg], Awaitable[None]]] = field(default_factory=dict)
    replies: list[PopReply] = field(default_factory=list[PopReply])
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    async def subscribe(self, subject: str, handler: Callable[[Msg], Awaitable[None]]) -> str:
        self.handlers[subject] = handler
        return subject

    async def unsubscribe(self, subject: str) -> None:
        del self.handlers[subject]

    async def publish(self, _subject: str, payload: bytes, *, flush: bool) -> None:
        assert flush
        self.replies.append(PopReply.model_validate_json(payload))
        self.heard.set()

    async def request(self, subject: str, payload: bytes, _timeout_s: float) -> bytes:
        await self.publish(subject, payload, flush=True)
        raise BusUnavailable("no answer in time") if self.there else NoResponders(subject)

    async def pop(self, ticket: str) -> PopReply:
        self.heard.clear()
        data = PopRequest(ticket=ticket, offer=OFFER).encoded()
        await self.handlers[subjects.volunteer_pop(WORKER)](cast("Msg", SimpleNamespace(data=data, reply="_INBOX.e.1")))
        async with asyncio.timeout(5):
            await self.heard.wait()
        return self.replies[-1]


async def test_a_job_goes_to_another_where_the_edge_of_a_pop_is_gone() -> None:
    pending = PendingJobs(WORKER, 8)
    engine = cast("TakesVolunteers", SimpleNamespace(pending=pending, models=VolunteerModels({}, "alpaca")))
    line = EdgeLine(there=False)
    async with serving_volunteers(cast("Bus", line), WORKER, engine, lambda: None):
        pending.post("r", WaitingJob(Conditions(80, 1024), ("owl",), "An owl", 0.0), lambda *_: {}, 80, 30.0)
        assert len((await line.pop("t1")).jobs) == 1
        await asyncio.sleep(0)
        assert (pending.waiting, pending.handed_out) == (1, 0)
        line.there = True
        reply = await line.pop("t2")
        await asyncio.sleep(0)
        assert (len(reply.jobs), reply.dropped) == (1, 0)
        assert (pending.waiting, pending.handed_out) == (0, 1)
        assert not (await line.pop("t3")).jobs

"""The worker tells the end of each turn of a room, whichever way its job ends."""

import asyncio

import pytest

from callboard_chat.backends.fake import WORDS, FakeEngine, FakeScript
from callboard_contracts import subjects
from callboard_contracts.chat import ChatEnd, ChatJob, ChatResult
from callboard_contracts.rooms import TurnEnded
from callboard_contracts.streams import TURNS
from callboard_kit.kept import keep
from callboard_kit.stream_reads import read_subject
from tests.integration.chat.conftest import worker
from tests.integration.chat.edge_stub import EdgeStub
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.integration

ROOM = "room"
SLOW = tuple(f"w{n} " for n in range(200))


async def post(edge_stub: EdgeStub, turn: str, life_s: float = 30.0) -> ChatJob:
    return await edge_stub.post(life_s=life_s, turn={"room": ROOM, "turn": turn})


async def ends(edge_stub: EdgeStub, turn: str) -> int:
    """How many ends of a turn are stored, once there is one."""
    async with asyncio.timeout(15):
        while not (found := await read_subject(edge_stub.bus, TURNS, subjects.turn_ended(ROOM, turn))):
            await asyncio.sleep(0.05)
    assert all(TurnEnded.model_validate_json(one.data) == TurnEnded(room=ROOM, turn=turn) for one in found)
    return len(found)


async def test_end_of_a_turn_is_told_once_its_result_is_kept(server: NatsServer, edge_stub: EdgeStub) -> None:
    async with worker(server, FakeEngine()):
        job = await post(edge_stub, "answered")
        assert await ends(edge_stub, "answered") == 1
        result = await edge_stub.result(job)
        assert result is not None
        assert result.text == "".join(WORDS)
        await edge_stub.queue_is_empty()


@pytest.mark.parametrize("turn", ["failed", "cancelled", "late"])
async def test_end_of_a_turn_that_is_not_answered_is_told(server: NatsServer, edge_stub: EdgeStub, turn: str) -> None:
    script = FakeScript(fail_at=1) if turn == "failed" else FakeScript(tokens=SLOW, token_delay_s=0.05)
    async with worker(server, FakeEngine(script)):
        job = await post(edge_stub, turn, life_s=1.0 if turn == "late" else 30.0)
        if turn == "cancelled":
            await asyncio.sleep(0.5)
            await edge_stub.bus.publish(subjects.cancel(job.request_id))
        assert await ends(edge_stub, turn) == 1
        result = await edge_stub.result(job)
        assert result is not None
        assert result.end.reason == ("cancelled" if turn == "cancelled" else "error")
        await edge_stub.queue_is_empty()


async def test_turn_goes_on_while_no_edge_says_that_it_waits(server: NatsServer, edge_stub: EdgeStub) -> None:
    async with worker(server, FakeEngine(FakeScript(tokens=SLOW[:100], token_delay_s=0.05))):
        job = await post(edge_stub, "unwatched")
        edge_stub.closed.add(job.request_id)
        last = await edge_stub.end(job)
        assert last.end is not None
        assert last.end.reason == "stop"


async def test_turn_whose_result_is_kept_is_not_run_again(server: NatsServer, edge_stub: EdgeStub) -> None:
    engine = FakeEngine()
    job = await post(edge_stub, "kept")
    result = ChatResult(request_id=job.request_id, model="owl", text="Said before.", end=ChatEnd(reason="stop"))
    await keep(edge_stub.bus, subjects.result(job.request_id), result, f"{job.request_id}.result")
    async with worker(server, engine):
        assert await ends(edge_stub, "kept") == 1
        await edge_stub.queue_is_empty()
        assert engine.state.requests == []
        assert await edge_stub.result(job) == result

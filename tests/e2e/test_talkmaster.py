"""Sessions of each kind of script against real processes, and what they notice of restarts and races."""

import asyncio
import json
import random
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from callboard_contracts.config import NatsSection
from callboard_contracts.rooms import Room, room_id
from callboard_contracts.streams import BUCKET_ROOMS
from callboard_kit.bucket import Bucket
from callboard_kit.bus import Bus
from tests.e2e.conftest import MakeBoard
from tests.support.clients import script_text
from tests.support.deployment import CHAT_MODEL, VOICES, Deployment, eventually
from tests.support.lsl import LIST_BYTES, Script, Simulator, offers, query
from tests.support.stub_chat import StubChat, numbered

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

OVER = {"quota": {"tiers": {"anonymous": {"tokens_per_day": 10_000_000, "tokens_per_month": 10_000_000}}}}
POLL_S = 0.3


def said(message: str, **over: Any) -> dict[str, Any]:
    body = {
        "join_key": "pond",
        "username": "Ada",
        "message": message,
        "model": "",
        "system_instructions": "You are a frog.",
        "charactername": "Frog",
        "think": False,
        "message_id": str(uuid4()),
        "options": {},
        "audio_instructions": "",
        "audio_voice": "",
        "audio_model": "",
    }
    return {**body, **over}


async def tells(script: Script, message: str, **over: Any) -> str | None:
    body = said(message, **over)
    poll = "/ait/getMessageResponse" + query(join_key=body["join_key"], message_id=body["message_id"])
    return await script.asks("/ait/postMessage", body, poll)


async def room_of(deployment: Deployment, key: str = "pond") -> Room:
    bus = await Bus.connect(NatsSection(url=deployment.nats.url), "test", lambda: None)
    try:
        entry = await Bucket(bus, BUCKET_ROOMS).get(room_id("ait", key))
        assert entry is not None
        return Room.model_validate_json(entry.value)
    finally:
        await bus.close()


def script(session: aiohttp.ClientSession, deployment: Deployment, edge: int = 0, patience_s: float = 60.0) -> Script:
    return Script(Simulator(session, deployment.root_url(edge)), POLL_S, patience_s)


async def test_every_kind_of_script_runs_its_session(make_deployment: MakeBoard, chat_engine: StubChat) -> None:
    deployment = await asyncio.to_thread(make_deployment, OVER, rooms=1)
    chat_engine.plays(numbered(4))
    answer = script_text(4).strip()
    async with aiohttp.ClientSession() as session:
        # A character's script looks its model and voice up, opens its room twice, and talks.
        frog = script(session, deployment)
        models, voices = await asyncio.gather(
            frog.simulator.get("/chat_models", LIST_BYTES), frog.simulator.get("/audio_models", LIST_BYTES)
        )
        assert models is not None
        assert voices is not None
        assert offers(models, CHAT_MODEL)
        assert offers(voices, VOICES[1])
        for _ in range(2):
            opened = await frog.simulator.post("/ait/startConversation", {"join_key": "pond"}) or await _later(
                frog, "/ait/startConversation", {"join_key": "pond"}
            )
            assert opened.status == 200
            assert json.loads(opened.text)["stream_url"].endswith("/ait/stream/pond")
        assert await tells(frog, "Hello.") == answer
        assert await tells(frog, "And now?", audio_voice=VOICES[1]) == answer
        # Another character of the room has heard it all.
        toad = script(session, deployment)
        assert await tells(toad, "And you, toad?", charactername="Toad", system_instructions="A toad.") == answer
        messages = chat_engine.calls[-1]["messages"]
        assert [one["role"] for one in messages] == ["system", *["user", "assistant"] * 2, "user"]
        assert [one["content"].split(":")[0] for one in messages] == ["A toad.", *["Ada", "Frog"] * 2, "Ada"]
        # The controller empties the room.
        controller = script(session, deployment)
        reset = await controller.simulator.post("/ait/resetJoinkey", {"join_key": "pond"})
        assert reset is not None
        assert reset.status == 200
        assert await tells(frog, "Who am I?") == answer
        assert len(chat_engine.calls[-1]["messages"]) == 2
        # The microphone speaks without a model.
        microphone = script(session, deployment)
        calls = len(chat_engine.calls)
        spoken = await microphone.simulator.post(
            "/ait/generateAudio", {"join_key": "pond", "username": "Ada", "message": "Dinner is served."}
        )
        assert spoken is not None
        assert spoken.status == 200
        # One visitor alone.
        alone = script(session, deployment)
        started = await alone.simulator.post(
            "/conversation/start", {"model": "", "system_instructions": "Be kind.", "options": {}, "username": "Ada"}
        )
        assert started is not None
        key = json.loads(started.text)["conversation_key"]
        for n in range(2):
            body = {"conversation_key": key, "message": f"Question {n}?", "message_id": f"c-{n}", "think": False}
            poll = "/conversation/getMessageResponse" + query(conversation_key=key, message_id=f"c-{n}")
            assert await alone.asks("/conversation/postMessage", body, poll) == answer
        contents = [one["content"] for one in chat_engine.calls[-1]["messages"]]
        assert contents == ["Be kind.", "Question 0?", answer, "Question 1?"]
        # Single messages, and translations.
        once = script(session, deployment)
        body = {"message_id": "g-1", "message": "Hello?", "system_instructions": "", "model": "", "options": {}}
        poll = "/generate/getMessageResponse" + query(message_id="g-1")
        assert await once.asks("/generate/postMessage", body, poll) == answer
        bridge = script(session, deployment)
        body = {
            "session_key": "bridge",
            "message": "Good morning.",
            "source_language": "English",
            "target_language": "Spanish",
            "message_id": "t-1",
            "audio_voice": VOICES[0],
        }
        poll = "/translation/getTranslation" + query(session_key="bridge", message_id="t-1")
        assert await bridge.asks("/translation/translate", body, poll, "translated_text") == answer
        assert [one.complaints for one in (frog, toad, controller, microphone, alone, once, bridge)] == [[]] * 7
        assert len(chat_engine.calls) == calls + 4
    await asyncio.to_thread(deployment.wait_idle)
    chats = [one for one in await deployment.usage() if one.kind == "chat"]
    assert len(chats) == len(chat_engine.calls)
    await asyncio.to_thread(deployment.command, "usage", "verify")
    await asyncio.to_thread(deployment.stop)


async def _later(asked: Script, path: str, body: Any) -> Any:
    """What a script hears that tries again after the simulator held its request back."""
    await asyncio.sleep(1.1)
    heard = await asked.simulator.post(path, body)
    assert heard is not None
    return heard


async def test_answer_outlives_its_edge_the_rooms_process_and_the_bus(
    make_deployment: MakeBoard, chat_engine: StubChat
) -> None:
    deployment = await asyncio.to_thread(make_deployment, OVER, rooms=1, edges=2, speakers=0)
    chat_engine.plays(numbered(40, delay_s=0.05))
    async with aiohttp.ClientSession() as session:
        first = said("Hello.", message_id="m-1")
        heard = await script(session, deployment).simulator.post("/ait/postMessage", first)
        assert heard is not None
        assert heard.status == 425
        waits = await script(session, deployment).simulator.post("/ait/postMessage", said("Next.", message_id="m-2"))
        assert waits is not None
        assert waits.status == 425
        await eventually(lambda: chat_engine.active == 1, 10, "the first turn runs")
        await asyncio.to_thread(deployment.edges[0].running.kill)
        await asyncio.to_thread(deployment.rooms[0].running.kill)
        await asyncio.to_thread(deployment.nats.kill)
        await asyncio.to_thread(deployment.nats.start)
        again = await asyncio.to_thread(deployment.add_rooms)
        await asyncio.to_thread(again.wait_ready)
        await eventually(lambda: deployment.edges[1].ready_reason() is None, 20, "the edge is back on the bus")
        other = script(session, deployment, edge=1)
        for message_id in ("m-1", "m-2"):
            poll = "/ait/getMessageResponse" + query(join_key="pond", message_id=message_id)
            async with asyncio.timeout(60):
                while (heard := await other.simulator.get(poll)) is None or heard.status in (425, 499):
                    await asyncio.sleep(0.5)
            assert heard.status == 200, heard
            assert json.loads(heard.text)["response"] == script_text(40).strip()
    room = await room_of(deployment)
    assert [one.text for one in room.messages if one.role == "user"] == ["Hello.", "Next."]
    await asyncio.to_thread(deployment.wait_idle)
    assert len(await deployment.usage()) == 2
    await asyncio.to_thread(deployment.command, "usage", "verify")


@pytest.mark.timeout(400)
async def test_posts_of_many_race_while_processes_die_and_each_is_answered_once_in_order(
    make_deployment: MakeBoard, chat_engine: StubChat
) -> None:
    """Fifty posts of ten objects into one room, while each kind of process and the bus are killed."""
    # Holds that a killed edge took and nobody has use for end with their deadline.
    soon = {"edge": {"request_timeout_s": 45}, "quota": {**OVER["quota"], "lease_margin_s": 1}}
    deployment = await asyncio.to_thread(make_deployment, soon, rooms=2, edges=2, chats=2, quotas=2, speakers=0)
    chat_engine.plays(numbered(3, delay_s=0.05))
    posted: dict[str, str] = {}

    async def visitor(session: aiohttp.ClientSession, number: int) -> list[str | None]:
        chance = random.Random(number)
        heard: list[str | None] = []
        for n in range(5):
            message_id = f"v{number}-{n}"
            posted[message_id] = f"Line {n} of visitor {number}."
            body = said(posted[message_id], message_id=message_id, username=f"V{number}", audio_voice="")
            poll = "/ait/getMessageResponse" + query(join_key="pond", message_id=message_id)
            heard.append(await _until_answered(session, deployment, body, poll, chance))
        return heard

    async def killer() -> None:
        for service, restart in (
            (deployment.rooms[0], deployment.add_rooms),
            (deployment.chats[0], deployment.add_chat),
            (deployment.edges[1], None),
            (deployment.quotas[0], deployment.add_quota),
        ):
            await asyncio.sleep(1.5)
            await asyncio.to_thread(service.running.kill)
            if restart is not None:
                await asyncio.to_thread(restart)
        await asyncio.sleep(1.0)
        await asyncio.to_thread(deployment.nats.kill)
        await asyncio.to_thread(deployment.nats.start)

    async with aiohttp.ClientSession() as session:
        answers, _ = await asyncio.gather(asyncio.gather(*(visitor(session, n) for n in range(10))), killer())
    assert [one for each in answers for one in each] == [script_text(3).strip()] * 50
    room = await room_of(deployment)
    ended = sorted(room.ended, key=lambda turn: turn.number)
    assert sorted(turn.message_id for turn in ended) == sorted(posted)
    assert not any(turn.failed for turn in ended)
    for number in range(10):
        own = [turn.message_id for turn in ended if turn.message_id.startswith(f"v{number}-")]
        assert own == sorted(own)
    kept = [one for one in room.messages if one.role == "user"]
    numbers = {turn.id: turn.number for turn in ended}
    assert [numbers[one.turn] for one in kept] == sorted(numbers[one.turn] for one in kept)
    # A killed bus brings back leases of holds that were settled; they stay until they expire.
    await asyncio.to_thread(deployment.wait_idle, 90)
    events = await deployment.usage()
    assert len(events) == len({event.request_id for event in events}) == 50
    await asyncio.to_thread(deployment.command, "usage", "verify")


async def _until_answered(
    session: aiohttp.ClientSession, deployment: Deployment, body: dict[str, Any], poll: str, chance: random.Random
) -> str | None:
    """Posts until it is accepted, by whichever edge lives, and polls until there is an answer."""
    timeout = aiohttp.ClientTimeout(total=20)
    accepted = False
    async with asyncio.timeout(200):
        while True:
            edges = [n for n, edge in enumerate(deployment.edges) if edge.alive]
            root = deployment.root_url(chance.choice(edges))
            try:
                if not accepted:
                    async with session.post(root + "/ait/postMessage", json=body, timeout=timeout) as reply:
                        # A post whose answer was lost may have been taken, and is then there already.
                        accepted = reply.status in (425, 400)
                        assert reply.status in (425, 400, 429, 503), await reply.text()
                else:
                    async with session.get(root + poll, timeout=timeout) as reply:
                        if reply.status == 200:
                            return (await reply.json())["response"]
                        assert reply.status in (425, 400, 503), await reply.text()
            except (aiohttp.ClientError, TimeoutError):
                pass
            await asyncio.sleep(0.3)

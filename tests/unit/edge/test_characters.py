"""Characters as clients of every protocol meet them, over an edge whose rooms are in memory."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import quote

import pytest

from callboard_contracts.characters import Character, memory_key
from callboard_contracts.chat import ChatEnd, ChatResult
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.quota import LimitState
from callboard_contracts.rooms import Turn, room_id
from callboard_contracts.speech import SegmentInfo, SpeechEnd
from callboard_contracts.workers import WorkerInfo
from callboard_edge.backends.fake_quota_client import TENANT
from callboard_edge.domain.characters import Characters
from tests.unit.edge.harness import EdgeHarness, asking, frames, read_events, running, said

pytestmark = pytest.mark.unit

MIRA = Character(
    name="mira",
    id="1a2b",
    display_name="Mira",
    prompt="Be {name}, {desc}, to {character}.",
    desc="a miller",
    greetings=("Hm?", "Yes?"),
    voice="ann",
    words={"Ada": "Ay-da"},
)


@pytest.fixture
async def edge() -> AsyncGenerator[EdgeHarness]:
    async with running() as harness:
        put(harness, MIRA)
        yield harness


def put(edge: EdgeHarness, character: Character, revision: int = 1) -> None:
    edge.characters.take(character.name, character, revision)


def key(speaker: str, character: Character = MIRA) -> str:
    return memory_key(TENANT, character, speaker)


async def posted(edge: EdgeHarness, count: int = 1) -> Turn:
    """The turn of that number, once it is posted."""
    async with asyncio.timeout(20):
        while len(edge.rooms.posted) < count:
            await asyncio.sleep(0.005)
    return edge.rooms.posted[count - 1]


async def answers(edge: EdgeHarness, *texts: str, count: int = 1, keeps: bool = True) -> Turn:
    """Writes the reply to a turn, and has its room remember both."""
    turn = await posted(edge, count)
    for frame in frames(*texts):
        edge.replies.send(turn.id, frame)
    if keeps:
        result = ChatResult(request_id=turn.id, model="owl", text="".join(texts), end=ChatEnd(reason="stop"))
        edge.replies.results[turn.id] = result
        (room,) = [room for room in edge.rooms.rooms.values() if turn.id in {one.id for one in room.open_turns}]
        edge.rooms.end_turn(room, result)
    return turn


def plays(edge: EdgeHarness, *texts: str, count: int = 1) -> "asyncio.Task[Turn]":
    task = asyncio.ensure_future(answers(edge, *texts, count=count))
    edge.workers.append(task)
    return task


def to_mira(**over: Any) -> dict[str, Any]:
    return asking(model="character/mira", **over)


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        ({"user": "Ada"}, {}),
        ({"safety_identifier": "Ada"}, {}),
        ({"messages": [{"role": "user", "content": "Hello.", "name": "Ada"}]}, {}),
        ({}, {"X-Callboard-Speaker": "Ada"}),
        ({"user": "Bo"}, {"X-Callboard-Speaker": quote("Ada")}),
    ],
)
async def test_speaker_named_in_any_way_has_a_memory(
    edge: EdgeHarness, fields: dict[str, Any], headers: dict[str, str]
) -> None:
    work = plays(edge, "Hm", ".")
    status, _headers, body = await edge.post("/v1/chat/completions", to_mira(**fields), **headers)
    assert (status, json.loads(body)["choices"][0]["message"]["content"]) == (200, "Hm.")
    assert json.loads(body)["model"] == "character/mira"
    turn = await work
    assert (turn.speaker, turn.text, turn.character, turn.memory_messages) == ("Ada", "Hello.", "Mira", 25)
    assert turn.request is not None
    assert turn.request.model == "owl"
    assert [one.content for one in turn.request.messages] == ["Be Mira, a miller, to Ada."]
    assert list(edge.rooms.rooms) == [room_id("character", key("Ada"))]
    assert edge.figure("callboard_edge_character_requests_total", memory="kept") == 1


async def test_stream_has_the_frames_of_the_turns_job(edge: EdgeHarness) -> None:
    edge.quota.states = (LimitState(limit="units", allowed=9, remaining=8, resets_in_s=1),)
    plays(edge, "Hm", ".")
    status, headers, body = await edge.post("/v1/chat/completions", to_mira(user="Ada", stream=True))
    assert status == 200
    assert said(read_events(body)) == "Hm."
    assert any(name.lower().startswith("x-ratelimit") for name in headers)
    assert edge.jobs.queued == 0
    await edge.all_closed()
    assert edge.rooms.cancelled == []


async def test_request_without_a_speaker_is_answered_from_what_it_brings(edge: EdgeHarness) -> None:
    work = edge.plays(frames("Hm."))
    messages = [{"role": role, "content": text} for role, text in (("user", "1"), ("assistant", "2"), ("user", "3"))]
    status, _headers, _body = await edge.post("/v1/chat/completions", to_mira(messages=messages))
    job = await work
    assert status == 200
    assert [one.content for one in job.request.messages] == ["Be Mira, a miller, to the visitor.", "1", "2", "3"]
    assert (job.request.model, edge.rooms.posted) == ("owl", [])
    assert edge.figure("callboard_edge_character_requests_total", memory="none") == 1


async def test_completion_speaks_for_whom_its_last_line_names(edge: EdgeHarness) -> None:
    work = plays(edge, "Hm.")
    body = {"model": "character/mira", "prompt": "You are Mo.\nAda: Is it ready?"}
    status, _headers, answer = await edge.post("/v1/completions", body)
    assert (status, json.loads(answer)["choices"][0]["text"]) == (200, "Hm.")
    assert ((await work).speaker, (await work).text) == ("Ada", "Is it ready?")


async def test_several_prompts_are_turns_of_their_own(edge: EdgeHarness) -> None:
    body = {"model": "character/mira", "prompt": ["Ada: One?", "Bo: Two?"]}
    asked = asyncio.ensure_future(edge.post("/v1/completions", body, **{"Idempotency-Key": "k"}))
    for count in (1, 2):
        await answers(edge, f"{count}.", count=count)
    assert [one["text"] for one in json.loads((await asked)[2])["choices"]] == ["1.", "2."]
    assert len(edge.rooms.rooms) == 2


async def test_client_that_leaves_gives_up_its_turn(edge: EdgeHarness) -> None:
    asked = asyncio.ensure_future(edge.post("/v1/chat/completions", to_mira(user="Ada", stream=True)))
    turn = await posted(edge)
    asked.cancel()
    await edge.all_closed()
    assert edge.rooms.cancelled == [turn.id]
    room = edge.rooms.rooms[room_id("character", key("Ada"))]
    assert (room.running, room.messages) == (None, ())


async def test_message_that_is_sent_again_gets_the_same_reply_and_is_said_once(edge: EdgeHarness) -> None:
    same = {"Idempotency-Key": "m1"}
    plays(edge, "Hm.")
    first = await edge.post("/v1/chat/completions", to_mira(user="Ada"), **same)
    again = await edge.post("/v1/chat/completions", to_mira(user="Ada"), **same)
    assert [json.loads(one[2])["choices"][0]["message"]["content"] for one in (first, again)] == ["Hm.", "Hm."]
    assert len(edge.rooms.posted) == 1
    # What was held for the repeat is given back.
    assert len(edge.quota.released) == 1
    await edge.all_closed()


async def test_message_of_a_turn_that_was_given_up_is_said_again(edge: EdgeHarness) -> None:
    same = {"Idempotency-Key": "m1"}
    asked = asyncio.ensure_future(edge.post("/v1/chat/completions", to_mira(user="Ada", stream=True), **same))
    await posted(edge)
    asked.cancel()
    await edge.all_closed()
    plays(edge, "Hm.", count=2)
    status, _headers, _body = await edge.post("/v1/chat/completions", to_mira(user="Ada"), **same)
    assert status == 200


async def test_refused_turn_gives_back_what_is_held(edge: EdgeHarness) -> None:
    edge.rooms.failure = CallboardError(ErrorCode.QUEUE_FULL, "Full.", retry_after_s=5.0)
    status, headers, _body = await edge.post("/v1/chat/completions", to_mira(user="Ada"))
    assert (status, headers["Retry-After"]) == (429, "5")
    assert edge.quota.held == {}


async def test_turn_that_failed_in_its_room_is_an_error(edge: EdgeHarness) -> None:
    asked = asyncio.ensure_future(edge.post("/v1/chat/completions", to_mira(user="Ada")))
    turn = await posted(edge)
    error = ErrorInfo(code=ErrorCode.QUEUE_FULL, message="Full.", retry_after_s=2.0)
    edge.replies.results[turn.id] = ChatResult(
        request_id=turn.id, model="owl", text="", end=ChatEnd(reason="error", error=error)
    )
    assert (await asked)[0] == 429


async def test_memory_whose_owner_is_not_known_is_not_touched(edge: EdgeHarness) -> None:
    reserve = edge.quota.reserve

    async def away(request: Any) -> Any:
        return (await reserve(request)).model_copy(update={"hold": None})

    edge.quota.reserve = away
    status, _headers, _body = await edge.post("/v1/chat/completions", to_mira(user="Ada"))
    assert (status, edge.rooms.posted) == (503, [])


async def test_character_without_a_memory_remembers_nobody(edge: EdgeHarness) -> None:
    put(edge, MIRA.model_copy(update={"memory_messages": 0}))
    work = edge.plays(frames("Hm."))
    assert (await edge.post("/v1/chat/completions", to_mira(user="Ada")))[0] == 200
    assert (await work).request.messages[0].content == "Be Mira, a miller, to Ada."


async def test_characters_are_listed_after_the_models_and_unknown_ones_refused(edge: EdgeHarness) -> None:
    async with edge.session.get(f"{edge.url}/v1/models") as reply:
        listed = [one["id"] for one in (await reply.json())["data"]]
    assert listed == ["owl", "wren/tiny", "character/mira", "magpie", "parrot", "ear"]
    async with edge.session.get(f"{edge.url}/v1/models/character/mira") as reply:
        assert reply.status == 200
    status, _headers, _body = await edge.post("/v1/chat/completions", asking(model="character/nobody"))
    assert status == 404
    edge.characters.take("mira", None, 2)
    assert (await edge.post("/v1/chat/completions", to_mira()))[0] == 404


@pytest.mark.parametrize(
    ("models", "model", "fallback", "expected"),
    [
        (None, None, None, "owl"),
        (["wren/tiny"], None, None, None),
        (["wren/tiny"], "wren/tiny", None, "wren/tiny"),
        (["wren/tiny"], "owl", "wren/tiny", "wren/tiny"),
        (["character/mira"], "owl", None, "owl"),
        (["character/*"], "owl", None, "owl"),
        (["character/other", "wren/tiny"], "owl", None, None),
        (None, "gone", None, None),
    ],
)
async def test_tier_that_may_not_use_the_model_may_not_use_the_character(
    models: list[str] | None, model: str | None, fallback: str | None, expected: str | None
) -> None:
    tier = {} if models is None else {"models": models}
    async with running({"quota": {"tiers": {"anonymous": {}, "standard": tier}}}) as edge:
        put(edge, MIRA.model_copy(update={"model": model, "fallback_model": fallback}))
        work = edge.plays(frames("Hm."))
        status, _headers, _body = await edge.post("/v1/chat/completions", to_mira())
        assert status == (404 if expected is None else 200)
        if expected is not None:
            assert (await work).request.model == expected


async def test_fallback_answers_while_no_worker_of_the_model_is_expected() -> None:
    pools = {"main": {"backend": "fake"}, "spare": {"backend": "fake"}}
    models = {"owl": {"pool": "main"}, "wren": {"pool": "spare"}}
    async with running({"chat": {"pools": pools, "models": models}}) as edge:
        put(edge, MIRA.model_copy(update={"model": "owl", "fallback_model": "wren"}))
        edge.known.mark_loaded(0.0)
        for pool, expected in (("spare", "wren"), ("main", "owl")):
            edge.known.announce(WorkerInfo(id=f"w-{pool}", service="chat", pool=pool, backend="fake", slots=1, at=0))
            work = edge.plays(frames("Hm."))
            assert (await edge.post("/v1/chat/completions", to_mira()))[0] == 200
            assert (await work).request.model == expected


def test_older_news_of_a_character_are_left_aside() -> None:
    characters = Characters()
    characters.take("mira", MIRA, 2)
    characters.take("mira", None, 1)
    assert [one.name for one in characters] == ["mira"]
    characters.take("mira", None, 3)
    assert (len(characters), characters.revision("mira")) == (0, 3)
    characters.take("mira", MIRA, 2)
    assert len(characters) == 0


async def test_characters_voice_and_words_are_spoken(edge: EdgeHarness) -> None:
    async def heard(body: dict[str, Any]) -> Any:
        asked = asyncio.ensure_future(edge.post("/v1/audio/speech", body))
        job = await edge.jobs.next_speech()
        edge.replies.say(job.request_id, 0, SegmentInfo(attempt=1, piece=0, offset_bytes=0), bytes(4800))
        end = SegmentInfo(attempt=1, piece=1, offset_bytes=0, end=SpeechEnd(reason="stop", audio_ms=100))
        edge.replies.say(job.request_id, 1, end, b"")
        assert (await asked)[0] == 200
        return job.request

    spoken = await heard({"model": "parrot", "input": "Hello Ada.", "voice": "character/mira"})
    assert (spoken.voice, spoken.words) == ("ann", {"Ada": "Ay-da"})
    spoken = await heard({"model": "parrot", "input": "Hello Ada.", "voice": "ann"})
    assert (spoken.voice, spoken.words) == ("ann", {})
    async with edge.session.get(f"{edge.url}/v1/audio/voices") as reply:
        voices = (await reply.json())["voices"]
    assert [(one["id"], one.get("alias_of")) for one in voices] == [("ann", None), ("character/mira", "ann")]
    put(edge, MIRA.model_copy(update={"voice": "nobody"}))
    for voice in ("character/mira", "character/nobody"):
        body = {"model": "parrot", "input": "Hello.", "voice": voice}
        status, _headers, answer = await edge.post("/v1/audio/speech", body)
        assert (status, json.loads(answer)["error"]["code"]) == (400, "unknown_voice")


async def test_character_is_a_voice_of_koboldcpps_clients(edge: EdgeHarness) -> None:
    body = {"input": "Hello Ada.", "voice": "character/mira"}
    asked = asyncio.ensure_future(edge.post("/api/extra/tts", body))
    job = await edge.jobs.next_speech()
    assert (job.request.voice, job.request.words) == ("ann", {"Ada": "Ay-da"})
    edge.replies.say(job.request_id, 0, SegmentInfo(attempt=1, piece=0, offset_bytes=0), bytes(4800))
    end = SegmentInfo(attempt=1, piece=1, offset_bytes=0, end=SpeechEnd(reason="stop", audio_ms=100))
    edge.replies.say(job.request_id, 1, end, b"")
    assert (await asked)[0] == 200


async def test_narrated_character_speaks_with_its_own_voice(edge: EdgeHarness) -> None:
    body = to_mira(user="Ada", modalities=["text", "audio"], audio={"format": "wav"})
    asked = asyncio.ensure_future(edge.post("/v1/chat/completions", body))
    speech = await edge.jobs.next_speech()
    assert (speech.request.voice, speech.request.words) == ("ann", {"Ada": "Ay-da"})
    turn = await answers(edge, "Hm.")
    assert speech.narrates is not None
    assert speech.narrates.request_id == turn.id
    end = SegmentInfo(attempt=1, piece=0, offset_bytes=0, end=SpeechEnd(reason="stop", audio_ms=0))
    edge.replies.say(speech.request_id, 0, end, b"")
    status, _headers, answer = await asked
    assert (status, json.loads(answer)["choices"][0]["message"]["audio"]["transcript"]) == (200, "Hm.")


MESSAGES = "/v1/characters/mira/messages"


async def test_one_post_with_a_speaker_and_a_text_gets_the_reply(edge: EdgeHarness) -> None:
    plays(edge, "Hm", ".")
    status, _headers, body = await edge.post(MESSAGES, {"speaker": "Ada", "text": "Hello."})
    answer = json.loads(body)
    assert (status, answer["text"], answer["character"], answer["speaker"]) == (200, "Hm.", "mira", "Ada")
    assert (answer["finish_reason"], answer["usage"]["completion_tokens"]) == ("stop", 2)


async def test_message_is_answered_as_events(edge: EdgeHarness) -> None:
    plays(edge, "Hm", ".")
    status, headers, body = await edge.post(MESSAGES, {"speaker": "Ada", "text": "Hello.", "stream": True})
    assert (status, headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
    events = [json.loads(one.removeprefix("data: ")) for one in body.decode().split("\n\n")[:-1]]
    assert events[0]["speaker"] == "Ada"
    assert "".join(event.get("text", "") for event in events) == "Hm."
    assert events[-1]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "param"),
    [
        (MESSAGES, {"speaker": "Ada"}, 400, "invalid_request", "text"),
        (MESSAGES, {"speaker": 7, "text": "Hi"}, 400, "invalid_request", "speaker"),
        (MESSAGES, {"text": "Hi", "speech": {"voice": "nobody"}}, 400, "unknown_voice", "speech.voice"),
        (MESSAGES, {"text": "Hi", "stream": True, "speech": {"format": "wav"}}, 400, "unsupported", "speech.format"),
        ("/v1/characters/nobody/messages", {"text": "Hi"}, 404, "unknown_character", "name"),
        ("/v1/characters/mira/nothing", {"text": "Hi"}, 404, "not_found", None),
    ],
)
async def test_wrong_message_is_refused_with_its_field(
    edge: EdgeHarness, path: str, body: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    found, _headers, answer = await edge.post(path, body)
    error = json.loads(answer)["error"]
    assert (found, error["code"], error["param"]) == (status, code, param)


async def test_spoken_message_has_its_sound(edge: EdgeHarness) -> None:
    asked = asyncio.ensure_future(
        edge.post(MESSAGES, {"speaker": "Ada", "text": "Hello.", "speech": {"format": "wav"}})
    )
    speech = await edge.jobs.next_speech()
    assert (speech.request.voice, speech.request.words) == ("ann", {"Ada": "Ay-da"})
    await answers(edge, "Hm.")
    edge.replies.say(speech.request_id, 0, SegmentInfo(attempt=1, piece=0, offset_bytes=0), bytes(480))
    end = SegmentInfo(attempt=1, piece=1, offset_bytes=0, end=SpeechEnd(reason="stop", audio_ms=10))
    edge.replies.say(speech.request_id, 1, end, b"")
    status, _headers, body = await asked
    answer = json.loads(body)
    assert (status, answer["text"], answer["audio"]["format"]) == (200, "Hm.", "wav")
    assert answer["audio"]["data"]


async def get(edge: EdgeHarness, path: str, method: str = "GET") -> tuple[int, Any]:
    async with edge.session.request(method, edge.url + path) as reply:
        return reply.status, await reply.json()


async def test_characters_are_shown_without_their_prompts(edge: EdgeHarness) -> None:
    status, body = await get(edge, "/v1/characters")
    assert status == 200
    (shown,) = body["characters"]
    assert (shown["name"], shown["model"], shown["greeting"], shown["voice"]) == (
        "mira",
        "character/mira",
        "Hm?",
        "ann",
    )
    assert "prompt" not in shown
    assert await get(edge, "/v1/characters/mira") == (200, shown)
    assert (await get(edge, "/v1/characters/nobody"))[0] == 404


async def test_memory_is_shown_and_forgotten_for_one_speaker(edge: EdgeHarness) -> None:
    for count, speaker in enumerate(("Ada", "Bo"), 1):
        plays(edge, f"Hm {speaker}.", count=count)
        await edge.post(MESSAGES, {"speaker": speaker, "text": "Hello."})
    path = "/v1/characters/mira/memory?speaker="
    status, body = await get(edge, f"{path}Ada")
    assert (status, [(one["speaker"], one["text"]) for one in body["messages"]]) == (
        200,
        [("Ada", "Hello."), ("Mira", "Hm Ada.")],
    )
    assert await get(edge, f"{path}Ada", "DELETE") == (200, {"forgotten": True})
    assert await get(edge, f"{path}Ada", "DELETE") == (200, {"forgotten": False})
    assert (await get(edge, f"{path}Ada"))[1]["messages"] == []
    assert len((await get(edge, f"{path}Bo"))[1]["messages"]) == 2
    assert (await get(edge, "/v1/characters/mira/memory"))[0] == 400


async def test_character_in_a_talkmaster_room_has_that_rooms_memory(edge: EdgeHarness) -> None:
    body = {
        "join_key": "pond",
        "username": "Ada",
        "message": "Hello.",
        "model": "character/mira",
        "system_instructions": "Be brief.",
        "charactername": "Mira",
        "think": False,
        "message_id": "m1",
        "options": {},
        "audio_instructions": "",
        "audio_voice": "character/mira",
        "audio_model": "",
    }
    assert (await edge.post("/ait/postMessage", body))[0] == 425
    turn = await posted(edge)
    assert turn.request is not None
    assert turn.request.model == "owl"
    assert turn.request.messages[0].content == "Be Mira, a miller, to Ada.\n\nBe brief."
    assert turn.speech is not None
    assert (turn.speech.request.voice, turn.speech.request.words) == ("ann", {"Ada": "Ay-da"})


async def test_message_that_was_said_before_is_not_spoken_again(edge: EdgeHarness) -> None:
    plays(edge, "Hm.")
    body = {"speaker": "Ada", "text": "Hello.", "message_id": "m1"}
    assert (await edge.post(MESSAGES, body))[0] == 200
    status, _headers, answer = await edge.post(MESSAGES, {**body, "speech": {"format": "wav"}})
    assert (status, json.loads(answer)["error"]["code"]) == (409, "duplicate_message")
    await edge.all_closed()
    async with asyncio.timeout(20):
        while edge.quota.held.keys() - {edge.rooms.posted[0].id}:
            await asyncio.sleep(0.01)


async def test_game_that_speaks_text_generation_webui_has_a_memory_for_each_player(edge: EdgeHarness) -> None:
    work = plays(edge, " Hm.")
    body = {"model": "character/mira", "prompt": "You are Mo.\nBo: Hi\nAda: Is it ready?", "max_new_tokens": 40}
    status, _headers, answer = await edge.post("/api/v1/generate", body)
    assert (status, json.loads(answer)["results"][0]["text"].strip()) == (200, "Hm.")
    turn = await work
    assert (turn.speaker, turn.text) == ("Ada", "Is it ready?")
    assert turn.request is not None
    assert (turn.request.mode, turn.request.prompt, turn.request.model) == ("chat", "", "owl")


async def test_headers_that_are_no_text_harm_nothing(edge: EdgeHarness) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    body = json.dumps({"text": "Hello."}).encode()
    head = f"POST {MESSAGES} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n".encode()
    writer.write(head + b"X-Callboard-Speaker: A\xffda\r\nIdempotency-Key: \xff1\r\n\r\n" + body)
    turn = await answers(edge, "Hm.")
    assert (turn.speaker, turn.message_id) == ("A da", "1")
    async with asyncio.timeout(20):
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()

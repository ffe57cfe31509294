"""AI Talkmaster's API on the wire: each path, the order of its checks, and what scripts can read of its answers."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from callboard_contracts.chat import ChatEnd, ChatResult
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.rooms import Room, room_id
from callboard_contracts.workers import OfferedModel, OfferedVoice, WorkerInfo
from callboard_edge.protocols.talkmaster.replies import MAX_ANSWER_BYTES, MAX_LIST_BYTES
from tests.unit.edge.harness import USAGE, EdgeHarness, asking, running

pytestmark = pytest.mark.unit

REFUSED = ErrorInfo(
    code=ErrorCode.QUOTA_EXCEEDED, message="The day's limit is used up.", limit="address.tokens_per_day"
)
VOICES = ("af_heart", "am_adam", "ef_dora")


@pytest.fixture
async def harness() -> AsyncGenerator[EdgeHarness]:
    """An edge with a voice for English and one for Spanish."""
    async with running({"talkmaster": {"simulators": ["127.0.0.0/8"]}}) as started:
        languages = {"a": "en-us", "e": "es"}
        voices = tuple(OfferedVoice(name=name, language=languages[name[0]]) for name in VOICES)
        offered = OfferedModel(name="parrot", voices=(OfferedVoice(name="ann", language="en-us"), *voices))
        info = WorkerInfo(id="w", service="tts", pool="booth", backend="fake", models=(offered,), slots=1, at=0)
        started.known.announce(info)
        yield started


def message(**over: Any) -> dict[str, Any]:
    """A character script's post."""
    body = {
        "join_key": "pond",
        "username": "Ada",
        "message": "Frog, what is new?",
        "model": "",
        "system_instructions": "You are a frog.\\nBe brief.",
        "charactername": "Frog",
        "think": False,
        "message_id": "m-1",
        "options": {"temperature": 0.7, "stop": ["Ada:"]},
        "audio_instructions": "",
        "audio_voice": "",
        "audio_model": "",
    }
    return {**body, **over}


async def get(harness: EdgeHarness, path: str, **query: str) -> tuple[int, Any]:
    async with harness.session.get(harness.url + path, params=query) as reply:
        text = await reply.text()
        return reply.status, json.loads(text) if text else None


async def post(harness: EdgeHarness, path: str, body: Any, **headers: str) -> tuple[int, Any]:
    status, _headers, content = await harness.post(path, body, **headers)
    return status, json.loads(content)


def answered(turn_id: str, text: str, error: ErrorInfo | None = None) -> ChatResult:
    end = ChatEnd(reason="error" if error else "stop", usage=USAGE, error=error)
    return ChatResult(request_id=turn_id, model="owl", text=text, end=end)


def pond(harness: EdgeHarness, key: str = "pond", kind: Any = "ait") -> Room:
    return harness.rooms.rooms[room_id(kind, key)]


async def test_status_models_and_voices_are_told_in_few_bytes(harness: EdgeHarness) -> None:
    assert await get(harness, "/statusAitalkmaster") == (200, "status online")
    status, models = await get(harness, "/chat_models")
    assert status == 200
    assert models["chat_models"] == ["owl", "wren/tiny", "owl:latest"]
    assert (models["default_model"], models["count"]) == ("owl", 3)
    status, voices = await get(harness, "/audio_models")
    assert (status, voices["audio_available"]) == (200, True)
    assert (voices["default_model"], voices["audio_models"]) == ("parrot", ["parrot"])


async def test_lists_stay_readable_for_scripts_however_much_is_offered() -> None:
    models = {f"model-with-a-long-name-{n:03}": {"pool": "main", "aliases": [f"alias-{n}"]} for n in range(200)}
    voices = [f"voice-with-a-long-name-{n:03}" for n in range(200)]
    over: dict[str, Any] = {"chat": {"pools": {"main": {"backend": "fake"}}, "models": models}}
    over["tts"] = {"pools": {"booth": {"backend": "fake"}}, "models": {"parrot": {"pool": "booth", "voices": voices}}}
    async with running(over) as many:
        for path, field in (("/chat_models", "chat_models"), ("/audio_models", "allowed_voices")):
            async with many.session.get(many.url + path) as reply:
                body = await reply.read()
            assert len(body) <= MAX_LIST_BYTES
            assert len(json.loads(body)[field]) > 20


async def test_room_without_speech_says_so_and_answers_in_text() -> None:
    async with running({"tts": {"pools": {}, "models": {}}}) as harness:
        status, voices = await get(harness, "/audio_models")
        assert (status, voices["audio_available"]) == (200, False)
        assert voices["error"]
        assert (await post(harness, "/ait/postMessage", message()))[0] == 425
        assert harness.rooms.posted[0].speech is None
        assert (await post(harness, "/ait/startConversation", {"join_key": "pond"}))[1]["stream_url"] == ""
        spoken = {"join_key": "pond", "username": "Ada", "message": "Hello there."}
        status, body = await post(harness, "/ait/generateAudio", spoken)
        assert (status, list(body)) == (400, ["error"])


async def test_room_is_opened_as_often_as_scripts_ask(harness: EdgeHarness) -> None:
    first = await post(harness, "/ait/startConversation", {"join_key": "pond"})
    again = await post(harness, "/ait/startConversation", {"join_key": "pond"})
    assert [status for status, _body in (first, again)] == [200, 200]
    assert first[1]["info"] != again[1]["info"]
    assert first[1]["stream_url"].endswith("/ait/stream/pond")
    assert len(harness.rooms.rooms) == 1


async def test_message_becomes_a_turn_with_its_holds_and_is_answered_by_polling(harness: EdgeHarness) -> None:
    status, accepted = await post(harness, "/ait/postMessage", message())
    assert (status, accepted["message_id"], accepted["status"]) == (425, "m-1", "processing")
    turn = harness.rooms.posted[0]
    assert (turn.speaker, turn.character, turn.text, turn.remembers) == ("Ada", "Frog", "Frog, what is new?", True)
    assert turn.request is not None
    assert turn.request.messages[0].content == "You are a frog.\nBe brief."
    assert (turn.request.sampling.temperature, turn.request.sampling.stop) == (0.7, ("Ada:",))
    assert turn.speech is not None
    assert (turn.speech.request.voice, turn.speech.request.text, turn.speech.pool) == ("ann", "", "booth")
    assert turn.hold is not None
    assert turn.speech.hold is not None
    poll = {"join_key": "pond", "message_id": "m-1"}
    status, body = await get(harness, "/ait/getMessageResponse", **poll)
    assert status == 425
    assert isinstance(body, str)
    harness.rooms.end_turn(pond(harness), answered(turn.id, "frog: The lily opened."))
    for _ in range(2):
        assert await get(harness, "/ait/getMessageResponse", **poll) == (
            200,
            {"message_id": "m-1", "response": "The lily opened."},
        )
    assert harness.quota.released == []


async def test_order_of_checks_of_a_message(harness: EdgeHarness) -> None:
    await post(harness, "/ait/postMessage", message())
    over = {"join_key": "the pond", "model": "none", "audio_model": "none", "audio_voice": "none"}
    wrong: dict[str, Any] = {"message": True, **over}
    expected: list[tuple[str, int, set[str]]] = [
        ("message", 422, {"detail"}),
        ("join_key", 400, {"error"}),
        ("model", 400, {"error", "available_models"}),
        ("audio_model", 400, {"error", "available_audio_models"}),
        ("audio_voice", 400, {"error", "allowed_voices"}),
    ]
    for field, status, keys in expected:
        found, body = await post(harness, "/ait/postMessage", message(**wrong))
        assert (found, set(body)) == (status, keys), field
        del wrong[field]
    harness.quota.refusal = REFUSED
    found, body = await post(harness, "/ait/postMessage", message())
    assert (found, set(body)) == (429, {"error", "ip_address"})
    harness.quota.refusal = None
    held = len(harness.quota.asked)
    found, body = await post(harness, "/ait/postMessage", message())
    assert (found, set(body), body["message_id"]) == (400, {"message_id", "error"}, "m-1")
    assert len(harness.quota.released) == len(harness.quota.asked) - held == 2
    assert len(harness.rooms.posted) == 1


@pytest.mark.parametrize(
    ("over", "place"),
    [
        ({"message": True}, ["body", "message"]),
        ({"message": None}, ["body", "message"]),
        ({"message": {"a": 1}}, ["body", "message"]),
        ({"options": "{}"}, ["body", "options"]),
        ({"options": []}, ["body", "options"]),
        ({"options": {"temperature": "hot"}}, ["body", "options", "temperature"]),
        ({"options": {"top_p": 2}}, ["body", "options", "top_p"]),
        ({"think": "yes"}, ["body", "think"]),
        ({"message": "x" * 80_000}, ["body", "message"]),
        ({"join_key": "k" * 300}, ["body", "join_key"]),
    ],
)
async def test_wrong_type_is_422_and_nothing_is_held(harness: EdgeHarness, over: dict[str, Any], place: Any) -> None:
    status, body = await post(harness, "/ait/postMessage", message(**over))
    assert status == 422
    assert [one["loc"] for one in body["detail"]] == [place]
    assert all(set(one) == {"type", "loc", "msg", "input"} for one in body["detail"])
    assert harness.quota.asked == []


@pytest.mark.parametrize(
    ("raw", "content_type"),
    [
        (b'{"join_key": "pond", "message": {Hello} }', "application/json"),
        (b"", "application/json"),
        (b'["pond"]', "application/json"),
        (b'{"join_key": "pond"}', "text/plain"),
        (b'{"join_key": "\xff"}', "application/json"),
    ],
)
async def test_body_that_is_no_json_object_is_422(harness: EdgeHarness, raw: bytes, content_type: str) -> None:
    async with harness.session.post(
        harness.url + "/ait/startConversation", data=raw, headers={"Content-Type": content_type}
    ) as reply:
        body = await reply.json()
        assert (reply.status, list(body)) == (422, ["detail"])
    assert harness.rooms.rooms == {}


async def test_missing_query_is_422_and_unknown_key_400(harness: EdgeHarness) -> None:
    status, body = await get(harness, "/ait/getMessageResponse", join_key="pond")
    assert (status, body["detail"][0]["loc"]) == (422, ["query", "message_id"])
    assert (await get(harness, "/ait/getMessageResponse", join_key="pond", message_id="m"))[0] == 400
    assert (await get(harness, "/ait/getMessageResponse", join_key="a b", message_id="m"))[0] == 400
    await post(harness, "/ait/startConversation", {"join_key": "pond"})
    assert (await get(harness, "/ait/getMessageResponse", join_key="pond", message_id="never"))[0] == 425


@pytest.mark.parametrize("key", ["../../etc", "a/b", "%2e%2e", "*", ">", "pond.>", "ünder", "😀", "x" * 256, "$KV"])
async def test_odd_keys_are_keys_like_any_other(harness: EdgeHarness, key: str) -> None:
    status, body = await post(harness, "/ait/startConversation", {"join_key": key})
    assert status == 200
    assert body["stream_url"].count("/") == len(["http:", "", "host", "ait", "stream", "x"]) - 1
    await post(harness, "/ait/postMessage", message(join_key=key))
    harness.rooms.end_turn(pond(harness, key), answered(harness.rooms.posted[0].id, "Yes."))
    assert (await get(harness, "/ait/getMessageResponse", join_key=key, message_id="m-1"))[1]["response"] == "Yes."


async def test_failed_answer_is_an_error_and_never_a_reply(harness: EdgeHarness) -> None:
    await post(harness, "/ait/postMessage", message())
    broken = ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="The engine failed.")
    turn = harness.rooms.posted[0]
    harness.rooms.end_turn(pond(harness), answered(turn.id, "half", broken))
    status, body = await get(harness, "/ait/getMessageResponse", join_key="pond", message_id="m-1")
    assert (status, body) == (502, {"error": "The engine failed."})


async def test_long_answer_is_shortened_to_what_a_script_can_read(harness: EdgeHarness) -> None:
    await post(harness, "/ait/postMessage", message())
    turn = harness.rooms.posted[0]
    harness.rooms.end_turn(pond(harness), answered(turn.id, '😀"\\' * 9000))
    query = {"join_key": "pond", "message_id": "m-1"}
    async with harness.session.get(harness.url + "/ait/getMessageResponse", params=query) as reply:
        raw = await reply.read()
    assert MAX_ANSWER_BYTES - 16 <= len(raw) <= MAX_ANSWER_BYTES
    response = json.loads(raw)["response"]
    assert response.endswith("…")
    assert ('😀"\\' * 9000).startswith(response[:-1])


async def test_claimed_room_is_reset_and_spoken_into_with_its_secret_alone(harness: EdgeHarness) -> None:
    assert (await post(harness, "/ait/startConversation", {"join_key": "pond!lily"}))[0] == 200
    spoken = {"join_key": "pond", "username": "Ada", "message": "Hello there."}
    assert (await post(harness, "/ait/startConversation", {"join_key": "pond"}))[0] == 200
    assert (await post(harness, "/ait/startConversation", {"join_key": "pond", "secret": "x"}))[0] == 400
    assert (await post(harness, "/ait/generateAudio", spoken))[0] == 400
    assert (await post(harness, "/ait/resetJoinkey", {"join_key": "pond"}))[0] == 400
    assert len(harness.quota.released) == len(harness.quota.asked)
    assert (await post(harness, "/ait/postMessage", message()))[0] == 425
    status, body = await post(harness, "/ait/generateAudio", {**spoken, "join_key": "pond!lily"})
    assert (status, body["status"]) == (200, "processing")
    assert body["stream_url"].endswith("/ait/stream/pond")
    assert (await post(harness, "/ait/generateAudio?secret=lily", spoken))[0] == 200
    assert (await post(harness, "/ait/resetJoinkey", {"join_key": "pond"}, **{"X-Room-Secret": "lily"}))[0] == 200
    assert pond(harness).generation == 1


@pytest.mark.parametrize("path", ["/ait/startConversation", "/ait/resetJoinkey", "/ait/generateAudio"])
async def test_secret_that_is_no_text_is_refused(path: str, harness: EdgeHarness) -> None:
    body = b'{"join_key": "pond", "username": "Ada", "message": "Hello there."}'
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.port)
    writer.write(
        b"POST %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
        b"X-Room-Secret: lily\xff\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body)
    )
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b'{"error":"The secret is not valid UTF-8."}')
    assert not harness.rooms.rooms


async def test_claimed_room_is_heard_under_its_public_name(harness: EdgeHarness) -> None:
    await post(harness, "/ait/startConversation", {"join_key": "pond!lily"})
    for path in ("/ait/stream/pond.m3u", "/ait/stream/pond!lily.m3u"):
        async with harness.session.get(harness.url + path) as reply:
            assert (reply.status, (await reply.text()).splitlines()[-1][-16:]) == (200, "/ait/stream/pond")
    async with harness.session.get(harness.url + "/ait/rooms/pond!lily") as reply:
        assert reply.status == 200
    async with harness.session.get(harness.url + "/ait/stream/lake!lily") as reply:
        assert reply.status == 404


async def test_text_that_cannot_be_spoken_is_refused_before_anything_is_held(harness: EdgeHarness) -> None:
    spoken = {"join_key": "pond", "username": "Ada", "message": "..."}
    assert (await post(harness, "/ait/generateAudio", spoken))[0] == 400
    unknown = {**spoken, "message": "Hello.", "audio_voice": "nobody"}
    status, body = await post(harness, "/ait/generateAudio", unknown)
    assert (status, body["allowed_voices"]) == (400, ["ann"])
    assert harness.quota.asked == []


async def test_unknown_room_can_be_reset(harness: EdgeHarness) -> None:
    status, body = await post(harness, "/ait/resetJoinkey", {"join_key": "never"})
    assert (status, set(body)) == (200, {"info", "stream_url"})
    assert (await post(harness, "/ait/resetJoinkey", {"join_key": "a b"}))[0] == 400
    harness.quota.refusal = REFUSED
    assert (await post(harness, "/ait/resetJoinkey", {"join_key": "a b"}))[0] == 429


async def test_room_whose_speech_worker_never_came_answers_in_text(harness: EdgeHarness) -> None:
    harness.known.forget("w")
    harness.known.mark_loaded(0)
    chat = WorkerInfo(id="c", service="chat", pool="main", backend="fake", slots=1, at=0)
    harness.known.announce(chat)
    assert (await post(harness, "/ait/postMessage", message()))[0] == 425
    assert harness.rooms.posted[0].speech is None
    spoken = {"join_key": "pond", "username": "Ada", "message": "Hello there."}
    assert (await post(harness, "/ait/generateAudio", spoken))[0] == 503


async def test_second_hold_that_is_refused_gives_the_first_back(harness: EdgeHarness) -> None:
    harness.quota.refusal, harness.quota.refused_kind = REFUSED, "speech"
    assert (await post(harness, "/ait/postMessage", message()))[0] == 429
    assert len(harness.quota.released) == 1
    assert harness.rooms.posted == []


async def test_rooms_service_that_is_away_costs_nothing(harness: EdgeHarness) -> None:
    harness.rooms.failure = CallboardError(ErrorCode.BUS_UNAVAILABLE, "No answer.")
    status, body = await post(harness, "/ait/postMessage", message())
    assert (status, body) == (503, {"error": "No answer."})
    assert len(harness.quota.released) == 2


async def test_conversation_keeps_its_model_and_instructions(harness: EdgeHarness) -> None:
    start = {"model": "owl", "system_instructions": "Be kind.", "options": {"num_predict": 12}, "username": "Ada"}
    status, body = await post(harness, "/conversation/start", start)
    assert status == 200
    key = body["conversation_key"]
    said = {"conversation_key": key, "message": "Hello.", "message_id": "m-1"}
    status, accepted = await post(harness, "/conversation/postMessage", said)
    assert (status, accepted["conversation_key"], accepted["message_id"]) == (425, key, "m-1")
    turn = harness.rooms.posted[0]
    assert turn.request is not None
    assert (turn.request.messages[0].content, turn.request.max_output_tokens) == ("Be kind.", 12)
    poll = {"conversation_key": key, "message_id": "m-1"}
    status, waiting = await get(harness, "/conversation/getMessageResponse", **poll)
    assert (status, waiting["conversation_key"]) == (425, key)
    harness.rooms.end_turn(pond(harness, key, "conversation"), answered(turn.id, "Hi."))
    status, found = await get(harness, "/conversation/getMessageResponse", **poll)
    assert (status, found) == (200, {"message_id": "m-1", "conversation_key": key, "response": "Hi."})
    assert (await post(harness, "/conversation/start", {**start, "model": "none"}))[0] == 400


async def test_unknown_conversation_is_400_after_the_limit(harness: EdgeHarness) -> None:
    said = {"conversation_key": "none", "message": "Hello.", "message_id": "m-1"}
    status, body = await post(harness, "/conversation/postMessage", said)
    assert (status, list(body)) == (400, ["message"])
    poll = {"conversation_key": "none", "message_id": "m-1"}
    assert (await get(harness, "/conversation/getMessageResponse", **poll))[0] == 400
    harness.quota.refusal = REFUSED
    assert (await post(harness, "/conversation/postMessage", said))[0] == 429


async def test_single_message_is_asked_once_and_fetched_by_its_own_id(harness: EdgeHarness) -> None:
    assert (await get(harness, "/generate/getMessageResponse", message_id="m-1"))[0] == 425
    asked = {"message_id": "m-1", "message": "Hello.", "system_instructions": "Be brief.", "options": {}}
    status, body = await post(harness, "/generate/postMessage", asked)
    assert (status, body["message_id"]) == (425, "m-1")
    job = await harness.jobs.next_chat()
    assert [one.role for one in job.request.messages] == ["system", "user"]
    assert (await get(harness, "/generate/getMessageResponse", message_id="m-1"))[0] == 425
    harness.replies.results[job.request_id] = answered(job.request_id, "Hi.")
    assert await get(harness, "/generate/getMessageResponse", message_id="m-1") == (
        200,
        {"message_id": "m-1", "response": "Hi."},
    )
    assert (await post(harness, "/generate/postMessage", {**asked, "model": "none"}))[0] == 400
    harness.quota.refusal = REFUSED
    assert (await post(harness, "/generate/postMessage", {**asked, "model": "none"}))[0] == 400
    assert (await post(harness, "/generate/postMessage", asked))[0] == 429


def translation(**over: Any) -> dict[str, Any]:
    body = {
        "session_key": "bridge",
        "message": "Good morning.",
        "source_language": "English",
        "target_language": "español",
        "message_id": "t-1",
        "model": "",
        "audio_voice": "",
        "audio_model": "",
        "audio_instructions": "",
    }
    return {**body, **over}


async def test_translation_is_polled_with_its_original() -> None:
    async with running() as harness:
        status, accepted = await post(harness, "/translation/translate", translation())
        assert (status, accepted["status"]) == (425, "processing")
        turn = harness.rooms.posted[0]
        assert turn.remembers is False
        assert turn.request is not None
        assert "from English into Spanish" in turn.request.messages[0].content
        query = {"session_key": "bridge", "message_id": "t-1"}
        assert (await get(harness, "/translation/getTranslation", **query))[0] == 425
        harness.rooms.end_turn(pond(harness, "bridge", "translation"), answered(turn.id, "Buenos días."))
        assert await get(harness, "/translation/getTranslation", **query) == (
            200,
            {
                "message_id": "t-1",
                "original_message": "Good morning.",
                "source_language": "English",
                "target_language": "español",
                "translated_text": "Buenos días.",
            },
        )
        status, body = await post(harness, "/translation/translate", translation())
        assert (status, body["message_id"]) == (400, "t-1")
        assert (await get(harness, "/translation/getTranslation", session_key="x", message_id="t"))[0] == 400


async def test_long_translation_is_shortened_to_what_a_script_can_read() -> None:
    async with running() as harness:
        await post(harness, "/translation/translate", translation(message='"' * 15_000))
        turn = harness.rooms.posted[0]
        harness.rooms.end_turn(pond(harness, "bridge", "translation"), answered(turn.id, "Buenos días. " * 900))
        query = {"session_key": "bridge", "message_id": "t-1"}
        async with harness.session.get(harness.url + "/translation/getTranslation", params=query) as reply:
            raw = await reply.read()
        assert len(raw) <= MAX_ANSWER_BYTES
        body = json.loads(raw)
        assert body["message_id"] == "t-1"
        assert body["translated_text"].startswith("Buenos días.")
        assert body["original_message"].endswith("…")


async def test_translation_is_spoken_by_a_voice_of_the_language_or_not_at_all() -> None:
    over = {"tts": {"pools": {"booth": {"backend": "fake"}}, "models": {"parrot": {"pool": "booth"}}}}
    async with running(over) as harness:
        voices = (OfferedVoice(name="af_heart", language="en-us"), OfferedVoice(name="ef_dora", language="es"))
        offered = OfferedModel(name="parrot", voices=voices)
        info = WorkerInfo(id="w", service="tts", pool="booth", backend="fake", models=(offered,), slots=1, at=0)
        harness.known.announce(info)
        _status, spoken = await post(harness, "/translation/translate", translation())
        assert spoken["stream_url"].endswith("/translation/stream/bridge")
        _status, silent = await post(
            harness, "/translation/translate", translation(target_language="Deutsch", message_id="t-2")
        )
        assert (silent["stream_url"], "German" in silent["info"]) == ("", True)
        first, second = harness.rooms.posted
        assert first.speech is not None
        assert (first.speech.request.voice, second.speech) == ("ef_dora", None)


async def test_voice_whose_language_nobody_knows_speaks_any() -> None:
    over = {"tts": {"models": {"parrot": {"pool": "booth", "voices": ["nova"], "default_voice": "nova"}}}}
    async with running({"tts": {"pools": {"booth": {"backend": "fake"}}, **over["tts"]}}) as harness:
        await post(harness, "/translation/translate", translation(target_language="Deutsch"))
        speech = harness.rooms.posted[0].speech
        assert speech is not None
        assert speech.request.voice == "nova"


async def test_order_of_checks_of_a_translation(harness: EdgeHarness) -> None:
    wrong: dict[str, Any] = {"session_key": "a b", "audio_voice": "none", "model": "none"}
    assert "error" in (await post(harness, "/translation/translate", translation(**wrong)))[1]
    del wrong["session_key"]
    assert "allowed_voices" in (await post(harness, "/translation/translate", translation(**wrong)))[1]
    del wrong["audio_voice"]
    harness.quota.refusal = REFUSED
    assert (await post(harness, "/translation/translate", translation(**wrong)))[0] == 429
    harness.quota.refusal = None
    status, body = await post(harness, "/translation/translate", translation(**wrong))
    assert (status, set(body)) == (400, {"error", "available_models"})


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/ait/nothing", 401),
        ("POST", "/chat_models", 401),
        ("DELETE", "/ait/postMessage", 401),
        ("GET", "/ait/postMessage", 401),
        ("GET", "/chat_models/", 401),
        ("GET", "/conversation", 401),
        ("HEAD", "/chat_models", 405),
    ],
)
async def test_paths_that_lead_nowhere(harness: EdgeHarness, method: str, path: str, status: int) -> None:
    async with harness.session.request(method, harness.url + path) as reply:
        body = await reply.read()
        assert reply.status == status
    if method != "HEAD":
        assert list(json.loads(body)) == ["message"]


async def test_owner_counts_for_himself_where_the_simulator_is_trusted(harness: EdgeHarness) -> None:
    owners = ("0b0ab0a0-0000-4000-8000-000000000001", "0b0ab0a0-0000-4000-8000-000000000002", "not a key", "")
    for n, owner in enumerate(owners):
        headers = {"X-SecondLife-Owner-Key": owner} if owner else {}
        assert (await post(harness, "/ait/postMessage", message(message_id=f"m-{n}"), **headers))[0] == 425
    addresses = [one.address for one in harness.quota.asked][::2]
    assert addresses[2:] == ["127.0.0.1", "127.0.0.1"]
    assert len(set(addresses)) == 3
    assert all(address is not None and address.startswith("fd") for address in addresses[:2])


async def test_owner_of_a_stranger_counts_for_nothing() -> None:
    async with running() as harness:
        owner = {"X-SecondLife-Owner-Key": "0b0ab0a0-0000-4000-8000-000000000001"}
        assert (await post(harness, "/ait/postMessage", message(), **owner))[0] == 425
        assert {one.address for one in harness.quota.asked} == {"127.0.0.1"}


async def test_strangers_are_offered_what_their_tier_has() -> None:
    tiers = {"standard": {"models": ["wren/tiny", "parrot"], "voices": ["ann"]}, "anonymous": {}}
    async with running({"quota": {"tiers": tiers}}) as harness:
        assert (await get(harness, "/chat_models"))[1]["chat_models"] == ["wren/tiny"]
        status, body = await post(harness, "/ait/postMessage", message(model="owl"))
        assert (status, body["available_models"]) == (400, ["wren/tiny"])
        assert (await post(harness, "/ait/postMessage", message(model="wren/tiny")))[0] == 425
        status, _headers, raw = await harness.post("/v1/chat/completions", asking())
        assert (status, json.loads(raw)["error"]["code"]) == (404, "model_not_found")
        async with harness.session.get(harness.url + "/v1/models") as reply:
            assert [one["id"] for one in (await reply.json())["data"]] == ["wren/tiny", "parrot"]

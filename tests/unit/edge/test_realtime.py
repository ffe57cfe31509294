"""`/v1/realtime` over a real socket and the fakes: who may connect, what is refused, and what bounds a session."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import numpy as np
import openai
import pytest
from openai.types.beta.realtime import RealtimeServerEvent as BetaEvent
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter

from callboard_contracts.accounts import key_digest
from callboard_contracts.characters import Character
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.speech import SegmentInfo, SpeechEnd
from tests.support.sounds import silence, tone
from tests.unit.edge.harness import EdgeHarness, frames, heard, running

pytestmark = pytest.mark.unit

MODEL: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
BETA_MODEL: TypeAdapter[Any] = TypeAdapter(BetaEvent)
BETA = {"OpenAI-Beta": "realtime=v1"}
TEXT_ONLY = {"type": "session.update", "session": {"type": "realtime", "output_modalities": ["text"]}}
SOUND = base64.b64encode(b"\x10\x00" * 12_000).decode()
MANUAL = {
    "type": "session.update",
    "session": {
        "type": "realtime",
        "output_modalities": ["text"],
        "audio": {"input": {"turn_detection": None, "transcription": {"model": "whisper-1"}}},
    },
}


class Client:
    """One client's side of a session; every event is checked against the official types."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, model: TypeAdapter[Any]) -> None:
        self.socket = socket
        self._model = model

    async def send(self, *events: dict[str, Any]) -> None:
        """Sends events."""
        for event in events:
            await self.socket.send_str(json.dumps(event))

    async def next(self) -> dict[str, Any]:
        """The next event."""
        event = json.loads(await self.socket.receive_str(timeout=5))
        # The beta's types know OpenAI's own models only.
        ours = event.get("session", {}).get("model") == "owl"
        self._model.validate_python({**event, "session": {**event["session"], "model": None}} if ours else event)
        return event

    async def until(self, kind: str) -> list[dict[str, Any]]:
        """The events up to one of a type."""
        found: list[dict[str, Any]] = []
        while not found or found[-1]["type"] != kind:
            found.append(await self.next())
        return found


@asynccontextmanager
async def connected(
    harness: EdgeHarness, query: str = "?model=owl", headers: dict[str, str] | None = None, **options: Any
) -> AsyncGenerator[Client]:
    """A session whose first event was read."""
    url = f"{harness.url}/v1/realtime{query}"
    async with harness.session.ws_connect(url, headers=headers, **options) as socket:
        client = Client(socket, BETA_MODEL if headers and "OpenAI-Beta" in headers else MODEL)
        assert (await client.next())["type"] == "session.created"
        assert (await client.next())["type"] == "conversation.created"
        yield client


def saying(text: str) -> dict[str, Any]:
    """An item with a text of the user's."""
    part = {"type": "input_text", "text": text}
    return {"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": [part]}}


async def test_text_is_answered_with_text(harness: EdgeHarness) -> None:
    worker = harness.plays(frames("Good ", "evening."))
    async with connected(harness) as client:
        await client.send(TEXT_ONLY, saying("Hello."), {"type": "response.create"})
        seen = await client.until("response.done")
        assert [event["type"] for event in seen] == [
            "session.updated",
            "conversation.item.added",
            "conversation.item.done",
            "response.created",
            "response.output_item.added",
            "conversation.item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "conversation.item.done",
            "response.output_item.done",
            "response.done",
        ]
        done = seen[-1]["response"]
        assert (done["status"], done["usage"]["total_tokens"]) == ("completed", 9)
        assert done["output"][0]["content"] == [{"type": "output_text", "text": "Good evening."}]
    job = await worker
    assert [(one.role, one.content) for one in job.request.messages] == [("user", "Hello.")]


async def test_beta_client_gets_the_beta_names(harness: EdgeHarness) -> None:
    harness.plays(frames("Good evening."))
    async with connected(harness, headers=BETA) as client:
        await client.send({"type": "session.update", "session": {"modalities": ["text"], "instructions": "Be kind."}})
        updated = await client.next()
        assert (updated["session"]["modalities"], updated["session"]["input_audio_format"]) == (["text"], "pcm16")
        await client.send(saying("Hello."), {"type": "response.create"})
        kinds = [event["type"] for event in await client.until("response.done")]
        assert "response.text.delta" in kinds
        assert "conversation.item.created" in kinds
        assert not {"response.output_text.delta", "conversation.item.done"} & set(kinds)


async def test_sound_is_written_down_and_then_answered(harness: EdgeHarness) -> None:
    listener, worker = harness.hears(heard("Who are", "you?")), harness.plays(frames("An owl."))
    async with connected(harness) as client:
        append = {"type": "input_audio_buffer.append", "audio": SOUND}
        await client.send(MANUAL, append, {"type": "input_audio_buffer.commit"}, {"type": "response.create"})
        seen = await client.until("response.done")
        kinds = [event["type"] for event in seen]
        assert kinds.index("input_audio_buffer.committed") < kinds.index("response.created")
        deltas = [event["delta"] for event in seen if event["type"].endswith("transcription.delta")]
        (completed,) = [event for event in seen if event["type"].endswith("transcription.completed")]
        assert "".join(deltas) == completed["transcript"] == "Who are you?"
        assert completed["usage"] == {"type": "duration", "seconds": 0.5}
    assert (await listener).request.model == "ear"
    assert [(one.role, one.content) for one in (await worker).request.messages] == [("user", "Who are you?")]
    assert harness.figure("callboard_edge_realtime_first_text_seconds_count", turn="client") == 1
    assert harness.figure("callboard_edge_realtime_transcript_seconds_count", turn="client") == 1
    await harness.all_closed()
    assert harness.jobs.sounds == {}


async def test_tools_are_called_and_their_output_is_read(harness: EdgeHarness) -> None:
    async with connected(harness) as client:
        tool = {"type": "function", "name": "look", "description": "Looks.", "parameters": {"type": "object"}}
        item = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"}
        await client.send(
            {"type": "session.update", "session": {"output_modalities": ["text"], "tools": [tool]}},
            saying("Look."),
            {"type": "conversation.item.create", "item": item},
            {
                "type": "conversation.item.create",
                "item": {"type": "function_call_output", "call_id": "call_1", "output": "Dark."},
            },
            {"type": "response.create"},
        )
        job = await harness.worker(frames("It is dark."))
        await client.until("response.done")
    assert [tool.name for tool in job.request.tools] == ["look"]
    assert [one.role for one in job.request.messages] == ["user", "assistant", "tool"]


async def test_bad_events_are_told_and_the_session_goes_on(harness: EdgeHarness) -> None:
    async with connected(harness) as client:
        bad: list[tuple[Any, str, str | None]] = [
            (b"\x00\x01", "invalid_request", None),
            ("{not json", "invalid_request", None),
            ("[1]", "invalid_request", None),
            ('{"event_id": "a"}', "invalid_request", "type"),
            ('{"type": "session.dance", "event_id": "b"}', "invalid_request", "type"),
            ('{"type": "input_audio_buffer.append", "audio": "!!"}', "invalid_request", "audio"),
            ('{"type": "input_audio_buffer.commit"}', "input_audio_buffer_commit_empty", None),
            ('{"type": "response.cancel"}', "response_cancel_not_active", "response_id"),
            ('{"type": "conversation.item.delete", "item_id": "x"}', "item_delete_invalid_item_id", "item_id"),
            ('{"type": "conversation.item.retrieve", "item_id": "x"}', "item_retrieve_invalid_item_id", "item_id"),
            ('{"type": "conversation.item.truncate", "item_id": "x"}', "invalid_request", "content_index"),
            ('{"type": "session.update", "session": {"voice": "nobody"}}', "unknown_voice", "voice"),
            ('{"type": "session.update", "session": {"type": "transcription"}}', "unsupported", "session.type"),
            (
                '{"type": "session.update", "session": {"max_output_tokens": -1}}',
                "invalid_request",
                "session.max_output_tokens",
            ),
            ('{"type": "x", "pad": "' + "y" * 3_000_000 + '"}', "body_too_large", None),
        ]
        for message, code, param in bad:
            send: Any = client.socket.send_bytes if isinstance(message, bytes) else client.socket.send_str
            await send(message)
            event = await client.next()
            assert (event["type"], event["error"]["code"], event["error"]["param"]) == ("error", code, param), message
        await client.send({"type": "response.cancel", "event_id": "mine"})
        assert (await client.next())["error"]["event_id"] == "mine"
        await client.send(TEXT_ONLY)
        assert (await client.next())["type"] == "session.updated"
        await client.socket.send_str("y" * 5_000_000)
        assert (await client.socket.receive(timeout=5)).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
        assert client.socket.close_code == 1009
    assert (harness.quota.asked, harness.jobs.queued) == ([], 0)


async def test_refusals_come_before_the_socket_opens(harness: EdgeHarness) -> None:
    async def status(query: str = "?model=owl", **headers: str) -> int:
        try:
            async with harness.session.ws_connect(f"{harness.url}/v1/realtime{query}", headers=headers):
                return 101
        except aiohttp.WSServerHandshakeError as error:
            return error.status

    assert await status("?model=nobody") == 404
    assert await status(**{"Sec-WebSocket-Protocol": "chat"}) == 400
    async with harness.session.get(f"{harness.url}/v1/realtime?model=owl") as reply:
        assert (reply.status, (await reply.json())["error"]["code"]) == (400, "invalid_request")
    harness.quota.require_key = True
    assert await status() == 401


async def test_page_puts_its_key_into_a_subprotocol(harness: EdgeHarness) -> None:
    worker = harness.plays(frames("Good evening."))
    protocols = ["realtime", "openai-insecure-api-key.cb_secret"]
    async with connected(harness, protocols=protocols) as client:
        assert client.socket.protocol == "realtime"
        await client.send(TEXT_ONLY, saying("Hello."), {"type": "response.create"})
        await client.until("response.done")
    await worker
    assert harness.quota.asked[0].key_digest == key_digest("cb_secret")


async def test_pages_of_other_origins_are_refused() -> None:
    async with running({"edge": {"cors_origins": ("https://owl.example",)}}) as harness:
        for origin, opens in (("https://evil.example", False), ("https://owl.example", True), (harness.url, True)):
            try:
                async with connected(harness, headers={"Origin": origin}):
                    assert opens
            except aiohttp.WSServerHandshakeError:
                assert not opens


async def test_sessions_are_counted_and_bounded() -> None:
    limits = {"max_sessions": 3, "max_sessions_per_caller": 2, "max_session_s": 1.0}
    async with running({"realtime": limits}) as harness:
        async with connected(harness) as first, connected(harness):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                async with connected(harness):
                    pass
            assert refused.value.status == 429
            assert harness.figure("callboard_edge_realtime_sessions") == 2
            # Nobody is listened to for ever.
            assert (await first.next())["error"]["code"] == "deadline_exceeded"
            assert (await first.socket.receive(timeout=5)).type is aiohttp.WSMsgType.CLOSE
            assert first.socket.close_code == 1001
        async with asyncio.timeout(5):
            while harness.figure("callboard_edge_realtime_sessions"):
                await asyncio.sleep(0.01)
        async with connected(harness):
            pass
        assert harness.figure("callboard_edge_clients_gone_total", route="realtime") == 0


async def test_refusal_of_quota_ends_a_response_and_costs_nothing(harness: EdgeHarness) -> None:
    async with connected(harness) as client:
        harness.quota.refusal = ErrorInfo(code=ErrorCode.QUOTA_EXCEEDED, message="Used up.")
        await client.send(TEXT_ONLY, saying("Hello."), {"type": "response.create"})
        done = (await client.until("response.done"))[-1]["response"]
        assert (done["status"], done["status_details"]["error"]["code"]) == ("failed", "rate_limit_exceeded")
    assert harness.jobs.queued == 0


async def test_client_that_is_gone_takes_its_jobs_with_it(harness: EdgeHarness) -> None:
    async with connected(harness) as client:
        await client.send(TEXT_ONLY, saying("Hello."), {"type": "response.create"})
        job = await harness.worker(frames("Good ", end=None))
        await client.until("response.output_text.delta")
        connection: Any = client.socket._conn  # pyright: ignore[reportPrivateUsage]
        connection.transport.abort()
        await harness.all_closed()
    assert harness.jobs.cancelled == [job.request_id]


async def test_edge_that_stops_finishes_the_answer_and_says_goodbye(harness: EdgeHarness) -> None:
    async with connected(harness) as client:
        await client.send(TEXT_ONLY, saying("Hello."), {"type": "response.create"})
        job = await harness.worker(frames("Good ", end=None))
        await client.until("response.output_text.delta")
        harness.live_sessions.stopping.set()
        for frame in frames("evening.", first=1):
            harness.replies.send(job.request_id, frame)
        assert (await client.until("response.done"))[-1]["response"]["status"] == "completed"
        assert (await client.socket.receive(timeout=5)).type is aiohttp.WSMsgType.CLOSE
        assert client.socket.close_code == 1001


async def test_official_client_hears_the_answer_in_both_forms(harness: EdgeHarness) -> None:
    pytest.importorskip("websockets", reason="the realtime client needs it")
    root = f"{harness.url}/v1"
    # The beta's client takes TLS for granted where nothing is said of it.
    sockets = root.replace("http", "ws", 1)
    async with openai.AsyncOpenAI(base_url=root, websocket_base_url=sockets, api_key="none", max_retries=0) as client:
        forms: Any = ((client.realtime.connect, "output_audio"), (client.beta.realtime.connect, "audio"))
        for connect, name in forms:
            playing = asyncio.ensure_future(_speak(harness))
            async with connect(model="owl") as connection:
                opened: Any = await connection.recv()
                await connection.response.create(response={"instructions": "Speak."})
                events: list[Any] = []
                async with asyncio.timeout(10):
                    while not events or events[-1].type != "response.done":
                        events.append(await connection.recv())
            await playing
            deltas = [event.delta for event in events if event.type == f"response.{name}.delta"]
            assert b"".join(map(base64.b64decode, deltas)) == b"\1\0" * 20_000
            assert len(deltas) == 2
            assert events[-1].response.status == "completed"
            assert opened.session.id.startswith("sess_")
    await harness.all_closed()
    assert not harness.jobs.cancelled


async def test_who_speaks_into_an_answer_cancels_both_of_its_jobs(harness: EdgeHarness) -> None:
    async with connected(harness) as client:
        await client.send({"type": "response.create", "response": {"instructions": "Speak."}})
        speech = await harness.jobs.next_speech()
        chat = await harness.worker(frames("Once upon ", end=None))
        harness.replies.say(speech.request_id, 0, SegmentInfo(attempt=1, piece=0, offset_bytes=0), b"\1\0" * 2400)
        await client.until("response.output_audio.delta")
        sound = np.repeat(np.concatenate((silence(0.2), tone(300, 0.4))), 3)[::2].astype("<i2").tobytes()
        await client.send({"type": "input_audio_buffer.append", "audio": base64.b64encode(sound).decode()})
        done = (await client.until("response.done"))[-1]["response"]
        assert (done["status"], done["status_details"]["reason"]) == ("cancelled", "turn_detected")
        assert harness.figure("callboard_edge_realtime_interruptions_total") == 1
        await harness.all_closed()
    assert sorted(harness.jobs.cancelled) == sorted([chat.request_id, speech.request_id])


async def test_what_was_heard_of_an_interrupted_answer_is_for_its_character_to_remember(harness: EdgeHarness) -> None:
    mira = Character(name="mira", id="1a2b", display_name="Mira", prompt="Be {name}.")
    harness.characters.take(mira.name, mira, 1)
    async with connected(harness, "?model=character/mira", {"X-Callboard-Speaker": "Ada"}) as client:
        for count, end in ((1, "response.cancel"), (2, "")):
            await client.send(TEXT_ONLY, saying("The mill?"), {"type": "response.create"})
            async with asyncio.timeout(20):
                while len(harness.rooms.posted) < count:
                    await asyncio.sleep(0.005)
            if count == 1:
                harness.replies.send(harness.rooms.posted[0].id, frames("Well, the mill ", end=None)[0])
                await client.until("response.output_text.delta")
            await client.send(*([{"type": end}] if end else []))
            if end:
                await client.until("response.done")
    await harness.all_closed()
    # The second was left before anything was said.
    assert harness.rooms.heard == ["Well, the mill ", ""]


async def _speak(harness: EdgeHarness) -> None:
    """Writes an answer and speaks it."""
    speech = await harness.jobs.next_speech()
    await harness.worker(frames("Good evening."))
    ends = SpeechEnd(reason="stop", audio_ms=833)
    harness.replies.say(speech.request_id, 0, SegmentInfo(attempt=1, piece=0, offset_bytes=0), b"\1\0" * 20_000)
    harness.replies.say(speech.request_id, 1, SegmentInfo(attempt=1, piece=1, offset_bytes=0, end=ends), b"")
    harness.jobs.finish(speech.request_id)

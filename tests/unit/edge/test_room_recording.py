"""Recordings of rooms: one MP3 with tags, and the dialogue with times."""

import io
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import av
import pytest

from callboard_contracts.rooms import EndedTurn, Room, RoomMessage, secret_digest
from callboard_contracts.speech import AudioSegment, SegmentInfo, SpeechEnd, UtteranceStart
from callboard_edge.domain.recording import Cue
from callboard_edge.http.room_recording import webvtt
from tests.support.room_speech import opened_room, sounds, tone, utterance_name
from tests.unit.edge.harness import EdgeHarness, running
from tests.unit.edge_media.clips import decode

pytestmark = pytest.mark.unit

SECRET = "open sesame"


@asynccontextmanager
async def edge(*, records: bool = True, digest: str | None = None) -> AsyncGenerator[EdgeHarness]:
    """An edge with one open room, at a site that keeps recordings."""
    settings: dict[str, Any] = {"rooms": {"recording_life_s": 3600} if records else {}}
    async with running(settings) as harness:
        room = opened_room("ait", "pond", digest)
        harness.rooms.rooms[room.id] = room
        yield harness


ROOM = opened_room("ait", "pond").id


def say(
    harness: EdgeHarness,
    number: int,
    frequency_hz: float,
    speaker: str,
    pieces: tuple[str, ...] = (),
    *,
    digest: str | None = None,
    name: str | None = None,
) -> None:
    """Speaks an utterance of two pieces, each half a second in two segments."""
    name = name or utterance_name(number)
    start = UtteranceStart(number=number, speaker=speaker, expires_at=time.time() + 60, secret_digest=digest)
    harness.audio.publish(ROOM, name, start)
    for n in range(4):
        text = pieces[n // 2] if pieces and n % 2 == 0 else ""
        info = SegmentInfo(attempt=1, piece=n // 2, offset_bytes=n % 2 * 12_000, piece_done=n % 2 == 1, text=text)
        harness.audio.publish(ROOM, name, AudioSegment(n, info, tone(0.25, frequency_hz, 0.25 * n)))
    end = SegmentInfo(attempt=1, piece=2, offset_bytes=0, end=SpeechEnd(reason="stop", audio_ms=1000))
    harness.audio.publish(ROOM, name, AudioSegment(4, end, b""))


async def fetched(harness: EdgeHarness, name: str, **given: str) -> tuple[int, str, bytes]:
    """A file of the recording: the status, the type and the body."""
    async with harness.session.get(f"{harness.url}/ait/recording/{name}", headers=given) as reply:
        return reply.status, reply.content_type, await reply.read()


async def test_all_utterances_in_order_with_pauses_and_tags() -> None:
    async with edge() as harness:
        say(harness, 2, 800, "Toad")
        say(harness, 1, 400, "Frog")
        say(harness, 3, 1200, "Frog")
        status, content_type, body = await fetched(harness, "pond.mp3")
    assert (status, content_type) == (200, "audio/mpeg")
    heard = sounds(decode("mp3", body).samples, [400, 800, 1200])
    assert [one.frequency_hz for one in heard] == [400, 800, 1200]
    assert all(one.seconds == pytest.approx(1.0, abs=0.04) for one in heard)
    assert heard[1].begin_s - heard[0].end_s == pytest.approx(0.4, abs=0.04)
    with av.open(io.BytesIO(body), format="mp3") as file:
        found = dict(file.metadata)
    assert (found["title"], found["album"], found["artist"], found["genre"]) == (
        "pond",
        "pond",
        "AIT Frog, Toad",
        "Speech",
    )


async def test_dialogue_has_the_times_of_the_sound() -> None:
    async with edge() as harness:
        say(harness, 1, 400, "Frog", ("The lily\nopened.", "I <saw> it & smiled."))
        say(harness, 2, 800, "Toad", ("Did you?", "Really?"))
        status, content_type, body = await fetched(harness, "pond.vtt")
    assert (status, content_type) == (200, "text/vtt")
    assert body.decode() == (
        "WEBVTT\n"
        "\n00:00:00.000 --> 00:00:00.500\n<v Frog>The lily opened.\n"
        "\n00:00:00.500 --> 00:00:01.000\n<v Frog>I &lt;saw&gt; it &amp; smiled.\n"
        "\n00:00:01.400 --> 00:00:01.900\n<v Toad>Did you?\n"
        "\n00:00:01.900 --> 00:00:02.400\n<v Toad>Really?\n"
    )


async def test_dialogue_of_sound_without_text_is_what_the_room_remembers() -> None:
    async with edge() as harness:
        room = harness.rooms.rooms[ROOM]
        ended = EndedTurn(id="t1", message_id="m1", number=1, at=time.time())
        said = RoomMessage(role="assistant", speaker="Frog", text="The lily opened.", turn="t1", at=time.time())
        harness.rooms.rooms[ROOM] = room.model_copy(update={"ended": (ended,), "messages": (said,)})
        say(harness, 1, 400, "Frog")
        _status, _type, body = await fetched(harness, "pond.vtt")
    assert body.decode() == "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n<v Frog>The lily opened.\n"


async def test_room_that_is_over_can_still_be_fetched() -> None:
    async with edge() as harness:
        say(harness, 1, 400, "Frog")
        harness.rooms.rooms.clear()
        assert (await fetched(harness, "pond.mp3"))[0] == 200


async def test_claimed_room_asks_for_its_secret_also_when_it_is_over() -> None:
    digest = secret_digest(SECRET)
    async with edge(digest=digest) as harness:
        say(harness, 1, 400, "Frog", digest=digest)
        for _ in range(2):
            assert (await fetched(harness, "pond.mp3"))[0] == 403
            assert (await fetched(harness, "pond.vtt", **{"X-Room-Secret": "no"}))[0] == 403
            assert (await fetched(harness, "pond.mp3", **{"X-Room-Secret": SECRET}))[0] == 200
            harness.rooms.rooms.clear()


async def test_stranger_who_opens_a_room_anew_hears_only_his_own() -> None:
    async with edge() as harness:
        say(harness, 1, 400, "Frog", digest=secret_digest(SECRET), name="00000001-old")
        say(harness, 2, 400, "Frog", digest=secret_digest(SECRET), name="00000002-old")
        say(harness, 1, 800, "Toad", name="00000001-new")
        _status, _type, body = await fetched(harness, "pond.mp3")
        _status, _type, owners = await fetched(harness, "pond.mp3", **{"X-Room-Secret": SECRET})
    assert [one.frequency_hz for one in sounds(decode("mp3", body).samples, [400, 800])] == [800]
    # What was said before comes first, although the new room counts from the beginning again.
    assert [one.frequency_hz for one in sounds(decode("mp3", owners).samples, [400, 800])] == [400, 400, 800]


async def test_nothing_recorded_and_sites_that_record_nothing() -> None:
    async with edge() as harness:
        assert (await fetched(harness, "pond.mp3"))[0] == 404
        assert (await fetched(harness, "pond.vtt"))[0] == 404
    async with edge(records=False) as harness:
        say(harness, 1, 400, "Frog")
        status, _type, body = await fetched(harness, "pond.mp3")
        assert (status, b"records no rooms" in body) == (404, True)


async def test_head_tells_the_type_alone() -> None:
    async with edge() as harness:
        say(harness, 1, 400, "Frog")
        async with harness.session.head(f"{harness.url}/ait/recording/pond.mp3") as reply:
            assert (reply.status, reply.content_type) == (200, "audio/mpeg")


def test_long_times() -> None:
    cue = Cue(3_723_004, 360_000_000, "Frog", "x")
    assert "01:02:03.004 --> 100:00:00.000" in webvtt([cue])


def test_rooms_admit_their_secret() -> None:
    room = Room(id="r", kind="ait", key="k", created_at=0, active_at=0, secret_digest=secret_digest(SECRET))
    assert (room.admits(SECRET), room.admits("x"), room.admits(None)) == (True, False, False)

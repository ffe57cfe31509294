"""Requests for models whose pool has no worker: how long they wait, what their clients see, and what is held."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import aiohttp
import pytest

from callboard_contracts.chat import ChatFrame
from callboard_contracts.workers import PoolRecord, WorkerInfo
from callboard_edge.domain import job_stream, text_stream
from callboard_edge.domain.text_stream import TextStream
from callboard_edge.http import narrated_responder, text_batch, text_responder
from tests.unit.edge.harness import EdgeHarness, asking, frames, read_events, running, said

pytestmark = pytest.mark.unit

CHAT = "/v1/chat/completions"
WORKER = WorkerInfo(id="w", service="chat", pool="main", backend="fake", slots=1, at=0)


def pool(**over: Any) -> dict[str, Any]:
    """Settings of the chat pool."""
    return {"chat": {"pools": {"main": {"backend": "fake", **over}}}}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes clients hear a sign of life soon."""
    for module in (text_stream, text_responder, text_batch, narrated_responder):
        monkeypatch.setattr(module, "KEEP_ALIVE_S", 0.05)
    monkeypatch.setattr(text_responder, "FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(job_stream, "CANCEL_GRACE_S", 0.1)


async def given_back(harness: EdgeHarness, count: int = 1) -> None:
    """Waits until everything that was held has been given back, and its jobs are gone."""
    await harness.all_closed()
    assert len(harness.quota.asked) == len(harness.quota.released) == count
    assert (harness.quota.held, harness.jobs.queued) == ({}, 0)


@pytest.mark.usefixtures("quick")
async def test_pool_that_does_not_wake_refuses_with_a_time_to_return_and_costs_nothing() -> None:
    async with running(pool(may_sleep=True, longest_wake_s=0.3)) as harness:
        harness.known.mark_loaded(0)
        # Nothing was written before, so the status is still free; a sign of life would have decided it.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(text_stream, "KEEP_ALIVE_S", 20.0)
            status, headers, body = await harness.post(CHAT, asking())
        assert (status, json.loads(body)["error"]["code"]) == (503, "no_worker")
        assert headers["Retry-After"] == "15"
        await given_back(harness)
        status, _, body = await harness.post(CHAT, asking(stream=True))
        assert status == 200
        assert body.startswith(b": keep-alive\n\n")
        assert read_events(body.replace(b": keep-alive\n\n", b""))[-1]["error"]["code"] == "no_worker"
        await given_back(harness, 2)


async def test_every_request_may_wait_for_the_wake_and_a_worker_answers_them_all() -> None:
    async with running(pool(may_sleep=True, longest_wake_s=20.0)) as harness:
        harness.known.mark_loaded(0)
        asked = [asyncio.ensure_future(harness.post(CHAT, asking())) for _ in range(3)]
        async with asyncio.timeout(20):
            while harness.jobs.queued < 3:
                await asyncio.sleep(0.01)
        harness.known.announce(WORKER)
        for _ in asked:
            await harness.worker(frames("x"))
        assert [status for status, _, _ in await asyncio.gather(*asked)] == [200] * 3


@pytest.mark.usefixtures("quick")
async def test_pool_whose_workers_left_is_waited_for_and_then_refused_at_once() -> None:
    async with running(pool(longest_wake_s=0.5)) as harness:
        harness.known.mark_loaded(0)
        harness.known.record("chat", "main", PoolRecord(last_started_at=0))
        harness.known.announce(WORKER)
        harness.known.forget("w")
        _, _, body = await harness.post(CHAT, asking(stream=True))
        assert b"no_worker" in body
        await given_back(harness)
        status, headers, body = await harness.post(CHAT, asking())
        assert (status, json.loads(body)["error"]["code"], headers["Retry-After"]) == (503, "no_worker", "5")
        assert len(harness.quota.asked) == 1
        harness.known.announce(WORKER)
        await harness.jobs.next_chat()  # The one that was given up.
        harness.plays(frames("x"))
        assert (await harness.post(CHAT, asking()))[0] == 200


async def test_request_before_the_first_announcements_waits_for_them() -> None:
    async with running() as harness:
        harness.known.mark_loaded(20.0)
        asked = [asyncio.ensure_future(harness.post(CHAT, asking(stream=stream))) for stream in (False, True)]
        await asyncio.sleep(0.3)
        assert (harness.quota.asked, harness.jobs.queued) == ([], 0)
        harness.known.announce(WORKER)
        for _ in asked:
            await harness.worker(frames("x"))
        assert [status for status, _, _ in await asyncio.gather(*asked)] == [200, 200]
    async with running() as harness:
        harness.known.mark_loaded(0.3)
        status, _, body = await harness.post(CHAT, asking(stream=True))
        assert (status, json.loads(body)["error"]["code"]) == (503, "no_worker")
        await given_back(harness, 0)


@pytest.mark.usefixtures("quick")
async def test_reply_that_a_worker_has_begun_is_never_given_up() -> None:
    async with running(pool(longest_wake_s=0.2)) as harness:
        harness.known.mark_loaded(0)
        harness.known.record("chat", "main", PoolRecord(last_started_at=0))
        harness.known.announce(WORKER)

        async def lost_and_found() -> None:
            job = await harness.jobs.next_chat()
            first, second, end = frames("one ", "two")
            harness.replies.send(job.request_id, first)
            harness.known.forget("w")
            await asyncio.sleep(1.0)
            for frame in (second, end):
                harness.replies.send(job.request_id, frame)
            harness.jobs.finish(job.request_id)

        working = asyncio.ensure_future(lost_and_found())
        _, _, body = await harness.post(CHAT, asking(stream=True))
        await working
        assert said(read_events(body.replace(b": keep-alive\n\n", b""))) == "one two"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("path", "body"),
    [(CHAT, asking()), ("/v1/completions", {"model": "owl", "prompt": ["Hi", "Ho"]})],
    ids=["one reply", "several replies"],
)
async def test_whole_answer_is_kept_alive_by_blanks_while_its_pool_wakes(path: str, body: Any) -> None:
    async with running(pool(may_sleep=True)) as harness:
        harness.known.mark_loaded(0)
        for _ in range(2):
            harness.plays(frames("late"), pause_s=0.2)
        status, headers, answer = await harness.post(path, body)
        assert (status, headers["Content-Type"]) == (200, "application/json")
        assert answer.startswith(b"\n\n")
        assert json.loads(answer)["choices"][0]["finish_reason"] == "stop"
        assert harness.figure("callboard_edge_requests_total", **_whole(path)) == 1
        assert harness.figure("callboard_edge_time_to_first_byte_seconds_count", route=_whole(path)["route"]) == 0


def _whole(path: str) -> dict[str, str]:
    route = "chat_completions" if path == CHAT else "completions"
    return {"route": route, "protocol": "openai", "mode": "whole", "status": "2xx"}


@pytest.mark.usefixtures("quick")
async def test_whole_answer_waits_in_silence_while_a_worker_is_there(harness: EdgeHarness) -> None:
    harness.known.mark_loaded(0)
    harness.known.announce(WORKER)
    harness.plays(frames("late"), pause_s=0.2)
    _, _, answer = await harness.post(CHAT, asking())
    assert answer.startswith(b"{")


@pytest.mark.usefixtures("quick")
async def test_whole_answer_that_fails_after_a_blank_is_cut() -> None:
    async with running(pool(may_sleep=True, longest_wake_s=0.4)) as harness:
        harness.known.mark_loaded(0)
        with pytest.raises(aiohttp.ClientError):
            await harness.post(CHAT, asking())
        await given_back(harness)


async def test_script_is_refused_in_its_own_form_while_no_worker_is_expected() -> None:
    async with running() as harness:
        harness.known.mark_loaded(0)
        body = {
            "join_key": "pond",
            "username": "Ada",
            "message": "Hello?",
            "model": "",
            "system_instructions": "",
            "charactername": "Frog",
            "message_id": "m-1",
            "options": {},
        }
        status, headers, answer = await harness.post("/ait/postMessage", body)
        assert (status, list(json.loads(answer)), headers["Retry-After"]) == (503, ["error"], "5")
        assert harness.quota.asked == []


async def test_frame_without_words_does_not_put_off_the_next_sign_of_life(
    harness: EdgeHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits_s: list[float] = []
    take = TextStream.take

    async def noted(stream: TextStream, wait_s: float) -> Sequence[ChatFrame]:
        waits_s.append(wait_s)
        return await take(stream, wait_s)

    monkeypatch.setattr(TextStream, "take", noted)
    thought = ChatFrame(seq=1, attempt=1, thinking="hm", tokens=1)
    harness.plays([*frames("a", end=None), thought, *frames("b", first=2)], pause_s=0.2)
    await harness.post("/v1/completions", {"model": "owl", "prompt": "Hi", "stream": True})
    # The client is sent no thoughts, so the silence since the last word counts.
    assert waits_s[2] < job_stream.KEEP_ALIVE_S - 0.1


@pytest.mark.usefixtures("quick")
async def test_nothing_but_a_reply_counts_as_the_first_byte(harness: EdgeHarness) -> None:
    harness.plays(frames("late"), pause_s=0.5)
    await harness.post(CHAT, asking(stream=True))
    assert harness.figure("callboard_edge_time_to_first_byte_seconds_sum", route="chat_completions") >= 0.4

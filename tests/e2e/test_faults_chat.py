"""What breaks while a reply streams, and what the client, the engine and the bill see of it."""

import asyncio
import signal
import statistics
import time

import openai
import pytest

from callboard_contracts.quota import UNITS_PER_TOKEN
from tests.e2e.conftest import MakeBoard
from tests.support.clients import HELLO, Reply, connected, script_text
from tests.support.deployment import CHAT_POOL, Deployment, eventually
from tests.support.stub_chat import StubChat, numbered
from tests.support.stub_openai import Script

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

STOP_BOUND_S = 2.0
"""How soon after a client leaves its engine is stopped; the engine's own clock says when it was."""


def stage(**over: object) -> dict[str, object]:
    """Settings of the chat pool."""
    return {"chat": {"pools": {CHAT_POOL: over}}}


async def new_key(deployment: Deployment) -> str:
    return await asyncio.to_thread(deployment.create_key, "standard")


async def no_job_left(deployment: Deployment) -> None:
    await asyncio.to_thread(deployment.wait_idle)


async def test_worker_killed_in_mid_stream_is_not_noticed_by_the_client(
    make_deployment: MakeBoard, chat_engine: StubChat
) -> None:
    deployment = await asyncio.to_thread(make_deployment)
    chat_engine.plays(numbered(200, delay_s=0.05))
    reply = Reply()
    async with connected(deployment, await new_key(deployment)) as client, asyncio.TaskGroup() as group:
        group.create_task(reply.follow(client))
        await reply.reaches(10)
        second = await asyncio.to_thread(deployment.add_chat)
        await asyncio.to_thread(second.wait_ready)
        assert reply.words < 190
        await asyncio.to_thread(deployment.chats[0].running.kill)
    assert reply.error is None
    assert reply.text == script_text(200)
    assert reply.finish_reason == "stop"
    (event,) = await deployment.usage_of(1)
    assert event.outcome == "stop"
    assert (event.work.prompt_tokens, event.work.completion_tokens) == (7, 200)
    await no_job_left(deployment)
    assert len(await deployment.usage()) == 1
    assert set((await deployment.charged_units()).values()) == {207 * UNITS_PER_TOKEN}
    await asyncio.to_thread(deployment.command, "usage", "verify")
    await asyncio.to_thread(deployment.stop)


async def test_worker_killed_before_an_engine_that_begins_again_doubles_nothing(
    make_deployment: MakeBoard, chat_engine: StubChat
) -> None:
    """The engine takes the start of its answer for a turn that is over, and each reply is charged once."""
    deployment = await asyncio.to_thread(make_deployment)
    script = numbered(200, delay_s=0.05)
    script.ignore_prefill = True
    chat_engine.plays(script)
    replies = [Reply() for _ in range(4)]
    async with connected(deployment, await new_key(deployment)) as client, asyncio.TaskGroup() as group:
        for reply in replies:
            # Such an engine writes no more than what was left of the limit, its repetition included.
            group.create_task(reply.follow(client, max_tokens=1000))
        for reply in replies:
            await reply.reaches(10)
        second = await asyncio.to_thread(deployment.add_chat)
        await asyncio.to_thread(second.wait_ready)
        await asyncio.to_thread(deployment.chats[0].running.kill)
    assert [reply.error for reply in replies] == [None] * 4
    assert {reply.text for reply in replies} == {script_text(200)}
    events = await deployment.usage_of(4)
    assert {event.work.completion_tokens for event in events} == {200}
    await no_job_left(deployment)


async def test_worker_killed_loses_no_waiting_job(make_deployment: MakeBoard, chat_engine: StubChat) -> None:
    """Whole replies, not streams, and more of them than the two workers have slots."""
    deployment = await asyncio.to_thread(make_deployment, stage(slots=3), chats=2)
    chat_engine.plays(numbered(60, delay_s=0.05))

    async def one(client: openai.AsyncOpenAI) -> str | None:
        reply = await client.chat.completions.create(model="owl", messages=HELLO)
        return reply.choices[0].message.content

    async with connected(deployment, await new_key(deployment)) as client:
        waiting = asyncio.gather(*(one(client) for _ in range(12)))
        await eventually(lambda: chat_engine.active >= 6, 20, "both workers are busy")
        await asyncio.to_thread(deployment.chats[0].running.kill)
        assert set(await waiting) == {script_text(60)}
    events = await deployment.usage_of(12)
    assert {event.work.completion_tokens for event in events} == {60}
    await no_job_left(deployment)
    assert len(await deployment.usage()) == 12
    assert set((await deployment.charged_units()).values()) == {12 * (7 + 60) * UNITS_PER_TOKEN}


async def test_worker_killed_before_an_engine_that_cannot_continue_ends_in_an_error(
    make_deployment: MakeBoard, chat_engine: StubChat
) -> None:
    deployment = await asyncio.to_thread(make_deployment, stage(resume="restart"), chats=1)
    chat_engine.plays(numbered(200, delay_s=0.05))
    reply = Reply()
    async with connected(deployment, await new_key(deployment)) as client, asyncio.TaskGroup() as group:
        group.create_task(reply.follow(client))
        await reply.reaches(10)
        second = await asyncio.to_thread(deployment.add_chat)
        await asyncio.to_thread(second.wait_ready)
        await asyncio.to_thread(deployment.chats[0].running.kill)
    assert reply.error is not None
    assert script_text(200).startswith(reply.text)
    (event,) = await deployment.usage_of(1)
    assert event.outcome == "error"
    assert reply.words <= event.work.completion_tokens < 200
    await no_job_left(deployment)


async def test_client_that_leaves_stops_the_engine_and_pays_for_what_was_made(
    make_deployment: MakeBoard, chat_engine: StubChat
) -> None:
    deployment = await asyncio.to_thread(make_deployment, stage(slots=1))
    chat_engine.plays(numbered(250, delay_s=0.02))
    took_s: list[float] = []
    key = await new_key(deployment)
    for _ in range(5):
        chat_engine.stub.last_left_at = 0.0
        reply = Reply()
        async with connected(deployment, key) as client:
            following = asyncio.ensure_future(reply.follow(client))
            await reply.reaches(10)
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        left = time.time()
        await eventually(lambda: chat_engine.left_at > 0, 10, "the engine sees its client go")
        took_s.append(chat_engine.left_at - left)
    # The one slot was free again each time. The middle of five keeps a neighbour's burst of load out of the figure.
    assert statistics.median(took_s) <= STOP_BOUND_S, took_s
    events = await deployment.usage_of(5)
    assert {event.outcome for event in events} == {"cancelled"}
    assert all(10 <= event.work.completion_tokens < 100 for event in events), events
    await no_job_left(deployment)


async def test_client_that_leaves_the_queue_is_never_served(make_deployment: MakeBoard, chat_engine: StubChat) -> None:
    deployment = await asyncio.to_thread(make_deployment, stage(slots=1))
    chat_engine.plays(numbered(100, delay_s=0.05))
    first, second = Reply(), Reply()
    async with connected(deployment, await new_key(deployment)) as client:
        running = asyncio.ensure_future(first.follow(client))
        await first.reaches(3)
        queued = asyncio.ensure_future(second.follow(client))
        await eventually(lambda: deployment.messages_in("CHAT") == 2, 10, "the second job is queued")
        queued.cancel()
        await asyncio.gather(queued, return_exceptions=True)
        await eventually(lambda: deployment.messages_in("CHAT") == 1, 3, "the second job is deleted")
        await running
    assert first.text == script_text(100)
    assert len(chat_engine.calls) == 1
    await no_job_left(deployment)
    assert [event.outcome for event in await deployment.usage() if event.work.completion_tokens] == ["stop"]


async def test_engine_that_is_down_for_a_moment_is_tried_again(
    make_deployment: MakeBoard, chat_engine: StubChat
) -> None:
    deployment = await asyncio.to_thread(make_deployment)
    await asyncio.to_thread(chat_engine.pause)
    try:
        async with connected(deployment, await new_key(deployment)) as client:
            waiting = asyncio.ensure_future(client.chat.completions.create(model="owl", messages=HELLO))
            await asyncio.sleep(2)
            assert not waiting.done()
            await asyncio.to_thread(chat_engine.start)
            assert (await waiting).choices[0].finish_reason == "stop"
    finally:
        await asyncio.to_thread(chat_engine.start)


async def test_engine_that_stays_down_is_an_error_and_costs_nothing(
    make_deployment: MakeBoard, chat_engine: StubChat
) -> None:
    deployment = await asyncio.to_thread(make_deployment, {"edge": {"request_timeout_s": 4}})
    await asyncio.to_thread(chat_engine.pause)
    try:
        async with connected(deployment, await new_key(deployment)) as client:
            with pytest.raises(openai.InternalServerError) as caught:
                await client.chat.completions.create(model="owl", messages=HELLO)
            assert caught.value.status_code in {503, 504}
            stream = Reply()
            await stream.follow(client)
            assert stream.error is not None
            assert stream.text == ""
    finally:
        await asyncio.to_thread(chat_engine.start)
    events = await deployment.usage_of(2)
    assert {(event.outcome, event.work.prompt_tokens, event.work.completion_tokens) for event in events} == {
        ("error", 0, 0)
    }
    await no_job_left(deployment)
    assert set((await deployment.charged_units()).values()) == {0}


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_engine_that_fails_once_is_tried_again(
    status: int, client: openai.AsyncOpenAI, deployment: Deployment, chat_engine: StubChat
) -> None:
    chat_engine.plays(Script(fail_status=status, fail_times=1))
    since = len(await deployment.usage())
    reply = await client.chat.completions.create(model="owl", messages=HELLO)
    assert reply.choices[0].finish_reason == "stop"
    assert len(chat_engine.calls) == 2
    (event,) = await deployment.usage_of(1, since)
    assert event.work.completion_tokens == 32


async def test_engine_that_refuses_is_an_error_without_its_words(
    client: openai.AsyncOpenAI, deployment: Deployment, chat_engine: StubChat
) -> None:
    chat_engine.plays(Script(fail_status=400, fail_times=100))
    since = len(await deployment.usage())
    with pytest.raises(openai.APIStatusError) as caught:
        await client.chat.completions.create(model="owl", messages=HELLO)
    assert caught.value.status_code >= 400
    assert "secret raw text" not in str(caught.value)
    (event,) = await deployment.usage_of(1, since)
    assert (event.outcome, event.work.completion_tokens) == ("error", 0)


async def test_engine_that_reports_an_error_in_mid_stream_ends_the_stream_with_one(
    client: openai.AsyncOpenAI, deployment: Deployment, chat_engine: StubChat
) -> None:
    chat_engine.plays(Script(reply=[f"w{n} " for n in range(40)], error_at=10, token_delay_s=0.01))
    since = len(await deployment.usage())
    reply = Reply()
    await reply.follow(client)
    assert reply.error is not None
    assert "secret raw text" not in str(reply.error)
    assert reply.text == script_text(10)
    (event,) = await deployment.usage_of(1, since)
    assert (event.outcome, event.work.completion_tokens) == ("error", 10)


async def test_engine_that_hangs_up_in_mid_stream_loses_and_repeats_nothing(
    client: openai.AsyncOpenAI, deployment: Deployment, chat_engine: StubChat
) -> None:
    chat_engine.plays(Script(reply=[f"w{n} " for n in range(40)], break_at=10, break_times=1, token_delay_s=0.01))
    since = len(await deployment.usage())
    reply = Reply()
    await reply.follow(client)
    if reply.error is None:
        assert reply.text == script_text(40)
    else:
        assert reply.text == script_text(10)
    (event,) = await deployment.usage_of(1, since)
    assert event.work.completion_tokens == reply.words


async def test_engine_that_falls_silent_is_given_up(make_deployment: MakeBoard, chat_engine: StubChat) -> None:
    deployment = await asyncio.to_thread(make_deployment, stage(stall_timeout_s=2, slots=1))
    chat_engine.plays(Script(reply=[f"w{n} " for n in range(40)], hang_at=5))
    reply = Reply()
    async with connected(deployment, await new_key(deployment)) as client:
        await reply.follow(client)
        assert reply.error is not None
        assert reply.text == script_text(5)
        await eventually(lambda: chat_engine.active == 0, 5, "the engine was told")
        chat_engine.plays(numbered(5))
        again = Reply()
        await again.follow(client)
        assert again.text == script_text(5)
    await no_job_left(deployment)


async def test_queue_that_is_full_answers_429_with_a_time_to_return(
    make_deployment: MakeBoard, chat_engine: StubChat
) -> None:
    deployment = await asyncio.to_thread(make_deployment, stage(slots=1, max_queued_per_tenant=2))
    chat_engine.plays(numbered(60, delay_s=0.05))
    first, second, third = Reply(), Reply(), Reply()
    async with connected(deployment, await new_key(deployment)) as client, asyncio.TaskGroup() as group:
        group.create_task(first.follow(client))
        await first.reaches(1)
        group.create_task(second.follow(client))
        await eventually(lambda: deployment.messages_in("CHAT") == 2, 10, "the queue is full")
        await third.follow(client)
        assert isinstance(third.error, openai.RateLimitError)
        assert int(third.error.response.headers["retry-after"]) >= 1
        # Another tenant still has room.
        other = Reply()
        async with connected(deployment, await new_key(deployment)) as stranger:
            await other.follow(stranger, max_tokens=1)
        assert other.error is None
    assert first.text == second.text == script_text(60)
    await no_job_left(deployment)
    assert len(await deployment.usage()) == 3


async def test_edge_that_is_killed_stops_its_engine(make_deployment: MakeBoard, chat_engine: StubChat) -> None:
    deployment = await asyncio.to_thread(make_deployment, stage(slots=2), edges=2)
    chat_engine.plays(numbered(250, delay_s=0.05))
    key = await new_key(deployment)
    reply, other = Reply(), Reply()
    async with (
        connected(deployment, key) as client,
        connected(deployment, key, edge=1) as neighbour,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(reply.follow(client))
        group.create_task(other.follow(neighbour, max_tokens=80))
        await asyncio.gather(reply.reaches(10), other.reaches(1))
        await asyncio.to_thread(deployment.edges[0].running.kill)
        await eventually(lambda: chat_engine.left_at > 0, 6, "the worker asks, hears nothing, and stops")
    assert other.text == script_text(80)
    events = {event.outcome: event for event in await deployment.usage_of(2)}
    assert 10 <= events["cancelled"].work.completion_tokens < 250
    await no_job_left(deployment)


async def test_worker_that_is_told_to_stop_finishes_what_it_has(
    make_deployment: MakeBoard, chat_engine: StubChat
) -> None:
    deployment = await asyncio.to_thread(make_deployment, chats=1)
    chat_engine.plays(numbered(120, delay_s=0.05))
    reply = Reply()
    async with connected(deployment, await new_key(deployment)) as client, asyncio.TaskGroup() as group:
        group.create_task(reply.follow(client))
        await reply.reaches(5)
        deployment.chats[0].running.signal(signal.SIGTERM)
        second = await asyncio.to_thread(deployment.add_chat)
        await asyncio.to_thread(second.wait_ready)
        chat_engine.plays(numbered(3))
        late = Reply()
        await late.follow(client)
        assert late.text == script_text(3)
    assert reply.text == script_text(120)
    assert len(chat_engine.calls) == 2
    assert await asyncio.to_thread(deployment.chats[0].running.wait) == 0
    await no_job_left(deployment)


async def test_worker_that_cannot_finish_in_time_hands_its_job_on(
    make_deployment: MakeBoard, chat_engine: StubChat
) -> None:
    deployment = await asyncio.to_thread(make_deployment, {"chat": {"drain_timeout_s": 1}})
    chat_engine.plays(numbered(200, delay_s=0.05))
    reply = Reply()
    async with connected(deployment, await new_key(deployment)) as client, asyncio.TaskGroup() as group:
        group.create_task(reply.follow(client))
        await reply.reaches(5)
        second = await asyncio.to_thread(deployment.add_chat)
        await asyncio.to_thread(second.wait_ready)
        assert reply.words < 170
        deployment.chats[0].running.signal(signal.SIGTERM)
        assert await asyncio.to_thread(deployment.chats[0].running.wait) == 0
    assert reply.error is None
    assert reply.text == script_text(200)
    (event,) = await deployment.usage_of(1)
    assert event.work.completion_tokens == 200
    await no_job_left(deployment)


async def test_edge_that_is_told_to_stop_finishes_its_streams(
    make_deployment: MakeBoard, chat_engine: StubChat
) -> None:
    deployment = await asyncio.to_thread(make_deployment)
    chat_engine.plays(numbered(80, delay_s=0.05))
    reply = Reply()
    async with connected(deployment, await new_key(deployment)) as client, asyncio.TaskGroup() as group:
        group.create_task(reply.follow(client))
        await reply.reaches(5)
        deployment.edges[0].running.signal(signal.SIGTERM)
        await eventually(lambda: deployment.edges[0].ready_reason() is not None, 5, "the edge is no longer ready")
    assert reply.text == script_text(80)
    assert reply.finish_reason == "stop"
    assert await asyncio.to_thread(deployment.edges[0].running.wait) == 0
    await no_job_left(deployment)


async def test_reader_that_takes_a_byte_now_and_then_disturbs_nobody(
    deployment: Deployment, api_key: str, client: openai.AsyncOpenAI, chat_engine: StubChat
) -> None:
    chat_engine.plays(Script(reply=["x" * 2000 + " " for _ in range(200)], at_once=True))
    host, _, port = deployment.root_url().removeprefix("http://").partition(":")
    body = b'{"model":"owl","messages":[{"role":"user","content":"x"}],"stream":true,"max_tokens":250}'
    reader, writer = await asyncio.open_connection(host, int(port), limit=64)
    writer.write(
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {api_key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    for _ in range(5):
        assert await asyncio.wait_for(reader.read(1), 20)
        await asyncio.sleep(0.2)
    chat_engine.plays(numbered(30))
    reply = Reply()
    await asyncio.wait_for(reply.follow(client), 20)
    assert reply.text == script_text(30)
    writer.close()

"""A chat worker on a real bus, with an engine that fails where a test wants it to."""

import asyncio
from typing import Any

import pytest

from callboard_chat.backends.fake import WORDS, FakeEngine, FakeScript
from callboard_contracts import subjects
from callboard_contracts.chat import ChatEnd, ChatFrame, ChatResult, TokenUsage, ToolCall
from callboard_contracts.errors import ErrorCode
from callboard_kit.direct import read_subject
from tests.integration.chat.conftest import opened_desk, worker
from tests.integration.chat.desk import EDGE, Desk
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.integration

TEXT = "".join(WORDS)
SLOW = FakeScript(tokens=tuple(f"w{n} " for n in range(200)), token_delay_s=0.03)


def slow() -> FakeScript:
    return FakeScript(tokens=SLOW.tokens, token_delay_s=SLOW.token_delay_s)


async def test_a_reply_is_streamed_kept_and_charged(server: NatsServer, desk: Desk) -> None:
    async with worker(server, FakeEngine()):
        job = await desk.post()
        last = await desk.end(job)
        assert desk.text(job) == TEXT
        assert last.end == ChatEnd(reason="stop", usage=TokenUsage(prompt_tokens=4, completion_tokens=12))
        usage = await desk.usage(job)
        assert (usage.work.prompt_tokens, usage.work.completion_tokens, usage.outcome) == (4, 12, "stop")
        await desk.queue_is_empty()
        result = await desk.result(job)
        assert result is not None
        assert (result.text, result.end) == (TEXT, last.end)


async def test_a_prompt_that_the_engine_counts_longer_cuts_the_reply_at_its_hold(
    server: NatsServer, desk: Desk
) -> None:
    engine = FakeEngine(FakeScript(prompt_tokens=30))
    async with worker(server, engine):
        job = await desk.post(limit=12, held_tokens=4 + 12 + 19)
        last = await desk.end(job)
        assert last.end == ChatEnd(reason="length", usage=TokenUsage(prompt_tokens=30, completion_tokens=5))
        assert desk.text(job) == "".join(WORDS[:5])
        usage = await desk.usage(job)
        assert (usage.work.prompt_tokens, usage.work.completion_tokens, usage.outcome) == (30, 5, "length")
        assert engine.state.active == 0


async def test_a_prompt_that_is_longer_than_its_hold_is_an_error_that_costs_nothing(
    server: NatsServer, desk: Desk
) -> None:
    async with worker(server, FakeEngine(FakeScript(prompt_tokens=30))):
        job = await desk.post(limit=12, held_tokens=4 + 12)
        last = await desk.end(job)
        assert last.end is not None
        assert last.end.error is not None
        assert last.end.error.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED
        assert desk.text(job) == ""
        usage = await desk.usage(job)
        assert (usage.work.prompt_tokens, usage.work.completion_tokens) == (0, 0)


async def test_a_prompt_that_is_counted_at_the_end_is_charged_as_far_as_it_is_held(
    server: NatsServer, desk: Desk
) -> None:
    async with worker(server, FakeEngine()):
        job = await desk.post(limit=12, held_tokens=14)
        last = await desk.end(job)
        assert last.end == ChatEnd(reason="stop", usage=TokenUsage(prompt_tokens=4, completion_tokens=12))
        usage = await desk.usage(job)
        assert (usage.work.prompt_tokens, usage.work.completion_tokens) == (2, 12)


async def test_thinking_travels_apart(server: NatsServer, desk: Desk) -> None:
    async with worker(server, FakeEngine(FakeScript(tokens=("<think>", "hm", "</think>", "Yes.")))):
        job = await desk.post()
        await desk.end(job)
        assert desk.text(job) == "Yes."
        assert "".join(frame.thinking for frame in desk.of(job)) == "hm"


async def test_as_many_replies_run_at_once_as_there_are_slots(server: NatsServer, desk: Desk) -> None:
    engine = FakeEngine(slow())
    async with worker(server, engine, slots=2):
        jobs = [await desk.post(limit=10) for _ in range(4)]
        await desk.until(lambda: len(desk.frames) == 2)
        assert engine.state.active == 2
        for job in jobs:
            await desk.end(job)
        assert engine.state.active == 0


async def test_a_cancelled_reply_stops_its_engine_and_is_charged_for_what_was_said(
    server: NatsServer, desk: Desk
) -> None:
    engine = FakeEngine(slow())
    async with worker(server, engine):
        job = await desk.post(limit=500)
        await desk.until(lambda: len(desk.of(job)) >= 3)
        await desk.cancel(job)
        async with asyncio.timeout(0.25):
            while engine.state.active:
                await asyncio.sleep(0.005)
        last = await desk.end(job)
        assert last.end is not None
        assert last.end.reason == "cancelled"
        usage = await desk.usage(job)
        assert usage.work.completion_tokens == len(desk.of(job)) - 1
        assert usage.work.prompt_tokens > 0
        await desk.queue_is_empty()


async def test_a_job_that_was_cancelled_just_before_it_arrived_never_reaches_the_engine(
    server: NatsServer, desk: Desk
) -> None:
    engine = FakeEngine(slow())
    async with worker(server, engine, slots=1):
        first = await desk.post(limit=20)
        second = await desk.post(limit=20)
        await desk.until(lambda: bool(desk.of(first)))
        await desk.cancel(second)
        last = await desk.end(second)
        assert last.seq == 0
        assert last.end == ChatEnd(reason="cancelled")
        assert (await desk.usage(second)).work.completion_tokens == 0
        assert len(engine.state.requests) == 1


async def test_an_edge_that_says_nobody_waits_ends_the_reply(server: NatsServer, desk: Desk) -> None:
    async with worker(server, FakeEngine(slow())):
        job = await desk.post(limit=500)
        await desk.until(lambda: bool(desk.of(job)))
        desk.closed.add(job.request_id)
        last = await desk.end(job)
        assert last.end is not None
        assert last.end.reason == "cancelled"
        assert desk.credits


async def test_an_edge_that_is_gone_ends_live_replies_but_not_polled_ones(server: NatsServer, desk: Desk) -> None:
    engine = FakeEngine(slow())
    async with worker(server, engine):
        live = await desk.post(limit=500)
        polled = await desk.post(limit=150, job_class="batch")
        await desk.until(lambda: len(desk.frames) == 2)
        await desk.vanish()
        assert (await desk.usage(live)).outcome == "cancelled"
        assert (await desk.usage(polled)).outcome == "length"
        result = await desk.result(polled)
        assert result is not None
        assert result.text == "".join(SLOW.tokens[:150])


async def test_a_job_past_its_deadline_is_answered_and_not_run(server: NatsServer, desk: Desk) -> None:
    engine = FakeEngine()
    job = await desk.post(life_s=-1)
    async with worker(server, engine):
        last = await desk.end(job)
        assert last.end is not None
        assert last.end.error is not None
        assert last.end.error.code is ErrorCode.DEADLINE_EXCEEDED
        assert (await desk.usage(job)).work.completion_tokens == 0
        assert not engine.state.requests


async def test_the_deadline_ends_a_running_reply(server: NatsServer, desk: Desk) -> None:
    async with worker(server, FakeEngine(slow())):
        job = await desk.post(limit=500, life_s=0.5)
        last = await desk.end(job)
        assert last.end is not None
        assert last.end.error is not None
        assert last.end.error.code is ErrorCode.DEADLINE_EXCEEDED
        assert (await desk.usage(job)).work.completion_tokens > 0


async def test_an_engine_that_comes_back_in_time_is_asked_again(server: NatsServer, desk: Desk) -> None:
    engine = FakeEngine(FakeScript(unavailable_times=3))
    async with worker(server, engine):
        job = await desk.post()
        last = await desk.end(job)
        assert desk.text(job) == TEXT
        assert last.end is not None
        assert last.end.reason == "stop"
        assert len(engine.state.requests) == 4


async def test_an_engine_that_stays_away_is_an_error_and_not_charged(server: NatsServer, desk: Desk) -> None:
    async with worker(server, FakeEngine(FakeScript(unavailable_times=1000))):
        job = await desk.post(life_s=1.0)
        last = await desk.end(job)
        assert last.end is not None
        assert last.end.error is not None
        assert last.end.error.code is ErrorCode.ENGINE_UNAVAILABLE
        usage = await desk.usage(job)
        assert (usage.work.prompt_tokens, usage.work.completion_tokens, usage.outcome) == (0, 0, "error")


async def test_an_engine_that_breaks_off_goes_on_from_what_was_said(server: NatsServer, desk: Desk) -> None:
    engine = FakeEngine(FakeScript(break_at=4, break_times=1))
    async with worker(server, engine):
        job = await desk.post()
        last = await desk.end(job)
        assert desk.text(job) == TEXT
        assert last.end == ChatEnd(reason="stop", usage=TokenUsage(prompt_tokens=4, completion_tokens=12))


async def test_an_engine_that_keeps_breaking_off_fails_with_what_was_said_charged(
    server: NatsServer, desk: Desk
) -> None:
    async with worker(server, FakeEngine(FakeScript(break_at=2))):
        job = await desk.post()
        last = await desk.end(job)
        assert last.end is not None
        assert last.end.error is not None
        assert last.end.error.code is ErrorCode.ENGINE_FAILED
        assert last.end.usage.completion_tokens == 8
        assert desk.text(job) == "".join(WORDS[:8])


async def test_an_engine_that_reports_a_failure_is_charged_for_what_was_said(server: NatsServer, desk: Desk) -> None:
    async with worker(server, FakeEngine(FakeScript(fail_at=3))):
        job = await desk.post()
        last = await desk.end(job)
        assert last.end is not None
        assert last.end.error is not None
        assert last.end.error.code is ErrorCode.ENGINE_FAILED
        assert (await desk.usage(job)).work.completion_tokens == 3


async def test_an_engine_that_falls_silent_is_given_up(server: NatsServer, desk: Desk) -> None:
    engine = FakeEngine(FakeScript(hang_at=2))
    async with worker(server, engine, stall_timeout_s=0.5):
        job = await desk.post()
        last = await desk.end(job)
        assert last.end is not None
        assert last.end.error is not None
        assert last.end.error.code is ErrorCode.ENGINE_FAILED
        assert engine.state.active == 0


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"model": "cuckoo"}, ErrorCode.UNKNOWN_MODEL, "model"),
        ({"messages": ()}, ErrorCode.INVALID_REQUEST, "messages"),
        ({"tools": ({"name": "look"},)}, ErrorCode.UNSUPPORTED, "tools"),
    ],
)
async def test_what_the_pool_cannot_do_is_refused(
    server: NatsServer, desk: Desk, fields: dict[str, Any], code: ErrorCode, param: str
) -> None:
    async with worker(server, FakeEngine()):
        job = await desk.post(**fields)
        last = await desk.end(job)
        assert last.end is not None
        assert last.end.error is not None
        assert (last.end.error.code, last.end.error.param) == (code, param)
        assert (await desk.usage(job)).work.completion_tokens == 0


async def test_a_prompt_over_the_context_is_refused_without_charge(server: NatsServer, desk: Desk) -> None:
    async with worker(server, FakeEngine(FakeScript(context_tokens=2))):
        job = await desk.post()
        last = await desk.end(job)
        assert last.end is not None
        assert last.end.error is not None
        assert last.end.error.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED
        assert last.seq == 0


async def test_an_alias_is_the_model(server: NatsServer, desk: Desk) -> None:
    engine = FakeEngine()
    async with worker(server, engine):
        job = await desk.post(model="owl:latest")
        await desk.end(job)
        assert engine.state.requests[0][0].model == "owl"


async def test_a_worker_that_must_stop_hands_its_reply_on(server: NatsServer, desk: Desk) -> None:
    """The first worker's time to drain is over before its reply is; the second goes on after its last frame."""
    engine = FakeEngine(slow())
    async with worker(server, engine) as first:
        job = await desk.post(limit=60)
        await desk.until(lambda: len(desk.of(job)) >= 5)
        for task in asyncio.all_tasks():
            # What the pull loop does when the time to drain is over, without the wait for it.
            if task.get_name() == "job":
                task.cancel()
        first.stopper.request_stop("test")
        other = FakeEngine(slow())
        async with worker(server, other):
            last = await desk.end(job)
        assert desk.text(job) == "".join(SLOW.tokens[:60])
        assert last.attempt == 2
        assert last.end is not None
        assert last.end.usage.completion_tokens == 60
        assert other.state.requests[0][1] is not None
        assert (await desk.usage(job)).work.completion_tokens == 60


async def test_a_pool_that_cannot_go_on_says_that_it_was_interrupted(server: NatsServer, desk: Desk) -> None:
    async with worker(server, FakeEngine(slow()), resume="restart"):
        job = await desk.post(limit=60)
        await desk.until(lambda: len(desk.of(job)) >= 5)
        for task in asyncio.all_tasks():
            if task.get_name() == "job":
                task.cancel()
        last = await desk.end(job)
        assert last.end is not None
        assert last.end.error is not None
        assert last.end.error.code is ErrorCode.INTERRUPTED
        assert (await desk.usage(job)).work.completion_tokens == last.seq


async def test_a_job_that_had_ended_is_only_settled_when_it_comes_again(server: NatsServer, desk: Desk) -> None:
    """Its worker died between the last frame and the acknowledgement."""
    engine = FakeEngine()
    job = await desk.post()
    pull = await desk.bus.connection.jetstream().pull_subscribe_bind("chat-stage-live", "CHAT")
    (message,) = await pull.fetch(1, timeout=5)
    end = ChatEnd(reason="stop", usage=TokenUsage(prompt_tokens=4, completion_tokens=2))
    frames = (ChatFrame(seq=0, attempt=1, text="Hi ", tokens=2), ChatFrame(seq=1, attempt=1, end=end))
    for frame in frames:
        await desk.bus.publish(subjects.out(EDGE, job.request_id), frame.model_dump_json().encode())
    await message.nak()
    async with worker(server, engine):
        usage = await desk.usage(job)
        await desk.queue_is_empty()
    assert (usage.work.prompt_tokens, usage.work.completion_tokens) == (4, 2)
    result = await desk.result(job)
    assert result is not None
    assert result.text == "Hi "
    assert not engine.state.requests
    assert len(desk.frames[job.request_id]) == 2


@pytest.mark.parametrize("calls", [(), (ToolCall(id="c1", name="dim", arguments="{}"),)], ids=["none", "one"])
async def test_a_kept_end_is_repeated_whole_or_left_to_the_edge_that_reads_it(
    server: NatsServer, desk: Desk, calls: tuple[ToolCall, ...]
) -> None:
    """Its worker died before the acknowledgement, and the bus forgot the frames."""
    engine = FakeEngine()
    job = await desk.post()
    pull = await desk.bus.connection.jetstream().pull_subscribe_bind("chat-stage-live", "CHAT")
    (message,) = await pull.fetch(1, timeout=5)
    first = ChatFrame(seq=0, attempt=1, text="Hi ", thinking="so ", tokens=2)
    await desk.bus.publish(subjects.out(EDGE, job.request_id), first.model_dump_json().encode())
    await desk.until(lambda: len(desk.of(job)) == 1)
    await desk.bus.api("STREAM.PURGE.OUT", {})
    end = ChatEnd(reason="tool_calls" if calls else "stop", usage=TokenUsage(prompt_tokens=4, completion_tokens=3))
    kept = ChatResult(
        request_id=job.request_id, model="owl", text="Hi you", thinking="so be it", tool_calls=calls, end=end
    )
    await desk.bus.publish_stored(subjects.result(job.request_id), kept.model_dump_json().encode(), "kept")
    await message.nak()
    async with worker(server, engine):
        assert (await desk.usage(job)).work.completion_tokens == 3
        await desk.queue_is_empty()
    assert not engine.state.requests
    again = [(frame.text, frame.thinking, frame.end) for frame in desk.of(job)[1:]]
    assert again == ([] if calls else [("you", "be it", end)])


async def test_a_job_whose_past_the_bus_forgot_goes_on_from_what_the_edge_has(server: NatsServer, desk: Desk) -> None:
    engine = FakeEngine(FakeScript())
    job = await desk.post()
    pull = await desk.bus.connection.jetstream().pull_subscribe_bind("chat-stage-live", "CHAT")
    (message,) = await pull.fetch(1, timeout=5)
    for seq, text in enumerate(WORDS[:3]):
        frame = ChatFrame(seq=seq, attempt=1, text=text, tokens=1)
        await desk.bus.publish(subjects.out(EDGE, job.request_id), frame.model_dump_json().encode())
    await desk.until(lambda: len(desk.of(job)) == 3)
    await desk.bus.api("STREAM.PURGE.OUT", {})
    await message.nak()
    async with worker(server, engine):
        last = await desk.end(job)
    assert desk.text(job) == TEXT
    assert last.attempt == 2
    assert [credit.resume for credit in desk.credits] == [True]


async def test_what_is_no_job_ends_as_a_dead_letter_and_frees_the_queue(server: NatsServer, desk: Desk) -> None:
    await desk.bus.api("CONSUMER.DELETE.CHAT.chat-stage-live", {})
    await desk.bus.api(
        "CONSUMER.CREATE.CHAT.chat-stage-live.job.chat.stage.live.*",
        {
            "stream_name": "CHAT",
            "config": {
                "durable_name": "chat-stage-live",
                "name": "chat-stage-live",
                "filter_subject": "job.chat.stage.live.*",
                "ack_policy": "explicit",
                "ack_wait": 6_000_000_000,
                "max_deliver": 2,
            },
        },
    )
    async with worker(server, FakeEngine()):
        await desk.post_raw(b"{not a job", "broken")
        good = await desk.post()
        await desk.end(good)
        await desk.queue_is_empty()
        letters = await read_subject(desk.bus, "DLQ", "dlq.chat")
        assert [letter.data for letter in letters] == [b"{not a job"]


async def test_a_bus_that_restarts_does_not_start_a_running_reply_again(server: NatsServer) -> None:
    engine = FakeEngine(slow())
    async with opened_desk(server) as desk, worker(server, engine):
        job = await desk.post(limit=150)
        await desk.until(lambda: len(desk.of(job)) >= 5)
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(0.3)
        await asyncio.to_thread(server.start)
        last = await desk.end(job)
        assert desk.text(job) == "".join(SLOW.tokens[:150])
        assert last.attempt == 1
        assert len(engine.state.requests) == 1
        await desk.queue_is_empty()
        assert (await desk.usage(job)).work.completion_tokens == 150

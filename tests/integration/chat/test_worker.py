"""A chat worker on a real bus, with an engine that fails where a test wants it to."""

import asyncio
from typing import Any

import pytest

from callboard_chat.backends.fake import WORDS, FakeEngine, FakeScript
from callboard_contracts import subjects
from callboard_contracts.chat import ChatEnd, ChatFrame, ChatResult, TokenUsage, ToolCall
from callboard_contracts.errors import ErrorCode
from callboard_contracts.jobs import DeadLetter
from callboard_kit.stream_reads import read_subject
from tests.integration.chat.conftest import opened_edge_stub, worker
from tests.integration.chat.edge_stub import EDGE, EdgeStub
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.integration

TEXT = "".join(WORDS)
SLOW = FakeScript(tokens=tuple(f"w{n} " for n in range(200)), token_delay_s=0.03)


def slow() -> FakeScript:
    return FakeScript(tokens=SLOW.tokens, token_delay_s=SLOW.token_delay_s)


def ended(last: ChatFrame) -> tuple[str, TokenUsage]:
    """How a reply ended and what it used; it waited in its queue for some time."""
    assert last.end is not None
    assert last.end.durations.queue_s is not None
    return last.end.reason, last.end.usage


async def test_a_reply_is_streamed_kept_and_charged(server: NatsServer, edge_stub: EdgeStub) -> None:
    async with worker(server, FakeEngine()):
        job = await edge_stub.post()
        last = await edge_stub.end(job)
        assert edge_stub.text(job) == TEXT
        assert ended(last) == ("stop", TokenUsage(prompt_tokens=4, completion_tokens=12))
        usage = await edge_stub.usage(job)
        assert (usage.work.prompt_tokens, usage.work.completion_tokens, usage.outcome) == (4, 12, "stop")
        await edge_stub.queue_is_empty()
        result = await edge_stub.result(job)
        assert result is not None
        assert (result.text, result.end) == (TEXT, last.end)


@pytest.mark.parametrize(
    ("tokens", "code"),
    [(('{"a":', "1}"), None), (('{"a":', '"b"}'), ErrorCode.ENGINE_FAILED), (("So",), ErrorCode.ENGINE_FAILED)],
)
async def test_a_reply_that_violates_its_schema_is_an_error_and_charged(
    server: NatsServer, edge_stub: EdgeStub, tokens: tuple[str, ...], code: ErrorCode | None
) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    async with worker(server, FakeEngine(FakeScript(tokens=tokens))):
        job = await edge_stub.post(output_format={"kind": "json_schema", "json_schema": schema})
        last = await edge_stub.end(job)
        assert last.end is not None
        assert (last.end.error.code if last.end.error else None) is code
        assert (await edge_stub.usage(job)).work.completion_tokens == len(tokens)


async def test_a_prompt_that_the_engine_counts_longer_cuts_the_reply_at_its_hold(
    server: NatsServer, edge_stub: EdgeStub
) -> None:
    engine = FakeEngine(FakeScript(prompt_tokens=30))
    async with worker(server, engine):
        job = await edge_stub.post(limit=12, held_tokens=4 + 12 + 19)
        last = await edge_stub.end(job)
        assert ended(last) == ("length", TokenUsage(prompt_tokens=30, completion_tokens=5))
        assert edge_stub.text(job) == "".join(WORDS[:5])
        usage = await edge_stub.usage(job)
        assert (usage.work.prompt_tokens, usage.work.completion_tokens, usage.outcome) == (30, 5, "length")
        assert engine.state.active == 0


async def test_a_dialogue_that_may_be_cut_loses_its_oldest_messages(server: NatsServer, edge_stub: EdgeStub) -> None:
    engine = FakeEngine()
    turns = [{"role": "user", "content": f"turn {n} " + "word " * 40} for n in range(20)]
    async with worker(server, engine):
        job = await edge_stub.post(limit=12, messages=turns, overflow="drop_front", context_tokens=200)
        assert ended(await edge_stub.end(job))[1].prompt_tokens < 200
        whole = await edge_stub.post(limit=12, messages=turns, context_tokens=200)
        await edge_stub.end(whole)
    read = [tuple(request.messages) for request, _ in engine.state.requests]
    assert read[0] == whole.request.messages[-len(read[0]) :]
    assert 0 < len(read[0]) < 20
    assert read[1] == whole.request.messages


async def test_a_prompt_that_is_longer_than_its_hold_is_an_error_that_costs_nothing(
    server: NatsServer, edge_stub: EdgeStub
) -> None:
    async with worker(server, FakeEngine(FakeScript(prompt_tokens=30))):
        job = await edge_stub.post(limit=12, held_tokens=4 + 12)
        last = await edge_stub.end(job)
        assert last.end is not None
        assert last.end.error is not None
        assert last.end.error.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED
        assert edge_stub.text(job) == ""
        usage = await edge_stub.usage(job)
        assert (usage.work.prompt_tokens, usage.work.completion_tokens) == (0, 0)


async def test_a_prompt_that_is_counted_at_the_end_is_charged_as_far_as_it_is_held(
    server: NatsServer, edge_stub: EdgeStub
) -> None:
    async with worker(server, FakeEngine()):
        job = await edge_stub.post(limit=12, held_tokens=14)
        last = await edge_stub.end(job)
        assert ended(last) == ("stop", TokenUsage(prompt_tokens=4, completion_tokens=12))
        usage = await edge_stub.usage(job)
        assert (usage.work.prompt_tokens, usage.work.completion_tokens) == (2, 12)


async def test_the_stop_sequence_that_was_hit_is_named(server: NatsServer, edge_stub: EdgeStub) -> None:
    async with worker(server, FakeEngine()):
        job = await edge_stub.post(sampling={"stop": ["nothing", "engine"]})
        last = await edge_stub.end(job)
        assert last.end is not None
        assert (last.end.reason, last.end.stop_sequence) == ("stop", "engine")
        assert edge_stub.text(job) == "Once upon a time, a fake "


async def test_a_caller_learns_only_of_its_own_cached_prompts(server: NatsServer, edge_stub: EdgeStub) -> None:
    """The engine says that it knew every prompt, also the first, which somebody else may have sent."""
    async with worker(server, FakeEngine(FakeScript(caches_all=True))):
        cached: list[int] = []
        for _ in range(2):
            last = await edge_stub.end(await edge_stub.post())
            assert last.end is not None
            cached.append(last.end.usage.cached_prompt_tokens)
        assert cached == [0, 4]


async def test_thinking_travels_apart(server: NatsServer, edge_stub: EdgeStub) -> None:
    async with worker(server, FakeEngine(FakeScript(tokens=("<think>", "hm", "</think>", "Yes.")))):
        job = await edge_stub.post()
        await edge_stub.end(job)
        assert edge_stub.text(job) == "Yes."
        assert "".join(frame.thinking for frame in edge_stub.of(job)) == "hm"


async def test_as_many_replies_run_at_once_as_there_are_slots(server: NatsServer, edge_stub: EdgeStub) -> None:
    engine = FakeEngine(slow())
    async with worker(server, engine, slots=2):
        jobs = [await edge_stub.post(limit=10) for _ in range(4)]
        await edge_stub.until(lambda: len(edge_stub.frames) == 2)
        assert engine.state.active == 2
        for job in jobs:
            await edge_stub.end(job)
        assert engine.state.active == 0


async def test_a_cancelled_reply_stops_its_engine_and_is_charged_for_what_was_said(
    server: NatsServer, edge_stub: EdgeStub
) -> None:
    engine = FakeEngine(slow())
    async with worker(server, engine):
        job = await edge_stub.post(limit=500)
        await edge_stub.until(lambda: len(edge_stub.of(job)) >= 3)
        await edge_stub.cancel(job)
        async with asyncio.timeout(20):
            while engine.state.active:
                await asyncio.sleep(0.005)
        last = await edge_stub.end(job)
        assert last.end is not None
        assert last.end.reason == "cancelled"
        usage = await edge_stub.usage(job)
        assert usage.work.completion_tokens == len(edge_stub.of(job)) - 1
        assert usage.work.prompt_tokens > 0
        await edge_stub.queue_is_empty()


async def test_a_job_that_was_cancelled_just_before_it_arrived_never_reaches_the_engine(
    server: NatsServer, edge_stub: EdgeStub
) -> None:
    engine = FakeEngine(slow())
    async with worker(server, engine, slots=1):
        first = await edge_stub.post(limit=20)
        second = await edge_stub.post(limit=20)
        await edge_stub.until(lambda: bool(edge_stub.of(first)))
        await edge_stub.cancel(second)
        last = await edge_stub.end(second)
        assert last.seq == 0
        assert ended(last) == ("cancelled", TokenUsage())
        assert (await edge_stub.usage(second)).work.completion_tokens == 0
        assert len(engine.state.requests) == 1


async def test_an_edge_that_says_nobody_waits_ends_the_reply(server: NatsServer, edge_stub: EdgeStub) -> None:
    async with worker(server, FakeEngine(slow())):
        job = await edge_stub.post(limit=500)
        await edge_stub.until(lambda: bool(edge_stub.of(job)))
        edge_stub.closed.add(job.request_id)
        last = await edge_stub.end(job)
        assert last.end is not None
        assert last.end.reason == "cancelled"


async def test_an_edge_that_is_gone_ends_live_replies_but_not_polled_ones(
    server: NatsServer, edge_stub: EdgeStub
) -> None:
    engine = FakeEngine(slow())
    async with worker(server, engine):
        live = await edge_stub.post(limit=500)
        is_batch = await edge_stub.post(limit=150, job_class="batch")
        await edge_stub.until(lambda: len(edge_stub.frames) == 2)
        await edge_stub.vanish()
        assert (await edge_stub.usage(live)).outcome == "cancelled"
        assert (await edge_stub.usage(is_batch)).outcome == "length"
        result = await edge_stub.result(is_batch)
        assert result is not None
        assert result.text == "".join(SLOW.tokens[:150])


async def test_a_job_past_its_deadline_is_answered_and_not_run(server: NatsServer, edge_stub: EdgeStub) -> None:
    engine = FakeEngine()
    job = await edge_stub.post(life_s=-1)
    async with worker(server, engine):
        last = await edge_stub.end(job)
        assert last.end is not None
        assert last.end.error is not None
        assert last.end.error.code is ErrorCode.DEADLINE_EXCEEDED
        assert (await edge_stub.usage(job)).work.completion_tokens == 0
        assert not engine.state.requests


async def test_the_deadline_ends_a_running_reply(server: NatsServer, edge_stub: EdgeStub) -> None:
    async with worker(server, FakeEngine(slow())):
        job = await edge_stub.post(limit=500, life_s=0.5)
        last = await edge_stub.end(job)
        assert last.end is not None
        assert last.end.error is not None
        assert last.end.error.code is ErrorCode.DEADLINE_EXCEEDED
        assert (await edge_stub.usage(job)).work.completion_tokens > 0


async def test_an_engine_that_comes_back_in_time_is_asked_again(server: NatsServer, edge_stub: EdgeStub) -> None:
    engine = FakeEngine(FakeScript(unavailable_times=3))
    async with worker(server, engine):
        job = await edge_stub.post()
        last = await edge_stub.end(job)
        assert edge_stub.text(job) == TEXT
        assert last.end is not None
        assert last.end.reason == "stop"
        assert len(engine.state.requests) == 4


async def test_an_engine_that_stays_away_is_an_error_and_not_charged(server: NatsServer, edge_stub: EdgeStub) -> None:
    async with worker(server, FakeEngine(FakeScript(unavailable_times=1000))):
        job = await edge_stub.post(life_s=1.0)
        last = await edge_stub.end(job)
        assert last.end is not None
        assert last.end.error is not None
        assert last.end.error.code is ErrorCode.ENGINE_UNAVAILABLE
        usage = await edge_stub.usage(job)
        assert (usage.work.prompt_tokens, usage.work.completion_tokens, usage.outcome) == (0, 0, "error")


async def test_an_engine_that_breaks_off_goes_on_from_what_was_said(server: NatsServer, edge_stub: EdgeStub) -> None:
    engine = FakeEngine(FakeScript(break_at=4, break_times=1))
    async with worker(server, engine):
        job = await edge_stub.post()
        last = await edge_stub.end(job)
        assert edge_stub.text(job) == TEXT
        assert ended(last) == ("stop", TokenUsage(prompt_tokens=4, completion_tokens=12))


async def test_an_engine_that_begins_again_is_cut_and_goes_on(server: NatsServer, edge_stub: EdgeStub) -> None:
    engine = FakeEngine(FakeScript(break_at=5, break_times=1, ignores_prefill=True))
    async with worker(server, engine):
        job = await edge_stub.post()
        last = await edge_stub.end(job)
        assert edge_stub.text(job) == TEXT
        assert ended(last) == ("stop", TokenUsage(prompt_tokens=4, completion_tokens=12))
        assert (await edge_stub.usage(job)).work.completion_tokens == 12


async def test_an_engine_that_begins_another_answer_is_interrupted(server: NatsServer, edge_stub: EdgeStub) -> None:
    engine = FakeEngine(FakeScript(break_at=6, break_times=1, ignores_prefill=True))
    async with worker(server, engine):
        job = await edge_stub.post()
        await edge_stub.until(lambda: len(edge_stub.of(job)) >= 6)
        engine.script.tokens = (*WORDS[:4], "a ", "real ", "engine.")
        last = await edge_stub.end(job)
        assert edge_stub.text(job) == "".join(WORDS[:6])
        assert last.end is not None
        assert last.end.error is not None
        assert last.end.error.code is ErrorCode.INTERRUPTED
        assert (await edge_stub.usage(job)).work.completion_tokens == 6


async def test_an_engine_that_keeps_breaking_off_fails_with_what_was_said_charged(
    server: NatsServer, edge_stub: EdgeStub
) -> None:
    async with worker(server, FakeEngine(FakeScript(break_at=2))):
        job = await edge_stub.post()
        last = await edge_stub.end(job)
        assert last.end is not None
        assert last.end.error is not None
        assert last.end.error.code is ErrorCode.ENGINE_FAILED
        assert last.end.usage.completion_tokens == 8
        assert edge_stub.text(job) == "".join(WORDS[:8])


async def test_an_engine_that_reports_a_failure_is_charged_for_what_was_said(
    server: NatsServer, edge_stub: EdgeStub
) -> None:
    async with worker(server, FakeEngine(FakeScript(fail_at=3))):
        job = await edge_stub.post()
        last = await edge_stub.end(job)
        assert last.end is not None
        assert last.end.error is not None
        assert last.end.error.code is ErrorCode.ENGINE_FAILED
        assert (await edge_stub.usage(job)).work.completion_tokens == 3


async def test_an_engine_that_falls_silent_is_given_up(server: NatsServer, edge_stub: EdgeStub) -> None:
    engine = FakeEngine(FakeScript(hang_at=2))
    async with worker(server, engine, stall_timeout_s=0.5):
        job = await edge_stub.post()
        last = await edge_stub.end(job)
        assert last.end is not None
        assert last.end.error is not None
        assert last.end.error.code is ErrorCode.ENGINE_FAILED
        assert engine.state.active == 0


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"model": "cuckoo"}, ErrorCode.UNKNOWN_MODEL, "model"),
        ({"messages": ()}, ErrorCode.INVALID_REQUEST, "messages"),
        ({"model": "wren", "tools": ({"name": "look"},)}, ErrorCode.UNSUPPORTED, "tools"),
    ],
)
async def test_what_the_pool_cannot_do_is_refused(
    server: NatsServer, edge_stub: EdgeStub, fields: dict[str, Any], code: ErrorCode, param: str
) -> None:
    async with worker(server, FakeEngine()):
        job = await edge_stub.post(**fields)
        last = await edge_stub.end(job)
        assert last.end is not None
        assert last.end.error is not None
        assert (last.end.error.code, last.end.error.param) == (code, param)
        assert (await edge_stub.usage(job)).work.completion_tokens == 0


async def test_a_prompt_over_the_context_is_refused_without_charge(server: NatsServer, edge_stub: EdgeStub) -> None:
    async with worker(server, FakeEngine(FakeScript(context_tokens=2))):
        job = await edge_stub.post()
        last = await edge_stub.end(job)
        assert last.end is not None
        assert last.end.error is not None
        assert last.end.error.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED
        assert last.seq == 0


async def test_an_alias_is_the_model(server: NatsServer, edge_stub: EdgeStub) -> None:
    engine = FakeEngine()
    async with worker(server, engine):
        job = await edge_stub.post(model="owl:latest")
        await edge_stub.end(job)
        assert engine.state.requests[0][0].model == "owl"


async def test_a_worker_that_must_stop_hands_its_reply_on(server: NatsServer, edge_stub: EdgeStub) -> None:
    """The first worker's time to drain is over before its reply is; the second goes on after its last frame."""
    engine = FakeEngine(slow())
    async with worker(server, engine) as first:
        job = await edge_stub.post(limit=60)
        await edge_stub.until(lambda: len(edge_stub.of(job)) >= 5)
        for task in asyncio.all_tasks():
            # What the pull loop does when the time to drain is over, without the wait for it.
            if task.get_name() == "job":
                task.cancel()
        first.shutdown.request_stop("test")
        other = FakeEngine(slow())
        async with worker(server, other):
            last = await edge_stub.end(job)
        assert edge_stub.text(job) == "".join(SLOW.tokens[:60])
        assert last.attempt == 2
        assert last.end is not None
        assert last.end.usage.completion_tokens == 60
        assert other.state.requests[0][1] is not None
        assert (await edge_stub.usage(job)).work.completion_tokens == 60


async def test_a_pool_that_cannot_go_on_says_that_it_was_interrupted(server: NatsServer, edge_stub: EdgeStub) -> None:
    async with worker(server, FakeEngine(slow()), resume="restart"):
        job = await edge_stub.post(limit=60)
        await edge_stub.until(lambda: len(edge_stub.of(job)) >= 5)
        for task in asyncio.all_tasks():
            if task.get_name() == "job":
                task.cancel()
        last = await edge_stub.end(job)
        assert last.end is not None
        assert last.end.error is not None
        assert last.end.error.code is ErrorCode.INTERRUPTED
        assert (await edge_stub.usage(job)).work.completion_tokens == last.seq


async def test_a_job_that_had_ended_is_only_settled_when_it_comes_again(
    server: NatsServer, edge_stub: EdgeStub
) -> None:
    """Its worker died between the last frame and the acknowledgement."""
    engine = FakeEngine()
    job = await edge_stub.post()
    pull = await edge_stub.bus.connection.jetstream().pull_subscribe_bind("chat-main-live", "CHAT")
    (message,) = await pull.fetch(1, timeout=5)
    end = ChatEnd(reason="stop", usage=TokenUsage(prompt_tokens=4, completion_tokens=2))
    frames = (ChatFrame(seq=0, attempt=1, text="Hi ", tokens=2), ChatFrame(seq=1, attempt=1, end=end))
    for frame in frames:
        await edge_stub.bus.publish(subjects.out(EDGE, job.request_id), frame.model_dump_json().encode())
    await message.nak()
    async with worker(server, engine):
        usage = await edge_stub.usage(job)
        await edge_stub.queue_is_empty()
    assert (usage.work.prompt_tokens, usage.work.completion_tokens) == (4, 2)
    result = await edge_stub.result(job)
    assert result is not None
    assert result.text == "Hi "
    assert not engine.state.requests
    assert len(edge_stub.frames[job.request_id]) == 2


@pytest.mark.parametrize("calls", [(), (ToolCall(id="c1", name="dim", arguments="{}"),)], ids=["none", "one"])
async def test_a_kept_end_is_repeated_whole_or_left_to_the_edge_that_reads_it(
    server: NatsServer, edge_stub: EdgeStub, calls: tuple[ToolCall, ...]
) -> None:
    """Its worker died before the acknowledgement, and the bus forgot the frames."""
    engine = FakeEngine()
    job = await edge_stub.post()
    pull = await edge_stub.bus.connection.jetstream().pull_subscribe_bind("chat-main-live", "CHAT")
    (message,) = await pull.fetch(1, timeout=5)
    first = ChatFrame(seq=0, attempt=1, text="Hi ", thinking="so ", tokens=2)
    await edge_stub.bus.publish(subjects.out(EDGE, job.request_id), first.model_dump_json().encode())
    await edge_stub.until(lambda: len(edge_stub.of(job)) == 1)
    await edge_stub.bus.api("STREAM.PURGE.OUT", {})
    end = ChatEnd(reason="tool_calls" if calls else "stop", usage=TokenUsage(prompt_tokens=4, completion_tokens=3))
    kept = ChatResult(
        request_id=job.request_id, model="owl", text="Hi you", thinking="so be it", tool_calls=calls, end=end
    )
    await edge_stub.bus.publish_stored(subjects.result(job.request_id), kept.model_dump_json().encode(), "kept")
    await message.nak()
    async with worker(server, engine):
        assert (await edge_stub.usage(job)).work.completion_tokens == 3
        await edge_stub.queue_is_empty()
    assert not engine.state.requests
    again = [(frame.text, frame.thinking, frame.end) for frame in edge_stub.of(job)[1:]]
    assert again == ([] if calls else [("you", "be it", end)])


async def test_a_job_whose_past_the_bus_forgot_goes_on_from_what_the_edge_has(
    server: NatsServer, edge_stub: EdgeStub
) -> None:
    engine = FakeEngine(FakeScript())
    job = await edge_stub.post()
    pull = await edge_stub.bus.connection.jetstream().pull_subscribe_bind("chat-main-live", "CHAT")
    (message,) = await pull.fetch(1, timeout=5)
    for seq, text in enumerate(WORDS[:3]):
        frame = ChatFrame(seq=seq, attempt=1, text=text, tokens=1)
        await edge_stub.bus.publish(subjects.out(EDGE, job.request_id), frame.model_dump_json().encode())
    await edge_stub.until(lambda: len(edge_stub.of(job)) == 3)
    await edge_stub.bus.api("STREAM.PURGE.OUT", {})
    await message.nak()
    async with worker(server, engine):
        last = await edge_stub.end(job)
    assert edge_stub.text(job) == TEXT
    assert last.attempt == 2
    assert [resume.attempt for resume in edge_stub.resumes] == [2]


async def test_what_is_no_job_ends_as_a_dead_letter_and_frees_the_queue(
    server: NatsServer, edge_stub: EdgeStub
) -> None:
    await edge_stub.bus.api("CONSUMER.DELETE.CHAT.chat-main-live", {})
    await edge_stub.bus.api(
        "CONSUMER.CREATE.CHAT.chat-main-live.job.chat.main.live.*",
        {
            "stream_name": "CHAT",
            "config": {
                "durable_name": "chat-main-live",
                "name": "chat-main-live",
                "filter_subject": "job.chat.main.live.*",
                "ack_policy": "explicit",
                "ack_wait": 6_000_000_000,
                "max_deliver": 2,
            },
        },
    )
    async with worker(server, FakeEngine()):
        await edge_stub.post_raw(b"{not a job", "broken")
        good = await edge_stub.post()
        await edge_stub.end(good)
        await edge_stub.queue_is_empty()
        dead_letters = await read_subject(edge_stub.bus, "DLQ", "dlq.chat")
        assert [DeadLetter.model_validate_json(letter.data).request_id for letter in dead_letters] == ["broken"]


async def test_a_bus_that_restarts_does_not_start_a_running_reply_again(server: NatsServer) -> None:
    engine = FakeEngine(slow())
    async with opened_edge_stub(server) as edge_stub, worker(server, engine):
        job = await edge_stub.post(limit=150)
        await edge_stub.until(lambda: len(edge_stub.of(job)) >= 5)
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(0.3)
        await asyncio.to_thread(server.start)
        last = await edge_stub.end(job)
        assert edge_stub.text(job) == "".join(SLOW.tokens[:150])
        assert last.attempt == 1
        assert len(engine.state.requests) == 1
        await edge_stub.queue_is_empty()
        assert (await edge_stub.usage(job)).work.completion_tokens == 150


BAD_CALLS = {
    "a tool that is not on offer": ToolCall(id="c", name="fly", arguments="{}"),
    "arguments that are not allowed": ToolCall(id="c", name="dim", arguments='{"level":"high"}'),
    "arguments that are no JSON": ToolCall(id="c", name="dim", arguments='{"level":'),
}
DIM = {"name": "dim", "parameters": {"type": "object", "properties": {"level": {"type": "integer"}}}}


@pytest.mark.parametrize("case", BAD_CALLS)
async def test_a_bad_call_of_an_engine_is_a_failure(server: NatsServer, edge_stub: EdgeStub, case: str) -> None:
    async with worker(server, FakeEngine(FakeScript(tool_calls=(BAD_CALLS[case],)))):
        job = await edge_stub.post(tools=(DIM,))
        last = await edge_stub.end(job)
        assert last.end is not None
        assert last.end.error is not None
        assert last.end.error.code is ErrorCode.ENGINE_FAILED
        assert not any(frame.tool_calls for frame in edge_stub.of(job))


async def test_a_good_call_is_sent_with_the_words_before_it(server: NatsServer, edge_stub: EdgeStub) -> None:
    call = ToolCall(id="c", name="dim", arguments='{"level":3}')
    async with worker(server, FakeEngine(FakeScript(tool_calls=(call,)))):
        job = await edge_stub.post(tools=(DIM,))
        last = await edge_stub.end(job)
        assert last.end is not None
        assert last.end.reason == "tool_calls"
        assert edge_stub.text(job) == TEXT
        assert [one for frame in edge_stub.of(job) for one in frame.tool_calls] == [call]

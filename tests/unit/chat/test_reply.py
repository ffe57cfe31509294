"""Frames are numbered without gaps, limits hold, and what was used is what was said."""

from dataclasses import replace

import pytest

from callboard_chat.domain.ports import Chunk, Continuation
from callboard_chat.domain.prior_attempt import History, history
from callboard_chat.domain.reply import Reply
from callboard_chat.domain.reply_runs import TELL_AGAIN_S
from callboard_contracts.chat import ChatFrame, ChatMessage, ChatRequest, EndReason, Sampling, ToolCall
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.volunteers import ServedBy

pytestmark = pytest.mark.unit

FAILED = ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="It failed.")


def request(limit: int = 100, **fields: object) -> ChatRequest:
    messages = (ChatMessage(role="user", content="Tell me a story of some length."),)
    return ChatRequest.model_validate({"model": "owl", "messages": messages, "max_output_tokens": limit, **fields})


def feed(reply: Reply, *chunks: Chunk) -> list[ChatFrame]:
    return [frame for chunk in chunks if (frame := reply.take(chunk))]


def words(*texts: str) -> list[Chunk]:
    return [Chunk(text=text, tokens=1) for text in texts]


def test_a_reply_becomes_numbered_frames_and_an_end() -> None:
    reply = Reply(request(), attempt=1)
    frames = feed(reply, *words("a ", "b "), Chunk(finish="stop", prompt_tokens=9, completion_tokens=3))
    assert reply.finish == "stop"
    frames.append(reply.end("stop"))
    assert [frame.seq for frame in frames] == [0, 1, 2]
    assert [frame.text for frame in frames] == ["a ", "b ", ""]
    end = frames[-1].end
    assert end is not None
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (9, 3)
    assert sum(frame.tokens for frame in frames) == 3
    assert reply.result("r1", end).text == "a b "


def test_a_reply_tells_how_often_it_was_begun_again() -> None:
    reply = Reply(request(), attempt=2)
    (first,) = feed(reply, *words("a "))
    reply.begin_run()
    (second,) = feed(reply, Chunk(text="b ", tokens=1, restarts=2))
    end = reply.end("stop").end
    assert end is not None
    assert (first.restarts, second.restarts, end.restarts) == (1, 4, 4)
    assert feed(Reply(request(), attempt=1), *words("a "))[0].restarts == 0


def test_a_reply_that_is_begun_again_is_no_longer_the_volunteers_that_dropped_it() -> None:
    reply = Reply(request(), attempt=1)
    by = ServedBy(worker_id="w", worker_name="barn", model="owl", account="k", reward=9)
    feed(reply, Chunk(text="a ", tokens=1, served_by=by))
    reply.begin_run()
    feed(reply, *words("b "), Chunk(finish="stop"))
    end = reply.end("stop").end
    assert end is not None
    assert end.served_by is None


def test_blanks_before_a_reply_are_the_prompts() -> None:
    reply = Reply(request(mode="completion"), attempt=1, trims_start=True)
    frames = feed(reply, *words(" ", "\n Good", " day"), Chunk(finish="stop", prompt_tokens=9, completion_tokens=3))
    assert [frame.text for frame in frames] == ["Good", " day"]
    assert [frame.tokens for frame in frames] == [2, 1]
    reply.begin_run()
    taken_over = Reply(request(mode="completion"), 2, history(frames), trims_start=True)
    assert [frame.text for frame in feed(taken_over, *words(" to", " you"))] == [" to", " you"]


def test_the_limit_holds_against_an_engine_that_goes_on() -> None:
    reply = Reply(request(limit=2), attempt=1)
    frames = feed(reply, *words("a", "b", "c", "d"))
    assert "".join(frame.text for frame in frames) == "ab"
    assert reply.finish == "length"
    end = reply.end("length").end
    assert end is not None
    assert end.usage.completion_tokens == 2


def test_an_engines_count_over_the_limit_is_not_charged() -> None:
    reply = Reply(request(limit=2), attempt=1)
    feed(reply, *words("a", "b"), Chunk(finish="length", prompt_tokens=1, completion_tokens=7))
    end = reply.end("length").end
    assert end is not None
    assert end.usage.completion_tokens == 2


def test_a_stop_sequence_cuts_the_text_and_ends_the_reply() -> None:
    reply = Reply(request(sampling=Sampling(stop=("END",))), attempt=1)
    frames = feed(reply, *words("a E", "N", "D b", " c"))
    assert "".join(frame.text for frame in frames) == "a "
    assert reply.finish == "stop"


def test_text_that_was_held_for_a_stop_goes_out_at_the_end() -> None:
    reply = Reply(request(sampling=Sampling(stop=("END",))), attempt=1)
    frames = feed(reply, *words("a E", "N"), Chunk(finish="stop", completion_tokens=2))
    assert "".join(frame.text for frame in frames) == "a EN"
    frames.append(reply.end("stop"))
    assert sum(frame.tokens for frame in frames) == 2


def test_thinking_is_kept_apart() -> None:
    reply = Reply(request(), attempt=1)
    frames = feed(reply, *words("<thi", "nk>hm", "</think>", "\n", "Yes."), Chunk(finish="stop"))
    assert "".join(frame.text for frame in frames) == "Yes."
    assert "".join(frame.thinking for frame in frames) == "hm"


TAGGED = words("<thi", "nk>", "Let ", "me see.", "</thi", "nk>", "\n\n", "Yes", ".")
APART = [Chunk(thinking="Let ", tokens=1, thinking_tokens=1), Chunk(thinking="me", tokens=1, thinking_tokens=1)]


@pytest.mark.parametrize(
    ("chunks", "thinking", "completion"),
    [
        ([*TAGGED, Chunk(finish="stop", completion_tokens=9)], 6, 9),
        ([*APART, *words("Yes", "."), Chunk(finish="stop")], 2, 4),
        ([Chunk("Yes.", "Let me see.", tokens=4, thinking_tokens=3), Chunk(finish="stop")], 3, 4),
        # One piece with both, as an engine under load hands over, is shared out by length.
        ([Chunk("<think>abcdef</think>xyz", tokens=12), Chunk(finish="stop")], 8, 12),
        # Some engines count thoughts that they never show.
        ([*words("Yes"), Chunk(finish="stop", completion_tokens=30, thinking_tokens=29)], 29, 30),
        ([*words("a <", "b"), Chunk(finish="stop")], 0, 2),
        (words("<think>", *["hm "] * 99, "more"), 100, 100),
    ],
    ids=["tagged", "apart", "at once", "in one piece", "never shown", "no tag", "cut by the limit"],
)
def test_tokens_of_thinking_are_counted(chunks: list[Chunk], thinking: int, completion: int) -> None:
    reply = Reply(request(), attempt=1)
    feed(reply, *(replace(chunk) for chunk in chunks))
    assert reply.finish is not None
    end = reply.end(reply.finish).end
    assert end is not None
    assert (end.usage.thinking_tokens, end.usage.completion_tokens) == (thinking, completion)


def test_tokens_of_thinking_are_counted_on_by_another_worker() -> None:
    frames = feed(Reply(request(), attempt=1), *TAGGED[:4])
    taken_over = Reply(request(), 2, history(frames))
    feed(taken_over, *TAGGED[4:], Chunk(finish="stop"))
    end = taken_over.end("stop").end
    assert end is not None
    assert (end.usage.thinking_tokens, end.usage.completion_tokens) == (6, 9)
    cut = taken_over.end("cancelled").end
    assert cut is not None
    assert cut.usage.thinking_tokens == 6


def test_a_completion_is_left_as_it_is() -> None:
    reply = Reply(request(mode="completion", prompt="x"), attempt=1)
    frames = feed(reply, *words("<think>a</think>b"), Chunk(finish="stop"))
    assert "".join(frame.text for frame in frames) == "<think>a</think>b"


def test_a_failure_before_the_first_frame_uses_nothing() -> None:
    reply = Reply(request(), attempt=1)
    reply.take(Chunk(prompt_tokens=50))
    end = reply.end("error", FAILED).end
    assert end is not None
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (0, 0)
    assert end.error == FAILED


@pytest.mark.parametrize("reason", ["error", "cancelled"])
def test_a_reply_cut_short_uses_what_was_sent(reason: str) -> None:
    reply = Reply(request(), attempt=1)
    feed(reply, Chunk(text="a", tokens=1, prompt_tokens=50), *words("b", "<thi"))
    frame = reply.end("error", FAILED) if reason == "error" else reply.end("cancelled")
    assert frame.end is not None
    assert (frame.end.usage.prompt_tokens, frame.end.usage.completion_tokens) == (50, 2)
    assert frame.text == ""


def test_a_prompt_that_nobody_counted_is_estimated() -> None:
    reply = Reply(request(), attempt=1)
    feed(reply, *words("a"))
    end = reply.end("cancelled").end
    assert end is not None
    assert 5 < end.usage.prompt_tokens < 30


def test_tool_calls_go_out_once_with_the_last_text() -> None:
    call = ToolCall(id="c", name="look", arguments="{}")
    reply = Reply(request(), attempt=1)
    frames = feed(reply, Chunk(tokens=3), Chunk(tool_calls=(call,), finish="tool_calls", completion_tokens=4))
    frames.append(reply.end("tool_calls"))
    assert [frame.tool_calls for frame in frames] == [(call,), ()]
    assert sum(frame.tokens for frame in frames) == 4


def test_a_reply_goes_on_after_its_past() -> None:
    prior = History(next_seq=4, said=Continuation("a b ", "", 2))
    reply = Reply(request(limit=4), attempt=2, prior=prior)
    frames = feed(reply, *words("c ", "d ", "e "))
    assert [(frame.seq, frame.attempt) for frame in frames] == [(4, 2), (5, 2)]
    assert reply.finish == "length"
    last = reply.end("length")
    assert last.seq == 6
    assert last.end is not None
    assert last.end.usage.completion_tokens == 4
    assert reply.result("r", last.end).text == "a b c d "


def test_an_engines_count_after_a_continuation_adds_to_the_past() -> None:
    reply = Reply(request(), attempt=2, prior=History(next_seq=2, said=Continuation("a b ", "", 2)))
    feed(reply, *words("c "), Chunk(finish="stop", prompt_tokens=9, completion_tokens=3))
    end = reply.end("stop").end
    assert end is not None
    assert end.usage.completion_tokens == 5


def test_a_reply_whose_past_is_full_needs_no_engine() -> None:
    assert Reply(request(limit=2), 2, History(2, Continuation("ab", "", 2))).finish == "length"


def test_an_engine_that_starts_again_does_not_repeat_held_text() -> None:
    reply = Reply(request(sampling=Sampling(stop=("END",))), attempt=1)
    frames = feed(reply, *words("a ", "E"))
    reply.begin_run()
    assert reply.said == Continuation("a ", "", 1)
    frames += feed(reply, *words("E", "xtra"), Chunk(finish="stop"))
    assert "".join(frame.text for frame in frames) == "a Extra"


def test_history_puts_frames_together_like_a_receiver() -> None:
    frames = [
        ChatFrame(seq=0, attempt=1, text="a ", tokens=1),
        ChatFrame(seq=1, attempt=1, text="b ", tokens=1),
        ChatFrame(seq=2, attempt=2, text="c ", tokens=1),
        ChatFrame(seq=2, attempt=1, text="x ", tokens=1),
        ChatFrame(seq=3, attempt=1, text="y ", tokens=1),
        ChatFrame(seq=3, attempt=2, thinking="hm", tokens=1),
    ]
    assert history(frames) == History(4, Continuation("a b c ", "hm", 4))
    assert history([]) == History()


def test_a_newer_attempt_takes_the_place_of_what_an_older_one_wrote_too_far() -> None:
    frames = [
        ChatFrame(seq=0, attempt=1, text="a ", tokens=1),
        ChatFrame(seq=1, attempt=1, text="b ", tokens=1),
        ChatFrame(seq=2, attempt=1, text="old ", tokens=1),
        ChatFrame(seq=2, attempt=2, text="new ", tokens=1),
        ChatFrame(seq=3, attempt=1, text="old ", tokens=1),
    ]
    assert history(frames).said == Continuation("a b new ", "", 3)


def test_frames_that_a_receiver_missed_can_be_sent_again() -> None:
    reply = Reply(request(), attempt=1)
    frames = feed(reply, *words("a", "b", "c"))
    assert reply.sent_since(1) == frames[1:]
    assert reply.sent_since(3) == []


def test_what_is_held_back_goes_out_with_the_end() -> None:
    reply = Reply(request(), attempt=1)
    (first, _) = feed(reply, *words("a ", "b "))
    reply.hold_back()
    assert reply.sent_since(0) == [first]
    assert feed(reply, Chunk(finish="stop", prompt_tokens=9, completion_tokens=3)) == []
    last = reply.end("stop")
    assert (last.seq, last.text, last.tokens) == (1, "b ", 2)
    assert last.end is not None
    assert last.end.usage.completion_tokens == 3
    assert reply.sent_since(0) == [first, last]
    assert reply.release() is None


def test_what_is_held_back_can_go_out_before_the_end() -> None:
    reply = Reply(request(), attempt=1)
    (first,) = feed(reply, *words("a "))
    reply.hold_back()
    assert reply.release() == first
    last = reply.end("error", FAILED)
    assert (last.seq, last.text, last.tokens) == (1, "", 0)
    assert reply.sent_since(0) == [first, last]


def test_history_without_its_beginning_is_not_whole() -> None:
    assert not history([ChatFrame(seq=5, attempt=1, text="z", tokens=1)]).whole


@pytest.mark.parametrize("reason", ["cancelled", "error"])
def test_reply_cut_before_its_first_token_used_what_was_read_of_its_prompt(reason: EndReason) -> None:
    reply = Reply(request(), attempt=1)
    assert reply.take(Chunk(read_prompt_tokens=64)) is None
    assert reply.take(Chunk(read_prompt_tokens=128)) is None
    end = reply.end(reason).end
    assert end is not None
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (128, 0)


def test_whoever_polls_is_told_at_once_that_a_reply_is_begun_again() -> None:
    reply = Reply(request(), attempt=1, tells_restarts=True)
    assert reply.restarted() is None
    frames = feed(reply, Chunk(), Chunk(restarts=1), Chunk(restarts=1), *words("a "), Chunk(restarts=2))
    assert [(frame.seq, frame.text, frame.restarts) for frame in frames] == [(0, "", 1), (1, "a ", 1), (2, "", 2)]
    assert [frame.says_something for frame in frames] == [False, True, False]
    reply.begin_run()
    frame = reply.restarted()
    assert frame is not None
    assert (frame.seq, frame.restarts) == (3, 3)
    assert reply.restarted() is None
    last = reply.end("stop")
    assert last.end is not None
    assert last.end.restarts == 3
    assert [frame.restarts for frame in feed(Reply(request(), attempt=1), Chunk(restarts=1))] == []


def test_a_frame_that_tells_no_more_than_a_restart_begins_no_reply() -> None:
    reply = Reply(request(), attempt=2, tells_restarts=True)
    frame = reply.restarted()
    assert frame is not None
    assert not reply.started
    past = history([frame])
    assert (past.next_seq, past.started, past.silent) == (1, False, True)
    successor = Reply(request(), attempt=3, prior=past, tells_restarts=True)
    assert not successor.started
    # Frames that the bus has forgotten were as silent as those that it has.
    lost = history([frame.model_copy(update={"seq": 7})])
    assert (lost.next_seq, lost.started, lost.whole) == (8, False, True)
    end = successor.end("cancelled").end
    assert end is not None
    assert end.usage.prompt_tokens == 0
    feed(successor, *words("a "))
    assert successor.started


def test_that_a_reply_waits_again_is_told_again_before_the_bus_forgets_it() -> None:
    now_s = 0.0
    reply = Reply(request(), attempt=1, tells_restarts=True, clock=lambda: now_s)
    assert len(feed(reply, Chunk(restarts=1), Chunk(restarts=1))) == 1
    now_s += TELL_AGAIN_S
    (again,) = feed(reply, Chunk(restarts=1), Chunk(restarts=1))
    assert (again.restarts, again.silent) == (1, True)
    now_s += TELL_AGAIN_S
    (again,) = feed(reply, *words("a "))
    assert (again.silent, again.restarts) == (False, 1)
    quiet = Reply(request(), attempt=1, tells_restarts=True, clock=lambda: 1e9)
    assert feed(quiet, Chunk(), Chunk()) == []


def test_only_work_counts_where_a_reply_waits_for_somebody_to_write_it() -> None:
    reply = Reply(request(), attempt=1)
    feed(reply, *words("a "))
    assert reply.worked_s is None
    feed(reply, Chunk(text="b ", tokens=1, worked_s=2.0), Chunk(worked_s=3.0))
    reply.begin_run()
    feed(reply, Chunk(text="c", tokens=1, worked_s=0.5), Chunk(finish="stop", worked_s=1.5))
    assert reply.worked_s == 4.5

"""One continuous stream out of frames that come late, twice, out of order, or from two workers at once."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard_contracts.chat import ChatEnd, ChatFrame, ChatResult, TokenUsage, ToolCall
from callboard_contracts.speech import AudioSegment, SegmentInfo, SpeechEnd
from callboard_edge.domain.reorder import SpeechReorderBuffer, TextReorderBuffer
from tests.unit.edge.harness import frames

pytestmark = pytest.mark.unit

WORDS = tuple(f"w{n} " for n in range(12))
TEXT = "".join(WORDS)


def cut(text: str, cuts: list[int]) -> list[str]:
    """Cuts a text at some places; a worker that takes over cuts elsewhere than the first one did."""
    places = sorted({place % (len(text) + 1) for place in cuts} | {0, len(text)})
    return [text[start:end] for start, end in pairwise(places)]


def play(buffer: TextReorderBuffer, sent: list[ChatFrame]) -> str:
    return "".join(frame.text for frame in buffer.feed(sent))


def test_frames_in_order_go_out_as_they_come() -> None:
    buffer = TextReorderBuffer()
    for number, frame in enumerate(frames("a", "b")):
        assert buffer.feed([frame]) == [frame]
        assert buffer.next_seq == number + 1
    assert buffer.end is not None
    assert (buffer.text, buffer.tokens) == ("ab", 2)


@given(seed=st.integers(0, 2**32), twice=st.booleans(), batch=st.integers(1, 5))
def test_frames_in_any_order_and_repeated_give_the_text_once(seed: int, twice: bool, batch: int) -> None:
    sent = frames(*WORDS) * (2 if twice else 1)
    random.Random(seed).shuffle(sent)
    buffer = TextReorderBuffer()
    heard = "".join(play(buffer, sent[start : start + batch]) for start in range(0, len(sent), batch))
    assert heard == TEXT
    assert buffer.end is not None
    assert not buffer.missing


CALL, OTHER = ToolCall(id="c1", name="dim", arguments="{}"), ToolCall(id="c2", name="dim", arguments="{}")
CALLING = ChatFrame(seq=0, attempt=1, tool_calls=(CALL,))
DONE = ChatEnd(reason="tool_calls", usage=TokenUsage(prompt_tokens=1, completion_tokens=1))


def test_tool_calls_that_went_out_are_not_repeated_by_the_finished_reply() -> None:
    buffer = TextReorderBuffer()
    assert buffer.feed([CALLING]) == [CALLING]
    last = buffer.complete(
        ChatResult(request_id="r", model="owl", text="", thinking="", tool_calls=(CALL, OTHER), end=DONE)
    )
    assert (last.tool_calls, last.end) == ((OTHER,), DONE)


def test_finished_reply_with_other_tool_calls_than_went_out_is_an_error() -> None:
    buffer = TextReorderBuffer()
    buffer.feed([CALLING])
    last = buffer.complete(ChatResult(request_id="r", model="owl", text="", thinking="", tool_calls=(OTHER,), end=DONE))
    assert last.tool_calls == ()
    assert last.end is not None
    assert last.end.reason == "error"


def test_tool_calls_of_a_newer_attempt_take_the_place_of_those_that_went_out() -> None:
    buffer = TextReorderBuffer()
    buffer.feed([CALLING])
    buffer.announce(2)
    again = ChatFrame(seq=0, attempt=2, tool_calls=(OTHER, OTHER))
    ready = buffer.feed([again, ChatFrame(seq=1, attempt=2, end=DONE)])
    assert [frame.tool_calls for frame in ready] == [(OTHER,), ()]
    assert buffer.end == DONE


@given(lost=st.sets(st.integers(0, 12)), seed=st.integers(0, 2**32))
def test_frames_that_were_lost_come_from_a_replay(lost: set[int], seed: int) -> None:
    sent = frames(*WORDS)
    buffer = TextReorderBuffer()
    heard = play(buffer, [frame for frame in sent if frame.seq not in lost])
    first = min(lost, default=99)
    assert heard == "".join(WORDS[:first])
    assert buffer.missing == any(seq not in lost for seq in range(first + 1, 13))
    random.Random(seed).shuffle(sent)
    assert heard + play(buffer, sent) == TEXT
    assert buffer.end is not None


@given(
    seen=st.integers(0, 12),
    cuts=st.lists(st.integers(0, 99), max_size=8),
    zombie=st.integers(0, 4),
    order=st.integers(0, 2**32),
)
def test_second_worker_continues_and_the_woken_first_one_does_not_disturb(
    seen: int, cuts: list[int], zombie: int, order: int
) -> None:
    """The first worker stops after `seen` frames and wakes later; the second one cuts the rest in its own way."""
    first = frames(*WORDS, end=None)
    rest = "".join(WORDS[seen:])
    second = frames(*cut(rest, cuts), attempt=2, first=seen) if rest else frames(attempt=2, first=seen)
    woken = first[seen : seen + zombie]
    # Each worker's own frames stay in order, but the two mix in any way.
    mixed: list[ChatFrame] = []
    left = [list(woken), list(second)]
    choose = random.Random(order)
    while any(left):
        mixed.append(choose.choice([queue for queue in left if queue]).pop(0))
    buffer = TextReorderBuffer()
    heard = play(buffer, first[:seen])
    heard += "".join(play(buffer, [frame]) for frame in mixed)
    assert heard == TEXT
    assert buffer.end is not None
    assert buffer.attempt == 2


def test_announced_attempt_silences_the_older_one_at_once() -> None:
    buffer = TextReorderBuffer()
    assert play(buffer, frames("a", "b", end=None)) == "ab"
    buffer.announce(2)
    assert play(buffer, frames("old", first=2, end=None)) == ""
    assert not buffer.missing
    assert play(buffer, frames("new", first=2, attempt=2)) == "new"


def test_announced_attempt_lets_the_older_ones_lost_frames_through() -> None:
    buffer = TextReorderBuffer()
    first, second = frames("a", "b", end=None), frames("c", first=2, attempt=2)
    assert play(buffer, first[:1]) == "a"
    buffer.announce(2)
    assert play(buffer, second) == ""
    assert buffer.missing
    assert play(buffer, first) == "bc"


@given(seen=st.integers(0, 12))
def test_result_completes_what_was_not_said(seen: int) -> None:
    buffer = TextReorderBuffer()
    heard = play(buffer, frames(*WORDS[:seen], end=None))
    end = ChatEnd(reason="stop", usage=TokenUsage(prompt_tokens=1, completion_tokens=12))
    frame = buffer.complete(ChatResult(request_id="r", model="m", text=TEXT, end=end))
    assert heard + frame.text == TEXT
    assert frame.end == buffer.end == end


def test_result_that_does_not_continue_the_stream_ends_it_with_an_error() -> None:
    buffer = TextReorderBuffer()
    play(buffer, frames("one ", end=None))
    frame = buffer.complete(ChatResult(request_id="r", model="m", text="two", end=ChatEnd(reason="stop")))
    assert frame.text == ""
    assert frame.end is not None
    assert frame.end.reason == "error"


def test_nothing_follows_the_end() -> None:
    buffer = TextReorderBuffer()
    play(buffer, frames("a"))
    assert play(buffer, frames("x", first=2, attempt=2)) == ""
    assert not buffer.missing


PCM = [bytes([number]) * 40 for number in range(6)]
"""Six pieces of 40 bytes."""


def segments(
    sizes: list[int], attempt: int = 1, first: int = 0, piece: int = 0, offset: int = 0, *, end: bool = True
) -> list[AudioSegment]:
    """Speaks the pieces from a place on, in segments of the given sizes."""
    found: list[AudioSegment] = []
    n, turn = first, 0
    while piece < len(PCM):
        size = sizes[turn % len(sizes)]
        turn += 1
        part = PCM[piece][offset : offset + size]
        done = offset + size >= len(PCM[piece])
        info = SegmentInfo(attempt=attempt, piece=piece, offset_bytes=offset, piece_done=done)
        found.append(AudioSegment(n, info, part))
        n += 1
        piece, offset = (piece + 1, 0) if done else (piece, offset + size)
    if end:
        info = SegmentInfo(attempt=attempt, piece=piece, offset_bytes=0, end=SpeechEnd(reason="stop"))
        found.append(AudioSegment(n, info, b""))
    return found


def sound(buffer: SpeechReorderBuffer, sent: list[AudioSegment]) -> bytes:
    return b"".join(segment.pcm for segment in buffer.feed(sent))


@given(seed=st.integers(0, 2**32), size=st.integers(1, 50), twice=st.booleans())
def test_segments_in_any_order_and_repeated_give_the_sound_once(seed: int, size: int, twice: bool) -> None:
    sent = segments([size]) * (2 if twice else 1)
    random.Random(seed).shuffle(sent)
    buffer = SpeechReorderBuffer()
    assert b"".join(sound(buffer, [segment]) for segment in sent) == b"".join(PCM)
    assert buffer.ended


@given(seen=st.integers(0, 20), size=st.integers(5, 40), other=st.integers(5, 40), order=st.integers(0, 2**32))
def test_second_speaker_continues_and_the_woken_first_one_is_not_heard_twice(
    seen: int, size: int, other: int, order: int
) -> None:
    first = segments([size], end=False)
    seen = min(seen, len(first) - 1)
    place = first[seen].info
    second = segments([other], attempt=2, first=seen, piece=place.piece, offset=place.offset_bytes)
    woken = first[seen : seen + 3]
    mixed: list[AudioSegment] = []
    left = [list(woken), list(second)]
    choose = random.Random(order)
    while any(left):
        mixed.append(choose.choice([queue for queue in left if queue]).pop(0))
    buffer = SpeechReorderBuffer()
    heard = sound(buffer, first[:seen]) + b"".join(sound(buffer, [segment]) for segment in mixed)
    assert heard == b"".join(PCM)
    assert buffer.ended

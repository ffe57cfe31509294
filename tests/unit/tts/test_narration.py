"""The text of a reply that is read while it is written: order, attempts, ends."""

import random

import pytest

from callboard_contracts.chat import ChatEnd, ChatFrame, ChatResult
from callboard_tts.domain.narration import NarratedText

pytestmark = pytest.mark.unit

STOP = ChatEnd(reason="stop")


def frame(seq: int, text: str, attempt: int = 1, end: ChatEnd | None = None) -> ChatFrame:
    return ChatFrame(seq=seq, attempt=attempt, text=text, end=end)


def result(text: str) -> ChatResult:
    return ChatResult(request_id="r", model="owl", text=text, end=STOP)


def test_frames_in_any_order_and_twice_give_the_text_once() -> None:
    words = [f"word{n} " for n in range(20)]
    frames = [frame(n, word, end=STOP if n == 19 else None) for n, word in enumerate(words)]
    generator = random.Random(3)
    for _ in range(50):
        shuffled = [*frames, *generator.sample(frames, 5)]
        generator.shuffle(shuffled)
        text = NarratedText()
        assert "".join(text.feed([one]) for one in shuffled) == "".join(words)
        assert text.end == STOP
        assert not text.missing


def test_gap_is_seen_until_it_is_filled() -> None:
    text = NarratedText()
    assert not text.feed([frame(1, "b")])
    assert text.missing
    assert text.feed([frame(0, "a")]) == "ab"
    assert not text.missing


def test_newer_attempt_replaces_what_was_not_handed_out_yet() -> None:
    text = NarratedText()
    assert text.feed([frame(0, "Hello "), frame(1, "there ")]) == "Hello there "
    assert text.feed([frame(1, "my dear friend", attempt=2)]) == "r friend"
    assert text.feed([frame(2, ".", attempt=2, end=STOP)]) == "."


def test_kept_result_gives_the_rest() -> None:
    text = NarratedText()
    text.feed([frame(0, "Hello ")])
    assert text.complete(result("Hello there.")) == "there."
    assert not text.failed


def test_kept_result_that_goes_another_way_ends_the_reply_there() -> None:
    text = NarratedText()
    text.feed([frame(0, "Hello ")])
    assert not text.complete(result("Good morning."))
    assert text.failed


@pytest.mark.parametrize(("reason", "failed"), [("stop", False), ("length", False), ("error", True)])
def test_reply_that_broke_off_is_told_from_one_that_ended(reason: str, failed: bool) -> None:
    text = NarratedText()
    text.feed([frame(0, "Hello", end=ChatEnd.model_validate({"reason": reason}))])
    assert text.failed is failed

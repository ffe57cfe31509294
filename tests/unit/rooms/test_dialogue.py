"""What a model is given of a dialogue, and how it is cut."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard_contracts.chat import ChatRequest, ChatResult
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.prompt_size import prompt_bytes
from callboard_contracts.rooms import Room, Turn, without_speaker
from callboard_rooms.domain.dialogue import KEPT, Limits, request_of
from callboard_rooms.domain.room import Change, added, ended, new_room
from tests.unit.rooms.turns import NOW, result, turn

pytestmark = pytest.mark.unit

CONTEXT = 400
REPLY = 50
TOKENS_PER_BYTE = 0.5


def known(change: Change) -> Room:
    """The room of a change that does not end it; its document, if it has one, is its own."""
    assert change.room is not None
    assert change.document in {None, change.room.compact()}
    return change.room


def begun(room: Room, one: Turn, limits: Limits) -> tuple[Room, ChatRequest]:
    """The room with a turn running, and what its model is asked."""
    room = known(added(room, one, limits, NOW, unique=True))
    assert room.running is not None
    return room, request_of(room, room.running)


def tokens(request: ChatRequest) -> int:
    """How long an engine finds a prompt."""
    return round(prompt_bytes(request) * TOKENS_PER_BYTE) + 8 * len(request.messages)


def over(room: Room, request: ChatRequest, limits: Limits, text: str = "Hoo. " * 8) -> Room:
    """The room after its running turn was answered."""
    assert room.running is not None
    kept = result(room.running.id, text, prompt_tokens=tokens(request))
    return known(ended(room, room.running.id, kept, limits, NOW))


@settings(deadline=None, max_examples=20)
@given(st.integers(4, 60))
def test_room_remembers_no_more_than_it_may_and_cuts_to_three_quarters(most: int) -> None:
    limits = Limits(max_messages=most)
    room = new_room("ait", "stage", NOW)
    sizes: list[int] = []
    for _ in range(most):
        room, request = begun(room, turn(), limits)
        room = over(room, request, limits)
        sizes.append(len(room.messages))
        assert [message.role for message in room.messages] == ["user", "assistant"] * (len(room.messages) // 2)
    assert max(sizes) <= most
    cuts = [size for before, size in pairwise(sizes) if size < before]
    assert cuts
    assert all(most * KEPT - 2 <= size <= most * KEPT for size in cuts)


def test_prompt_fits_the_context_by_the_engines_count_and_seldom_changes_its_beginning() -> None:
    limits = Limits(max_messages=500, context_tokens={"owl": CONTEXT})
    room = new_room("ait", "stage", NOW)
    kept_beginning = 0
    previous: tuple[str, ...] = ()
    for n in range(60):
        room, request = begun(room, turn(f"Line {n} of many, with some words."), limits)
        assert tokens(request) <= CONTEXT - REPLY
        texts = tuple(message.content for message in request.messages)
        kept_beginning += texts[: len(previous)] == previous
        previous = texts
        room = over(room, request, limits)
    # Each cut makes room for several turns.
    assert kept_beginning >= 40


def test_one_models_short_context_leaves_others_the_whole_dialogue() -> None:
    limits = Limits(max_messages=500, context_tokens={"owl": CONTEXT, "eagle": 100_000})
    room = new_room("ait", "stage", NOW)
    for _ in range(20):
        room, request = begun(room, turn(), limits)
        room = over(room, request, limits)
    asked = turn().request
    assert asked is not None
    _room, request = begun(room, turn(request=asked.model_copy(update={"model": "eagle"})), limits)
    assert len(request.messages) == 1 + 40 + 1


def test_prompt_that_the_engine_finds_too_long_halves_what_its_model_is_given() -> None:
    limits = Limits(max_messages=500)
    room = new_room("ait", "stage", NOW)
    for _ in range(8):
        room, request = begun(room, turn(), limits)
        room = over(room, request, limits)
    room, request = begun(room, turn(), limits)
    assert len(request.messages) == 1 + 16 + 1
    assert room.running is not None
    failed: ChatResult = result(room.running.id, "", "error")
    error = ErrorInfo(code=ErrorCode.CONTEXT_LENGTH_EXCEEDED, message="Too long.")
    failed = failed.model_copy(update={"end": failed.end.model_copy(update={"error": error})})
    room = known(ended(room, room.running.id, failed, limits, NOW))
    assert room.ended[-1].failed
    _room, request = begun(room, turn(), limits)
    assert len(request.messages) == 1 + 8 + 1


def test_request_is_no_larger_than_a_job_may_be() -> None:
    limits = Limits(max_messages=500, max_request_bytes=4000)
    room = new_room("ait", "stage", NOW)
    for _ in range(20):
        room, request = begun(room, turn('"quoted"\n' * 20), limits)
        assert len(request.compact()) <= 4000
        room = over(room, request, limits)


@pytest.mark.parametrize(
    ("text", "character", "said"),
    [
        ("Owl: Hoo.", "Owl", "Hoo."),
        ("oWL:Hoo.", "Owl", "Hoo."),
        ("Owl:  Hoo.", "Owl", " Hoo."),
        ("Owls: Hoo.", "Owl", "Owls: Hoo."),
        ("Hoo.", "Owl", "Hoo."),
        (": Hoo.", "", ": Hoo."),
        ("", "Owl", ""),
    ],
)
def test_leading_name_of_the_character_is_taken_off(text: str, character: str, said: str) -> None:
    assert without_speaker(text, character) == said


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(["post", "end", "fail", "again"]), max_size=40), st.data())
def test_turns_keep_their_order_whatever_is_repeated(steps: list[str], data: Any) -> None:
    limits = Limits()
    room = new_room("ait", "stage", NOW)
    posted: list[Turn] = []
    started: list[str] = []
    for step in steps:
        before = room
        if step == "post":
            posted.append(turn())
            room = known(added(room, posted[-1], limits, NOW, unique=True))
        elif step in {"end", "fail"} and room.running is not None:
            reason = "stop" if step == "end" else "error"
            room = known(ended(room, room.running.id, result(room.running.id, reason=reason), limits, NOW))
        elif posted:
            # A turn that was posted before is posted again, or ends again unless it runs.
            old = data.draw(st.sampled_from(posted))
            assert added(room, old, limits, NOW, unique=True).room is room
            if room.running is None or room.running.id != old.id:
                assert ended(room, old.id, result(old.id), limits, NOW).room is room
        if room.running is not None and room.running != before.running:
            started.append(room.running.id)
    assert started == [one.id for one in posted][: len(started)]
    over_or_open = [*room.ended, *([room.running] if room.running else []), *room.waiting]
    assert [one.id for one in over_or_open] == [one.id for one in posted]
    assert [one.number for one in over_or_open] == list(range(1, len(posted) + 1))


def test_turn_may_remember_less_than_the_room() -> None:
    limits = Limits(max_messages=25)
    room = new_room("character", "t/mira.1/Ada", NOW)
    for _ in range(12):
        room, request = begun(room, turn(memory_messages=6), limits)
        assert len(request.messages) <= 2 + 6
        room = over(room, request, limits)
    assert len(room.messages) in {4, 6}


def test_lines_of_a_dialogue_of_two_have_no_names() -> None:
    room, request = begun(new_room("character", "k", NOW), turn("Hi.", named_lines=False), Limits())
    room = over(room, request, Limits(), "Owl: Hoo.")
    room, request = begun(room, turn("And?", named_lines=False), Limits())
    assert [one.content for one in request.messages][1:] == ["Hi.", "Hoo.", "And?"]


def test_prompt_goes_on_with_the_dialogue_as_evennia_writes_it() -> None:
    asked = ChatRequest(mode="completion", model="owl", prompt="You are the owl.", max_output_tokens=50)
    room, request = begun(new_room("character", "k", NOW), turn("Hi.", request=asked, named_lines=False), Limits())
    room = over(room, request, Limits(), " Hoo.")
    room, request = begun(room, turn("And?", request=asked, named_lines=False), Limits())
    assert request.prompt == "You are the owl.\nAnn: Hi.\nOwl: Hoo.\nAnn: And?\nOwl:"
    assert (request.messages, request.turn is not None) == ((), True)


def test_long_dialogue_of_a_prompt_is_cut_to_the_context() -> None:
    asked = ChatRequest(mode="completion", model="owl", prompt="You are the owl.", max_output_tokens=REPLY)
    limits = Limits(context_tokens={"owl": CONTEXT})
    room = new_room("character", "k", NOW)
    sizes: list[int] = []
    for _ in range(20):
        room, request = begun(room, turn(request=asked), limits)
        assert request.prompt.startswith("You are the owl.\nAnn: ")
        sizes.append(tokens(request) + REPLY)
        room = over(room, request, limits)
    assert max(sizes[1:]) <= CONTEXT
    assert len(set(sizes)) > 5


def test_form_that_writes_who_speaks_is_told() -> None:
    asked = ChatRequest(model="owl", prompt_format="pygmalion", max_output_tokens=50)
    room, request = begun(new_room("character", "k", NOW), turn("Hi.", request=asked, named_lines=False), Limits())
    room, request = begun(over(room, request, Limits()), turn("And?", request=asked, named_lines=False), Limits())
    assert [(one.name, one.content) for one in request.messages][::2] == [("Ann", "Hi."), ("Ann", "And?")]
    assert request.messages[1].name == "Owl"

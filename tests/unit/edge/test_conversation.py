"""How conversations may end, whatever protocol they come in."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard_contracts.chat import ChatMessage, ChatRequest, ToolCall
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.conversation import with_usual_end

pytestmark = pytest.mark.unit

CALL = ToolCall(id="c", name="dim", arguments="{}")


def request(*turns: tuple[str, str] | ChatMessage, **fields: Any) -> ChatRequest:
    messages = [
        turn if isinstance(turn, ChatMessage) else ChatMessage.model_validate({"role": turn[0], "content": turn[1]})
        for turn in turns
    ]
    return ChatRequest.model_validate({"model": "owl", "messages": messages, "max_output_tokens": 9, **fields})


def ends(*turns: tuple[str, str] | ChatMessage) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in with_usual_end(request(*turns)).messages]


USER = ("user", "Say hi.")
ENDS: dict[str, tuple[list[tuple[str, str]], list[tuple[str, str]]]] = {
    "a user": ([USER], [USER]),
    "an empty assistant": ([USER, ("assistant", "")], [USER]),
    "a blank assistant": ([USER, ("assistant", " \n\t")], [USER]),
    "several empty ones": ([USER, ("assistant", ""), ("assistant", "  "), ("assistant", "")], [USER]),
    "a start of the reply": ([USER, ("assistant", "Hello ")], [USER, ("assistant", "Hello ")]),
    "two starts": ([USER, ("assistant", "Hello"), ("assistant", "there")], [USER, ("assistant", "Hello\n\nthere")]),
    "a start between empty ones": (
        [USER, ("assistant", ""), ("assistant", "Hello"), ("assistant", "")],
        [USER, ("assistant", "Hello")],
    ),
    "only a start": ([("assistant", "Once upon")], [("assistant", "Once upon")]),
    "empty ones in the middle": (
        [("assistant", ""), USER, ("assistant", ""), USER],
        [("assistant", ""), USER, ("assistant", ""), USER],
    ),
    "a system message": ([("system", "Be kind."), ("assistant", "")], [("system", "Be kind.")]),
}


@pytest.mark.parametrize("case", ENDS)
def test_end_becomes_one_start_of_the_reply_or_none(case: str) -> None:
    given_turns, wanted = ENDS[case]
    assert ends(*given_turns) == wanted


@pytest.mark.parametrize("turns", [[("assistant", "")], [("assistant", ""), ("assistant", " ")]])
def test_conversation_without_anything_to_answer_is_refused(turns: list[tuple[str, str]]) -> None:
    with pytest.raises(CallboardError) as refused:
        with_usual_end(request(*turns))
    assert (refused.value.info.code, refused.value.info.param) == (ErrorCode.INVALID_REQUEST, "messages")


@pytest.mark.parametrize("after", [[], [("assistant", "")], [("assistant", "Done.")]])
def test_tool_calls_without_results_are_refused_where_they_stand(after: list[tuple[str, str]]) -> None:
    calling = ChatMessage(role="assistant", tool_calls=(CALL,))
    with pytest.raises(CallboardError) as refused:
        with_usual_end(request(USER, calling, *after))
    assert (refused.value.info.code, refused.value.info.param) == (
        ErrorCode.INVALID_REQUEST,
        "messages[1].tool_calls",
    )
    answered = request(USER, calling, ChatMessage(role="tool", content="ok", tool_call_id="c"), *after)
    assert with_usual_end(answered).messages[:3] == answered.messages[:3]


def test_raw_prompt_has_no_turns() -> None:
    raw = request(mode="completion", prompt="x")
    assert with_usual_end(raw) is raw


TURNS = st.lists(st.tuples(st.sampled_from(("user", "assistant", "system")), st.text(max_size=3)), min_size=1)


@given(TURNS)
def test_no_conversation_ends_in_two_or_empty_turns_of_the_assistant(turns: list[tuple[str, str]]) -> None:
    try:
        left = ends(*turns)
    except CallboardError:
        assert not any(role != "assistant" or text.strip() for role, text in turns)
        return
    assert not (left[-1][0] == "assistant" and not left[-1][1].strip())
    assert [role for role, _ in left[-2:]] != ["assistant", "assistant"]
    said = "".join(text for role, text in turns if role != "assistant" or text.strip())
    kept = "".join(text for role, text in left if role != "assistant" or text.strip())
    assert "".join(kept.split()) == "".join(said.split())

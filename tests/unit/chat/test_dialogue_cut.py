"""A dialogue that is too long loses its oldest messages, at a place that stays put."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard_chat.domain.dialogue_cut import fitted
from callboard_contracts.chat import ChatMessage, ChatRequest, Role, ToolCall

pytestmark = pytest.mark.unit

WORD = "wordy "
CONTEXT = 400


class Words:
    """Counts six bytes and each message for a token, and how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self, request: ChatRequest) -> int:
        self.asked += 1
        return sum(len(message.content) // len(WORD) + 1 for message in request.messages)


def turn(role: Role, number: int, words: int = 20) -> ChatMessage:
    return ChatMessage(role=role, content=f"{number:05} " + WORD * (words - 1))


def dialogue(turns: int, words: int = 20) -> list[ChatMessage]:
    system = ChatMessage(role="system", content="Be an owl.")
    roles: list[Role] = ["assistant" if n % 2 else "user" for n in range(turns)]
    return [system, *(turn(role, n, words) for n, role in enumerate(roles))]


def asking(messages: list[ChatMessage], output: int = 50, context: int | None = None) -> ChatRequest:
    return ChatRequest(
        model="owl", messages=tuple(messages), max_output_tokens=output, context_tokens=context, overflow="drop_front"
    )


async def test_short_dialogue_is_not_even_counted() -> None:
    count = Words()
    request = asking(dialogue(1, words=2))
    assert await fitted(request, 4096, count) is request
    assert count.asked == 0


async def test_dialogue_that_fits_is_left_as_it_is() -> None:
    count = Words()
    request = asking(dialogue(15))
    assert await fitted(request, CONTEXT, count) is request
    assert count.asked == 1


async def test_oldest_messages_go_and_the_rest_begins_with_the_user() -> None:
    count = Words()
    request = asking(dialogue(41))
    cut = await fitted(request, CONTEXT, count)
    assert cut.messages[0] == request.messages[0]
    assert cut.messages[1].role == "user"
    assert cut.messages[1:] == request.messages[-len(cut.messages) + 1 :]
    assert 250 < await count(cut) <= 350
    assert cut.max_output_tokens == 50


async def test_cut_stays_put_for_several_turns() -> None:
    beginnings: list[str] = []
    for turns in range(201, 241, 2):
        cut = await fitted(asking(dialogue(turns, words=4)), CONTEXT, Words())
        beginnings.append(cut.messages[1].content)
    assert beginnings == sorted(beginnings)
    assert len(set(beginnings)) <= len(beginnings) * 3 // 4


async def test_context_that_is_asked_for_bounds_prompt_and_reply() -> None:
    count = Words()
    cut = await fitted(asking(dialogue(41), output=300, context=200), CONTEXT, count)
    tokens = await count(cut)
    assert tokens <= 150
    assert cut.max_output_tokens == 200 - tokens
    short = await fitted(asking(dialogue(1, words=2), output=9000, context=1000), 4096, count)
    assert 600 < short.max_output_tokens < 1000


async def test_last_turn_stays_whole_with_what_follows_the_user() -> None:
    calls = (ToolCall(id="1", name="dim", arguments="{}"),)
    end = [
        turn("user", 90),
        ChatMessage(role="assistant", tool_calls=calls),
        ChatMessage(role="tool", content="dimmed", tool_call_id="1"),
    ]
    cut = await fitted(asking([*dialogue(60), *end]), 150, Words())
    assert list(cut.messages[-3:]) == end


@pytest.mark.parametrize("letter", ["w", "\u0436", "\U0001f989"])
async def test_single_message_that_is_too_long_loses_its_beginning(letter: str) -> None:
    text = letter * 9000 + "The end."
    count = Words()
    system = ChatMessage(role="system", content="Be an owl.")
    cut = await fitted(asking([system, ChatMessage(role="user", content=text)]), CONTEXT, count)
    assert cut.messages[0] == system
    assert text.endswith(cut.messages[1].content)
    assert 200 < await count(cut) <= 350


async def test_dialogue_without_a_user_is_left_to_the_engine() -> None:
    messages = [turn("system", 1, 900), turn("assistant", 2, 5)]
    request = asking(messages)
    assert (await fitted(request, CONTEXT, Words())).messages == request.messages


@given(
    st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.integers(1, 120)), max_size=40),
    st.integers(1, 600),
    st.integers(40, 2000),
)
@settings(max_examples=60, deadline=None)
async def test_any_dialogue_keeps_its_system_and_its_last_message(
    shape: list[tuple[Role, int]], output: int, context: int
) -> None:
    messages = [turn(role, n, words) for n, (role, words) in enumerate(shape)] + [turn("user", 99999, 3)]
    cut = await fitted(asking(messages, output), context, Words())
    assert [one for one in cut.messages if one.role == "system"] == [one for one in messages if one.role == "system"]
    assert cut.messages[-1].content
    assert cut.messages[-1].role == "user"
    assert 1 <= cut.max_output_tokens <= output

"""Tool calls as text: written, read back in whatever pieces they come, and checked against their tools."""

import itertools
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard_chat.domain.json_check import satisfies
from callboard_chat.domain.ports import Continuation
from callboard_chat.domain.prefill import with_reply
from callboard_chat.domain.tool_calls import PLAIN, CallForm, CallReader, as_text, checked_calls
from callboard_contracts.chat import ChatMessage, ChatRequest, Tool, ToolCall
from callboard_contracts.prompt_size import prompt_tokens_bound
from callboard_worker.engine import EngineFailed

pytestmark = pytest.mark.unit

LEVEL = {"type": "object", "properties": {"level": {"type": "integer", "minimum": 0}}, "required": ["level"]}
DIM = Tool(name="dim", description="Dims the light.", parameters=LEVEL)
LOOK = Tool(name="look")
FORMS = (PLAIN, CallForm('{"name": "', '", "parameters": ', "}", "; "), CallForm("[call ", ": ", "]", ""))


def request(*messages: ChatMessage, **fields: Any) -> ChatRequest:
    turns = messages or (ChatMessage(role="user", content="Dim it."),)
    return ChatRequest.model_validate({"model": "owl", "messages": turns, "max_output_tokens": 9, **fields})


def call(arguments: str = '{"level":3}', name: str = "dim", call_id: str = "c") -> ToolCall:
    return ToolCall(id=call_id, name=name, arguments=arguments)


def read(form: CallForm, pieces: list[str], *, complete: bool = True) -> tuple[str, list[tuple[str, str]]]:
    reader = CallReader(form)
    text = "".join(reader.feed(piece) for piece in pieces)
    rest, calls = reader.end(complete=complete)
    return text + rest, [(one.name, one.arguments) for one in calls]


def cut(text: str, at: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in at)})
    return [text[start:end] for start, end in itertools.pairwise(edges)]


@given(
    form=st.sampled_from(FORMS),
    said=st.text(alphabet="ab <tool_cl>{\n", max_size=30),
    values=st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20) | st.integers(), max_size=3), max_size=3),
    at=st.lists(st.integers(0, 10_000), max_size=12),
)
def test_reply_is_read_alike_however_it_is_cut(
    form: CallForm, said: str, values: list[dict[str, Any]], at: list[int]
) -> None:
    if form.mark in said:
        return
    calls = [("dim", json.dumps(value)) for value in values]
    text = said + form.separator.join(form.written(call(arguments)) for _, arguments in calls)
    if text.index(form.mark) != len(said) if calls else False:
        return
    assert read(form, cut(text, at)) == (said.rstrip() if calls else said, calls)


def test_words_come_at_once_and_a_mark_never() -> None:
    reader = CallReader(PLAIN)
    assert [reader.feed(piece) for piece in ("Let me ", "see. <", "b> ", "<tool", "_cal", "l>\n{")] == [
        "Let me",
        " see.",
        " <b>",
        "",
        "",
        "",
    ]


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "dim", "arguments": {"level":3}',
        '<tool_call>\n{"name": "dim", "argu',
        "<tool_call>",
        '<tool_call>\n{"name": "dim", "arguments": {"level":',
    ],
)
def test_call_that_is_cut_off_is_left_out_and_one_that_is_malformed_fails(text: str) -> None:
    whole = PLAIN.written(call())
    assert read(PLAIN, [f"{whole}\n{text}"], complete=False) == ("", [("dim", '{"level":3}')])
    with pytest.raises(EngineFailed):
        read(PLAIN, [text])


def test_every_call_has_an_id_of_its_own() -> None:
    reader = CallReader(PLAIN)
    reader.feed(f"{PLAIN.written(call())}\n{PLAIN.written(call())}")
    _, calls = reader.end(complete=True)
    assert len({one.id for one in calls}) == len(calls) == 2


CHECKED: dict[str, tuple[dict[str, Any], tuple[ToolCall, ...], int | None]] = {
    "a good call": ({}, (call(),), 1),
    "two": ({}, (call(), call()), 2),
    "two where one is allowed": ({"parallel_tool_calls": False}, (call(), call()), 1),
    "two of a chosen one": ({"tool_choice": "dim"}, (call(), call()), 1),
    "none": ({}, (), 0),
    "none where one must be": ({"tool_choice": "required"}, (), None),
    "none of a chosen one": ({"tool_choice": "look"}, (), None),
    "another than the chosen one": ({"tool_choice": "look"}, (call(),), None),
    "one where none may be": ({"tool_choice": "none"}, (call(),), None),
    "an unknown tool": ({}, (call(name="fly"),), None),
    "arguments out of range": ({}, (call('{"level":-1}'),), None),
    "arguments that are no object": ({}, (call("[3]"),), None),
    "arguments that are no JSON": ({}, (call('{"level":'),), None),
    "no arguments where some must be": ({}, (call(""),), None),
    "no arguments where none need be": ({}, (call("", "look"),), 1),
    "a tool without parameters": ({}, (call('{"anything":1}', "look"),), 1),
}


@pytest.mark.parametrize("case", CHECKED)
def test_calls_are_checked_against_their_tools(case: str) -> None:
    fields, calls, good = CHECKED[case]
    wanted = request(tools=(DIM, LOOK), **fields)
    if good is None:
        with pytest.raises(EngineFailed):
            checked_calls(wanted, calls, complete=True)
        assert checked_calls(wanted, calls, complete=False) == ()
    else:
        assert len(checked_calls(wanted, calls, complete=True)) == good


def test_no_schema_of_a_client_reads_anything_or_takes_long() -> None:
    for schema in ({"$ref": "http://127.0.0.1:9/x"}, {"$ref": "file:///etc/passwd"}, {"type": "objekt"}):
        assert not satisfies({"a": 1}, schema)
    slow = {"properties": {"a": {"pattern": "^(a+)+$"}, "b": {"pattern": "^(?=(a*)*$)(a|aa)+$"}}}
    started = time.process_time()
    assert not satisfies({"a": "a" * 40 + "!"}, slow)
    assert not satisfies({"b": "a" * 40 + "!"}, slow)
    assert time.process_time() - started < 5
    assert satisfies({"a": "x1"}, {"properties": {"a": {"pattern": r"^(?!y)\w\d$"}}})


@pytest.mark.parametrize(
    ("keywords", "good", "bad"),
    [
        ({"items": [{"type": "integer"}], "additionalItems": False}, [1], [1, 2]),
        ({"minimum": 1, "exclusiveMinimum": True}, 2, 1),
        ({"prefixItems": [{"type": "integer"}]}, [1], ["x"]),
    ],
)
def test_schemas_that_name_no_draft_are_read_by_the_newest_that_allows_them(
    keywords: dict[str, Any], good: Any, bad: Any
) -> None:
    schema = {"type": "object", "properties": {"a": keywords}}
    assert satisfies({"a": good}, schema)
    assert not satisfies({"a": bad}, schema)


def test_conversation_with_tools_becomes_text() -> None:
    system = ChatMessage(role="system", content="Be kind.")
    asked = ChatMessage(role="user", content="Dim it twice.")
    called = ChatMessage(role="assistant", content="Yes.", tool_calls=(call(), call("{}", "look", "d")))
    done = ChatMessage(role="tool", content="done", tool_call_id="c")
    seen = ChatMessage(role="tool", content="dark", tool_call_id="d")
    text = as_text(request(system, asked, called, done, seen, tools=(DIM,), tool_choice="required"))
    assert [message.role for message in text.messages] == ["system", "user", "assistant", "user"]
    first, _, third, last = (message.content for message in text.messages)
    assert first.startswith("Be kind.\n\n")
    assert '"name":"dim"' in first
    assert first.endswith("Call dim now.")
    assert third == f"Yes.\n{PLAIN.written(call())}\n{PLAIN.written(call('{}', 'look'))}"
    assert last == "<tool_response>\ndim: done\n</tool_response>\n<tool_response>\nlook: dark\n</tool_response>"
    assert text.tools == ()
    assert not any(message.tool_calls for message in text.messages)


def test_conversation_without_tools_stays_as_it_is() -> None:
    plain = request()
    assert as_text(plain) is plain
    unused = request(tools=(DIM,), tool_choice="none")
    assert as_text(unused).messages == unused.messages


@given(
    contents=st.lists(st.text(max_size=60), min_size=1, max_size=4),
    arguments=st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3),
)
def test_text_of_tools_is_within_the_bound_of_the_prompt(contents: list[str], arguments: dict[str, str]) -> None:
    written = json.dumps(arguments)
    called = ChatMessage(role="assistant", tool_calls=(call(written), call(written, "look", "d")))
    results = [ChatMessage(role="tool", content=text, tool_call_id="c") for text in contents]
    wanted = request(ChatMessage(role="user", content="Do."), called, *results, tools=(DIM, LOOK))
    size = sum(len(message.content.encode("utf-8", "surrogatepass")) for message in as_text(wanted).messages)
    assert size + 16 * len(wanted.messages) <= prompt_tokens_bound(wanted, 10**9)


def test_reply_goes_on_in_the_turn_that_the_conversation_ends_in() -> None:
    asked, start = ChatMessage(role="user", content="Hi."), ChatMessage(role="assistant", content="Hello")
    said = Continuation(" there", "", 1)
    assert with_reply((asked, start), None) == (asked, start)
    assert [turn.content for turn in with_reply((asked, start), said)] == ["Hi.", "Hello there"]
    assert [turn.content for turn in with_reply((asked,), said)] == ["Hi.", " there"]

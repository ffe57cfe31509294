"""What the embedded llama.cpp is to follow is checked before, and a reply that leaves it is noticed."""

from typing import Any

import pytest

from callboard_chat.backends.llamacpp_grammar import (
    MAX_GRAMMAR_BYTES,
    MAX_GRAMMAR_DEPTH,
    MAX_GRAMMAR_RULES,
    ReplyChecker,
    grammar_of,
    literals,
    thoughts_after,
)
from callboard_contracts.chat import OutputFormat
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_worker.engine import EngineRefused

pytestmark = pytest.mark.unit


def schema(json_schema: dict[str, Any]) -> OutputFormat:
    return OutputFormat(kind="json_schema", json_schema=json_schema)


def gbnf(text: str) -> OutputFormat:
    return OutputFormat(kind="grammar", grammar=text)


def string(**keywords: Any) -> OutputFormat:
    return schema({"type": "object", "properties": {"x": {"type": "string", **keywords}}, "required": ["x"]})


OPTIONAL: dict[str, Any] = {"type": "object", "properties": {f"p{number}": {} for number in range(2000)}}


async def refusal(output_format: OutputFormat) -> ErrorInfo:
    with pytest.raises(EngineRefused) as refused:
        await grammar_of(output_format)
    assert refused.value.info.param == "output_format"
    return refused.value.info


async def checker(output_format: OutputFormat, said: str = "") -> ReplyChecker:
    grammar = await grammar_of(output_format)
    assert grammar is not None
    return ReplyChecker(grammar, said)


async def test_free_text_has_no_grammar() -> None:
    assert await grammar_of(OutputFormat()) is None


@pytest.mark.parametrize(
    ("output_format", "code", "named"),
    [
        (schema({"type": "array", "minItems": 5, "maxItems": 2}), ErrorCode.INVALID_REQUEST, "nothing can satisfy"),
        (schema({"type": "object", "not": {"required": ["a"]}}), ErrorCode.UNSUPPORTED, "with not"),
        (schema({"type": "array", "uniqueItems": True}), ErrorCode.UNSUPPORTED, "uniqueItems"),
        (schema({"type": "bogus"}), ErrorCode.INVALID_REQUEST, "cannot follow"),
        (string(format="bogus"), ErrorCode.INVALID_REQUEST, "format"),
        (string(pattern="^(?=a)b$"), ErrorCode.INVALID_REQUEST, "pattern"),
        (schema({"type": "object", "patternProperties": {"\\x22": True}}), ErrorCode.INVALID_REQUEST, "quote"),
        (schema(OPTIONAL), ErrorCode.INVALID_REQUEST, "too complex"),
        (gbnf("root ::= ((("), ErrorCode.INVALID_REQUEST, "GBNF"),
        (gbnf("root ::= other"), ErrorCode.INVALID_REQUEST, "GBNF"),
        (gbnf(""), ErrorCode.INVALID_REQUEST, "GBNF"),
        (gbnf("%llguidance {}\nstart: /a/"), ErrorCode.INVALID_REQUEST, "GBNF"),
        (gbnf("root ::= " + '"a" ' * MAX_GRAMMAR_BYTES), ErrorCode.INVALID_REQUEST, "bytes"),
        (gbnf('root ::= "a"\n' + 'b ::= "b"\n' * MAX_GRAMMAR_RULES), ErrorCode.INVALID_REQUEST, "rules"),
        (gbnf('root ::= "a"{-1}'), ErrorCode.INVALID_REQUEST, "GBNF"),
        (gbnf('root ::= "a"{5,1}'), ErrorCode.INVALID_REQUEST, "cannot follow"),
        (gbnf(f'root ::= "a"{{{"9" * 26}}}'), ErrorCode.INVALID_REQUEST, "too complex"),
        (gbnf("root ::= root"), ErrorCode.INVALID_REQUEST, "cannot follow"),
        (gbnf('root ::= (((("a"*)*)*)*)*'), ErrorCode.INVALID_REQUEST, "cannot follow"),
        (
            gbnf("\n".join(["root ::= r0", *(f"r{n} ::= r{n + 1} r{n + 1}" for n in range(60)), 'r60 ::= "a" | ""'])),
            ErrorCode.INVALID_REQUEST,
            "too complex",
        ),
        (gbnf(f'root ::= {"(" * 101}"a"{")" * 101}'), ErrorCode.INVALID_REQUEST, f"{MAX_GRAMMAR_DEPTH} deep"),
    ],
)
async def test_what_cannot_be_followed_is_refused_by_name(
    output_format: OutputFormat, code: ErrorCode, named: str
) -> None:
    info = await refusal(output_format)
    assert info.code is code
    assert named in info.message
    assert "bogus" not in info.message


async def test_deep_schema_is_refused_and_not_a_fault() -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(3000):
        deep = {"type": "array", "items": deep}
    assert (await refusal(schema(deep))).code is ErrorCode.INVALID_REQUEST


async def test_values_of_a_schema_are_not_taken_for_patterns() -> None:
    assert await grammar_of(schema({"const": {"pattern": '"'}})) is not None


async def test_clients_options_of_the_grammar_library_do_not_count() -> None:
    own = {"type": "object", "x-guidance": {"lenient": True, "whitespace_pattern": "x*"}, "not": {"required": ["a"]}}
    assert (await refusal(schema(own))).code is ErrorCode.UNSUPPORTED


async def test_reply_that_leaves_its_schema_is_noticed_at_once() -> None:
    reply = await checker(string())
    reply.feed('{"x"')
    with pytest.raises(EngineRefused):
        reply.feed(" :")


async def test_space_between_thoughts_and_a_value_is_none_of_the_value() -> None:
    reply = await checker(string())
    reply.feed("\n")
    reply.feed('\n{"x":')
    with pytest.raises(EngineRefused):
        reply.feed("\n")


async def test_reply_that_ends_too_early_is_noticed() -> None:
    reply = await checker(string(), '{"x":')
    with pytest.raises(EngineRefused):
        reply.end()
    whole = await checker(string(), '{"x":')
    whole.feed('"y"}')
    whole.end()


async def test_any_object_is_one_object() -> None:
    reply = await checker(OutputFormat(kind="json_object"))
    with pytest.raises(EngineRefused):
        reply.feed("[")


async def test_gbnf_keeps_its_meaning() -> None:
    text = 'root ::= item{2} # two\nitem ::= "- " [^\\n\\x41]+ ("." | "!")? "\\n"\n'
    reply = await checker(gbnf(text), "- one.\n- two")
    reply.feed("!\n")
    reply.end()
    with pytest.raises(EngineRefused):
        (await checker(gbnf(text), "- one.\n")).feed("- A")


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ('root ::= root "a" | "b"', "baaa"),
        ('root ::= "a"{1,1000000000}', "a" * 500),
        ("root ::= [a-z]{1000000}", "owl"),
    ],
)
async def test_rules_that_begin_with_themselves_and_endless_repetitions_are_followed(text: str, reply: str) -> None:
    follower = await checker(gbnf(text), reply)
    with pytest.raises(EngineRefused):
        follower.feed("B")


async def test_grammar_can_follow_the_opening_of_a_reply() -> None:
    opening = literals([(1, "<|im_start|>", True), (520, 'say "', False), (198, "\n", False)])
    grammar = await grammar_of(OutputFormat(kind="json_object"))
    assert grammar is not None
    assert opening == '<[1]> "say \\"" "\\n"'
    assert grammar.after(opening, "none").splitlines()[1] == f"start: {opening} reply"
    assert "thought? reply" in grammar.after(opening, "may")
    assert "thought reply" in grammar.after(opening, "open")


@pytest.mark.parametrize(
    ("opening", "has_text", "thoughts"),
    [
        ("assistant\n", False, "may"),
        ("assistant\n<think>\n", False, "open"),
        ("assistant\n<think>\n", True, "none"),
        ("assistant\n<think>\n\n</think>\n\n", False, "none"),
    ],
)
def test_thoughts_follow_where_the_template_leaves_room_for_them(opening: str, has_text: bool, thoughts: str) -> None:
    assert thoughts_after(opening, has_text=has_text) == thoughts

"""The grammar that holds calls to their tools, and the form of calls as chat templates have it."""

import json
from typing import Any

import jinja2
import pytest
from llguidance import LLMatcher, LLTokenizer

from callboard_chat.backends.llamacpp_calls import CallSplitter, call_grammar, form_of_template
from callboard_chat.backends.llamacpp_grammar import Thoughts
from callboard_chat.backends.llamacpp_request import replies_in_plain_text
from callboard_chat.domain.ports import Chunk
from callboard_chat.domain.tool_calls import PLAIN, CallForm
from callboard_contracts.chat import ChatMessage, ChatRequest, Tool
from callboard_contracts.errors import ErrorCode
from callboard_worker.engine import EngineFailed, EngineRefused

pytestmark = pytest.mark.unit

BYTES = LLTokenizer("byte")
TREE = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "inside": {"$ref": "#"}},
    "required": ["name"],
    "additionalProperties": False,
}
DIM = Tool(
    name="dim",
    parameters={
        "type": "object",
        "properties": {"level": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["level"],
        "additionalProperties": False,
    },
)
GROW = Tool(name="grow.tree-1", parameters=TREE)
ONE = '<tool_call>\n{"name": "dim", "arguments": {"level":3}}\n</tool_call>'
TWO = '<tool_call>\n{"name": "grow.tree-1", "arguments": {"name":"a","inside":{"name":"b"}}}\n</tool_call>'
NATIVE = CallForm('[call {"f": "', '", "a": ', "}]", "; ")


def request(**fields: Any) -> ChatRequest:
    message = ChatMessage(role="user", content="Dim it.")
    return ChatRequest.model_validate(
        {"model": "owl", "messages": (message,), "max_output_tokens": 9, "tools": (DIM, GROW), **fields}
    )


def allows(text: str, form: CallForm = PLAIN, thoughts: Thoughts = "none", **fields: Any) -> bool:
    """Whether a whole reply is one that the grammar allows."""
    matcher = LLMatcher(BYTES, call_grammar(request(**fields), form, thoughts), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    data = list(text.encode())
    return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


ALLOWED: dict[str, tuple[str, dict[str, Any], bool]] = {
    "words": ("Hello, <b>you</b> {}.", {}, True),
    "no words": ("", {}, True),
    "a call": (ONE, {}, True),
    "words and a call": (f"Let me see.\n\n{ONE}", {}, True),
    "a call with a reference": (TWO, {}, True),
    "two calls": (f"{ONE}\n{TWO}", {"parallel_tool_calls": True}, True),
    "two where one is usual": (f"{ONE}\n{TWO}", {}, False),
    "two where one is allowed": (f"{ONE}\n{TWO}", {"parallel_tool_calls": False}, False),
    "words after a call": (f"{ONE} Done.", {}, False),
    "a mark without a call": ("<tool_call>", {}, False),
    "an unknown tool": (ONE.replace("dim", "fly"), {}, False),
    "arguments out of range": (ONE.replace("3", "33"), {}, False),
    "arguments of another tool": (ONE.replace('"level":3', '"name":"a"'), {}, False),
    "words where a call must be": ("Hello.", {"tool_choice": "required"}, False),
    "a call where one must be": (ONE, {"tool_choice": "required"}, True),
    "words before one that must be": (f"So: {ONE}", {"tool_choice": "required"}, False),
    "nothing where a call must be": ("", {"tool_choice": "required"}, False),
    "the chosen one": (ONE, {"tool_choice": "dim"}, True),
    "another than the chosen one": (TWO, {"tool_choice": "dim"}, False),
    "the chosen one twice": (f"{ONE}\n{ONE}", {"tool_choice": "dim", "parallel_tool_calls": True}, False),
}


@pytest.mark.parametrize("case", ALLOWED)
def test_grammar_allows_good_replies_alone(case: str) -> None:
    text, fields, allowed = ALLOWED[case]
    assert allows(text, **fields) is allowed


def test_grammar_follows_the_form_of_a_template() -> None:
    one, two = '[call {"f": "dim", "a": {"level":3}}]', '[call {"f": "grow.tree-1", "a": {"name":"a"}}]'
    assert allows(f"Well: {one}; {two}", NATIVE)
    assert allows(f"{one}; {two}", NATIVE, tool_choice="required")
    assert not allows(f"{one}; {two}", NATIVE, parallel_tool_calls=False)
    assert not allows(f"{one} {two}", NATIVE)


@pytest.mark.parametrize(
    ("thoughts", "text", "allowed"),
    [
        ("may", f"<think>Hm <tool_call> or not?</think>\n\n{ONE}", True),
        ("may", ONE, True),
        ("open", f"Hm.</think>{ONE}", True),
        ("open", ONE, False),
        ("none", f"<think>Hm.</think>{ONE}", False),
    ],
)
def test_thoughts_come_before_a_call_that_must_be(thoughts: Thoughts, text: str, allowed: bool) -> None:
    assert allows(text, PLAIN, thoughts, tool_choice="required") is allowed


STRICT = {
    "unique items": {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}},
    "a pattern that looks ahead": {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(?!b)a"}}},
    "a format that nobody knows": {"type": "object", "properties": {"a": {"type": "string", "format": "owl"}}},
}


@pytest.mark.parametrize("case", STRICT)
def test_what_cannot_be_followed_is_refused_where_it_is_strict(case: str) -> None:
    strict = Tool(name="f", parameters=STRICT[case], strict=True)
    with pytest.raises(EngineRefused) as refused:
        call_grammar(request(tools=(DIM, strict), tool_choice="f"), PLAIN, "none")
    assert (refused.value.info.code, refused.value.info.param) == (ErrorCode.INVALID_REQUEST, "tools[1].parameters")
    assert call_grammar(request(tools=(DIM, strict.model_copy(update={"strict": False}))), PLAIN, "none")


def test_patterns_mean_the_text_and_not_its_json() -> None:
    quoted = {"type": "object", "properties": {"a": {"type": "string", "pattern": '^"[a-z]+"$'}}, "required": ["a"]}
    text = ONE.replace('{"level":3}', json.dumps({"a": '"x"'}, separators=(",", ":")))
    assert allows(text, tools=(Tool(name="dim", parameters=quoted, strict=True),))
    assert not allows(ONE.replace('"level":3', '"a":"x"'), tools=(Tool(name="dim", parameters=quoted),))


def test_as_many_tools_as_a_request_may_have_fit() -> None:
    tools = tuple(Tool(name=f"f{n}", parameters=DIM.parameters) for n in range(128))
    assert allows(ONE.replace("dim", "f127"), tools=tools)


def test_strict_parameters_that_are_too_complex_are_refused() -> None:
    huge = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(3000)}}
    with pytest.raises(EngineRefused):
        call_grammar(request(tools=(Tool(name="f", parameters=huge, strict=True),)), PLAIN, "none")


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_chunks_become_words_thoughts_and_calls(size: int) -> None:
    text = f"<think>Shall I?</think>\n\nYes. {ONE}"
    splitter = CallSplitter(PLAIN, "may")
    chunks = [splitter.take(Chunk(text[at : at + size], tokens=1)) for at in range(0, len(text), size)]
    last = splitter.take(Chunk(finish="stop"))
    assert "".join(chunk.text for chunk in (*chunks, last)) == "Yes."
    assert "".join(chunk.thinking for chunk in (*chunks, last)) == "Shall I?"
    assert [(call.name, call.arguments) for call in last.tool_calls] == [("dim", '{"level":3}')]
    assert last.finish == "tool_calls"
    assert sum(chunk.tokens for chunk in chunks) == len(chunks)
    if size == 1:
        assert sum(chunk.thinking_tokens for chunk in chunks) == len("<think>Shall I?</think>")


HERMES = (
    "{% if tools %}<|im_start|>system\n<tools>\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}</tools><|im_end|>\n"
    "{% endif %}{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}\n"
    "</tool_response><|im_end|>\n{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}"
    '{% if not loop.first or m.content %}\n{% endif %}<tool_call>\n{"name": "{{ c.function.name }}", "arguments": '
    "{{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if thinks %}<think>\n{% endif %}{% endif %}"
)
LLAMA = (
    "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n\n"
    '{% if m.tool_calls %}{% for c in m.tool_calls %}{"name": "{{ c.function.name }}", "parameters": '
    "{{ c.function.arguments | tojson }}}{% if not loop.last %}; {% endif %}{% endfor %}{% else %}{{ m.content }}"
    "{% endif %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)
MISTRAL = HERMES.replace("<tool_call>", "<|im_start|>")
XML = HERMES.replace('{"name": "{{ c.function.name }}", "arguments": ', "<function={{ c.function.name }}>").replace(
    "{{ c.function.arguments | tojson }}}",
    "{% for k, v in c.function.arguments.items() %}<p={{ k }}>{{ v }}{% endfor %}",
)
PLAIN_ONLY = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES: dict[str, tuple[str, CallForm | None]] = {
    "hermes": (HERMES, PLAIN),
    "hermes that thinks": ("{% set thinks = true %}" + HERMES, PLAIN),
    "llama": (LLAMA, CallForm('{"name": "', '", "parameters": ', "}", "; ")),
    "marks that are control tokens": (MISTRAL, None),
    "arguments that are no JSON": (XML, None),
    "no tools": (PLAIN_ONLY, None),
}


@pytest.mark.parametrize("case", TEMPLATES)
async def test_form_is_read_from_the_template(case: str) -> None:
    template, form = TEMPLATES[case]
    environment = jinja2.Environment(autoescape=False, keep_trailing_newline=True)  # noqa: S701 - no HTML
    environment.filters["tojson"] = lambda value: json.dumps(value)
    compiled = environment.from_string(template)

    async def render(fields: dict[str, Any]) -> str:
        fields = json.loads(json.dumps(fields))
        for message in fields["messages"]:
            for call in message.get("tool_calls", ()):
                call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        return compiled.render(**{"add_generation_prompt": True, **fields})

    assert await form_of_template(render, ("<|im_start|>", "<|im_end|>")) == form


async def test_template_that_cannot_be_rendered_has_no_form() -> None:
    async def render(_fields: dict[str, Any]) -> str:
        raise EngineFailed

    assert await form_of_template(render, ()) is None


def test_tags_of_tools_are_no_channels() -> None:
    assert replies_in_plain_text(HERMES)
    assert replies_in_plain_text(LLAMA)

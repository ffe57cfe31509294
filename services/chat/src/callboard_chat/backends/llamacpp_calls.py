"""Tool calls of the embedded llama.cpp: a grammar that holds them to their tools, and the form of the model's template.

llama.cpp's own grammars for tools are made by its converter of schemas, which takes minutes or all memory for some, and
do not make a model call a tool that it must call.
"""

import contextlib
import json
import re
from collections.abc import Awaitable, Callable, Collection

from llguidance import LLMatcher

from callboard_chat.backends.llamacpp_grammar import LIMITS, Thoughts
from callboard_chat.backends.llamacpp_tools import bounded_parameters
from callboard_chat.backends.openai_wire import Json
from callboard_chat.domain.ports import Chunk
from callboard_chat.domain.thinking import CLOSE, OPEN, ThinkingSplitter
from callboard_chat.domain.tool_calls import MAX_CALLS, PLAIN, CallForm, CallReader, is_forced, max_calls, offered_tools
from callboard_contracts.chat import ChatRequest, Tool
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.schema_grammar import grammar_schema
from callboard_contracts.schema_patterns import UnsupportedPatternError
from callboard_worker.engine import EngineError, EngineRefused

Render = Callable[[Json], Awaitable[str]]
"""Renders the model's chat template for the fields of a request that it sees."""

_HEADER = "%llguidance {}\n"
_THOUGHTS: dict[Thoughts, tuple[str, str]] = {
    "none": ("", ""),
    "may": ("(thought BLANKS?)? ", r"thought[lazy]: /\s*<think>(.|\n)*<\/think>/"),
    "open": ("thought BLANKS? ", r"thought[lazy]: /(.|\n)*<\/think>/"),
}
"""What comes before a reply, and its rule; it ends with its tag, so blanks after that are a rule of their own."""
_PLAIN_CHARACTER = re.compile(r"[A-Za-z0-9_]")
_EMPTY_THOUGHT = re.compile(rf"\s*{OPEN}\s*{CLOSE}\s*")
_NAME, _KEY, _RESULT = "zq_probe_function", "zq_probe_key", "zq_probe_result"


def call_grammar(request: ChatRequest, form: CallForm, thoughts: Thoughts) -> str:
    """The grammar of a reply that may, or must, call the tools of a request.

    Raises:
        EngineRefused: `invalid_request`, naming the tool whose parameters cannot be followed.
    """
    tools = offered_tools(request)
    before, thought = _THOUGHTS[thoughts]
    # Models that were not trained on tools call the same one over and over where they may.
    further = max_calls(request, usual=1 if form == PLAIN else MAX_CALLS) - 1
    more = f" further{{0,{further}}}" if further else ""
    rest = json.dumps(form.opening[form.opening.index(form.mark) + len(form.mark) :])
    lines = [
        "start: " + before + (f"mark call{more}" if is_forced(request) else f"(free | found call{more})"),
        f"mark: {json.dumps(form.mark)}",
        "call: " + " | ".join(f"call_{index}" for index in range(len(tools))),
    ]
    if not is_forced(request):
        lines += ["free: TEXT", r"TEXT: /(.|\n)*/", rf"found[lazy]: /(.|\n)*{_pattern(form.mark)}/"]
    if further:
        lines.append(f"further: {json.dumps(form.separator)} mark call" if form.separator else "further: mark call")
    for index, tool in enumerate(tools):
        head = json.dumps(f"{json.loads(rest)}{tool.name}{form.middle}")
        tail = json.dumps(form.closing)
        lines.append(f"call_{index}: {head} {_arguments_rule(tool, request.tools.index(tool))} {tail}")
    lines += [thought, r"BLANKS: /\s+/"] if thought else []
    text = _HEADER + "\n".join(lines)
    if LLMatcher.validate_grammar(text, limits=LIMITS):
        raise _refused("All tools together are too complex for this model's engine.", "tools")
    return text


def _arguments_rule(tool: Tool, index: int) -> str:
    """The rule for a tool's arguments; of one that is not strict it may leave out what llguidance does not take."""
    schema = {"type": "object", **tool.parameters}
    options: Json = {"whitespace_flexible": False, "lenient": True}
    loose = () if tool.strict else (schema, bounded_parameters(schema))
    forms: list[Json] = [{**each, "x-guidance": options} for each in loose]
    with contextlib.suppress(UnsupportedPatternError):
        forms.insert(0, grammar_schema(schema))
    for form in forms:
        rule = f"%json {json.dumps(form)}"
        if not LLMatcher.validate_grammar(f"{_HEADER}start: {rule}", limits=LIMITS):
            return rule
    raise _refused("This model's engine cannot follow the parameters of the tool.", f"tools[{index}].parameters")


def _refused(message: str, param: str) -> EngineRefused:
    return EngineRefused(ErrorInfo(code=ErrorCode.INVALID_REQUEST, message=message, param=param))


def _pattern(text: str) -> str:
    return "".join(each if _PLAIN_CHARACTER.fullmatch(each) else rf"\x{{{ord(each):X}}}" for each in text)


class CallSplitter:
    """Turns the chunks of a reply under such a grammar into words, thoughts and calls."""

    def __init__(self, form: CallForm, thoughts: Thoughts) -> None:
        self._reader = CallReader(form)
        self._thoughts = ThinkingSplitter(inside=thoughts == "open", has_text=thoughts == "none", leading_only=True)

    def take(self, chunk: Chunk) -> Chunk:
        """The chunk without what belongs to calls; the last one has the calls."""
        text = thinking = ""
        if chunk.text:
            text, thinking = self._thoughts.feed(chunk.text)
            untold = chunk.tokens - chunk.thinking_tokens
            chunk.thinking_tokens += self._thoughts.thinking_tokens(untold, text, thinking)
        if chunk.finish is not None:
            rest, last_thinking = self._thoughts.flush()
            text, thinking = text + rest, thinking + last_thinking
        chunk.text, chunk.thinking = self._reader.feed(text), chunk.thinking + thinking
        if chunk.finish is not None:
            rest, chunk.tool_calls = self._reader.end(complete=chunk.finish != "length")
            chunk.text += rest
            if chunk.tool_calls and chunk.finish == "stop":
                chunk.finish = "tool_calls"
        return chunk


async def form_of_template(render: Render, special: Collection[str]) -> CallForm | None:
    """How calls are written by a chat template that knows tools; None unless that is JSON between plain marks."""
    user = {"role": "user", "content": "x"}
    call = {"id": "call_zq", "type": "function", "function": {"name": _NAME, "arguments": json.dumps({_KEY: 1})}}
    parameters = {"type": "object", "properties": {_KEY: {"type": "integer"}}}
    tools = [{"type": "function", "function": {"name": _NAME, "description": "", "parameters": parameters}}]

    async def rendered(count: int) -> str:
        calls = {"role": "assistant", "content": "", "tool_calls": [{**call, "id": f"call_{n}"} for n in range(count)]}
        results = [{"role": "tool", "tool_call_id": f"call_{n}", "content": _RESULT} for n in range(count)]
        return await render({"messages": [user, calls, *results], "tools": tools})

    try:
        plain, opened = [
            await render({"messages": [user], "tools": tools, "add_generation_prompt": each}) for each in (False, True)
        ]
        one, two = await rendered(1), await rendered(2)
    except EngineError:
        return None
    start = opened.partition(OPEN)[0].rstrip()
    if not (_NAME in plain and start.startswith(plain.rstrip()) and one.startswith(start) and two.startswith(start)):
        return None
    return _form(one[len(start) :], two[len(start) :], special)


def _form(one: str, two: str, special: Collection[str]) -> CallForm | None:
    one, two = (_EMPTY_THOUGHT.sub("", each, count=1).lstrip() for each in (one, two))
    opening, found, rest = one.partition(_NAME)
    middle, brace, _ = rest.partition("{")
    arguments = rest[len(middle) :]
    try:
        value, end = json.JSONDecoder().raw_decode(arguments)
    except ValueError:
        return None
    closing = arguments[end:]
    # The turn ends with a control token.
    ends = [at for token in special if (at := closing.find(token)) >= 0]
    if not (found and brace and value == {_KEY: 1} and ends):
        return None
    closing = closing[: min(ends)].rstrip()
    between = two.removeprefix(f"{opening}{_NAME}{middle}{arguments[:end]}{closing}").partition(_NAME)[0]
    if not between.endswith(opening) or any(token in opening + middle + closing for token in special):
        return None
    separator = between.removesuffix(opening)
    plain = opening.strip() and '"' in opening + middle and closing.strip() and not any(t in separator for t in special)
    return CallForm(opening, middle, closing, separator) if plain else None

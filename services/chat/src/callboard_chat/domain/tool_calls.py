"""Tool calls as text: how they are asked for and written, how they are read back, and which are good.

A chat template that knows tools has a form of its own for all of this. Models without one get the plain form, which
most models that were trained on tools know.
"""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from callboard_chat.domain.json_check import parsed, satisfies
from callboard_chat.domain.thinking import overlap
from callboard_contracts.chat import ChatMessage, ChatRequest, Tool, ToolCall
from callboard_worker.engine import EngineFailed

MAX_CALLS = 16
"""So many tool calls may be in one reply."""

_INSTRUCTIONS = """\
You can call the functions that are listed below as JSON, one on a line. A call is written as
<tool_call>
{"name": "the function", "arguments": {"parameter": "value"}}
</tool_call>
and its result comes back between <tool_response> and </tool_response>. Call a function only where it helps, \
and otherwise answer in plain words.
"""
_FORCED = "Call {} now.\n"
_DECODER = json.JSONDecoder()


def offered_tools(request: ChatRequest) -> tuple[Tool, ...]:
    """The tools that a reply may call: none, all, or the one that was chosen."""
    if request.tool_choice in {"auto", "required"}:
        return request.tools
    if request.tool_choice == "none":
        return ()
    return tuple(tool for tool in request.tools if tool.name == request.tool_choice)


def is_forced(request: ChatRequest) -> bool:
    """Whether a reply must call a tool."""
    return bool(request.tools) and request.tool_choice not in {"auto", "none"}


def max_calls(request: ChatRequest, usual: int = MAX_CALLS) -> int:
    """How many calls one reply may have: a tool that is chosen by its name is called once."""
    if request.parallel_tool_calls is False or request.tool_choice not in {"auto", "required"}:
        return 1
    return MAX_CALLS if request.parallel_tool_calls else usual


def new_call(name: str, arguments: str, call_id: str | None = None) -> ToolCall:
    """A call with an id that no other call of the conversation has, unless the engine gave one."""
    return ToolCall(id=call_id or f"call_{secrets.token_hex(12)}", name=name, arguments=arguments)


@dataclass(frozen=True, slots=True)
class CallForm:
    """How a model writes a call: `opening`, the name, `middle`, the arguments as JSON, `closing`.

    `separator` stands between two calls.
    """

    opening: str = '<tool_call>\n{"name": "'
    middle: str = '", "arguments": '
    closing: str = "}\n</tool_call>"
    separator: str = "\n"

    @property
    def mark(self) -> str:
        """What shows that a call begins."""
        return self.opening.partition("{")[0].strip() or self.opening

    def written(self, call: ToolCall) -> str:
        """A call as text."""
        return f"{self.opening}{call.name}{self.middle}{call.arguments or '{}'}{self.closing}"


PLAIN = CallForm()


def as_text(request: ChatRequest) -> ChatRequest:
    """The request with its tools, calls and results as text of its messages, for a template that knows none."""
    if not request.tools and not any(each.tool_calls or each.role == "tool" for each in request.messages):
        return request
    messages: list[ChatMessage] = []
    names: dict[str, str] = {}
    for message in request.messages:
        if message.tool_calls:
            names = {call.id: call.name for call in message.tool_calls}
            written = PLAIN.separator.join(map(PLAIN.written, message.tool_calls))
            text = f"{message.content}\n{written}" if message.content else written
            messages.append(message.model_copy(update={"content": text, "tool_calls": ()}))
        elif message.role == "tool":
            name = names.get(message.tool_call_id or "") if len(names) > 1 else None
            said = f"{name}: {message.content}" if name else message.content
            text = f"<tool_response>\n{said}\n</tool_response>"
            if messages and messages[-1].role == "tool":
                # Several results are one turn, as many templates want turns to take turns.
                text = f"{messages.pop().content}\n{text}"
            messages.append(ChatMessage(role="tool", content=text))
        else:
            messages.append(message)
    messages = [ChatMessage(role="user", content=each.content) if each.role == "tool" else each for each in messages]
    if tools := offered_tools(request):
        first = messages[0] if messages and messages[0].role == "system" else None
        text = "\n\n".join([*([first.content] if first else []), _instructions(request, tools)])
        messages[: 1 if first else 0] = [ChatMessage(role="system", content=text)]
    return request.model_copy(update={"messages": tuple(messages), "tools": ()})


def _instructions(request: ChatRequest, tools: Sequence[Tool]) -> str:
    listed = "\n".join(tool.model_dump_json(exclude={"strict"}, exclude_defaults=True) for tool in tools)
    forced = _FORCED.format("a function" if len(tools) > 1 else tools[0].name) if is_forced(request) else ""
    return f"{_INSTRUCTIONS}{listed}\n{forced}".rstrip()


class CallReader:
    """Takes the text of a reply apart while it arrives: words for the client, and calls once the reply has ended."""

    def __init__(self, form: CallForm) -> None:
        self._form = form
        self._mark = form.mark
        self._held = ""
        self._calls: list[str] = []

    def feed(self, text: str) -> str:
        """Takes the next text and returns what may go out; what may begin a call is held, with the blanks before it."""
        if self._calls:
            self._calls.append(text)
            return ""
        text = self._held + text
        at = text.find(self._mark)
        if at >= 0:
            self._held = ""
            self._calls.append(text[at:])
            return text[:at].rstrip()
        kept = len(text[: len(text) - overlap(text, self._mark)].rstrip())
        self._held = text[kept:]
        return text[:kept]

    def end(self, *, complete: bool) -> tuple[str, tuple[ToolCall, ...]]:
        """The words that were held, and the calls; a call that a limit has cut off is left out.

        Raises:
            EngineFailed: a reply that the model ended by itself has a call that cannot be read.
        """
        if not self._calls:
            held, self._held = self._held, ""
            return held, ()
        rest = "".join(self._calls).strip()
        opening = self._form.opening
        calls: list[ToolCall] = []
        while rest:
            name, found, after = rest[len(opening) :].partition(self._form.middle)
            try:
                _, end = _DECODER.raw_decode(after)
            except ValueError:
                end = 0
            arguments, after = after[:end], after[end:]
            closing = self._form.closing.rstrip()
            if not (rest.startswith(opening) and found and end and after.startswith(closing)):
                if complete:
                    raise EngineFailed("a tool call cannot be read")
                break
            calls.append(new_call(name, arguments))
            rest = after[len(closing) :].lstrip().removeprefix(self._form.separator.strip()).lstrip()
        return "", tuple(calls)


def checked_calls(request: ChatRequest, calls: tuple[ToolCall, ...], *, complete: bool) -> tuple[ToolCall, ...]:
    """The calls of a reply, no more than it may have.

    Where a limit has ended the reply, it is not `complete`: then calls that are no good are left out.

    Raises:
        EngineFailed: a complete reply calls a tool that is not on offer or with arguments that its parameters do not
            allow, or it calls none although it must.
    """
    if not request.tools:
        return calls
    tools = {tool.name: tool for tool in offered_tools(request)}
    calls = calls[: max_calls(request)]
    good = tuple(call for call in calls if call.name in tools and _is_good(call, tools[call.name]))
    if complete and len(good) < len(calls):
        raise EngineFailed("the engine called a tool in a way that is not on offer")
    if complete and not good and is_forced(request):
        raise EngineFailed("the engine called no tool")
    return good


def _is_good(call: ToolCall, tool: Tool) -> bool:
    try:
        arguments = parsed(call.arguments or "{}")
    except (ValueError, RecursionError):
        return False
    return isinstance(arguments, dict) and satisfies(arguments, tool.parameters)

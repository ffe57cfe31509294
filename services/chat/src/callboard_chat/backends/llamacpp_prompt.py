"""How a prompt reaches the embedded llama.cpp: as messages, or as tokens where messages hold control tokens.

Its chat endpoint takes any text for a control token that looks like one. So a conversation in which messages hold some
is rendered by the server with a cut in each of them, tokenised piece by piece, and sent as token ids: the model reads
the same text, and only the template makes turns.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Collection, Set
from dataclasses import dataclass, replace

from callboard_chat.backends.llamacpp_calls import CallSplitter, call_grammar, form_of_template
from callboard_chat.backends.llamacpp_grammar import Thoughts, thoughts_after
from callboard_chat.backends.llamacpp_request import (
    TEMPLATE_FIELDS,
    replies_in_plain_text,
    request_body,
    tokens_body,
)
from callboard_chat.backends.openai_wire import Json
from callboard_chat.domain.control_tokens import ControlTokens, tokens_in
from callboard_chat.domain.models import ContextExceeded
from callboard_chat.domain.ports import Continuation
from callboard_chat.domain.thinking import OPEN
from callboard_chat.domain.tool_calls import PLAIN, CallForm, as_text, offered_tools
from callboard_contracts.chat import ChatRequest
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_worker.engine import EngineFailed, EngineRefused

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"


Call = Callable[[str, str, Json], Awaitable[Json]]
"""Calls the server: method, path, body."""


@dataclass(frozen=True, slots=True)
class EngineCall:
    """What the server is asked.

    `prompt_tokens` is the prompt's length without the start of its answer, known only where there is one; `opening` is
    the end of the prompt that belongs to the reply, and `thoughts` says whether the reply may begin with some. `calls`
    takes tool calls out of the reply, where it may have some.
    """

    path: str
    body: Json
    prompt_tokens: int | None = None
    opening: str = ""
    thoughts: Thoughts = "none"
    calls: CallSplitter | None = None


class Prompts:
    """Turns requests into calls of one server, whose model has these special tokens and this chat template.

    `parse_special` names the models in whose messages control tokens act as such.
    """

    def __init__(
        self, call: Call, context_tokens: int, special: Collection[str], template: str, parse_special: Set[str]
    ) -> None:
        self._call = call
        self._context_tokens = context_tokens
        self._special_tokens = special
        self._special = ControlTokens(special)
        # Some templates mark turns with text that is no token of its own, which only other text keeps apart.
        self._written = ControlTokens(tokens_in(template).difference(special))
        self._plain_replies = replies_in_plain_text(template)
        self.thinks = OPEN in template
        """Whether replies may begin with thinking."""
        self._parse_special = parse_special
        self.call_form: CallForm | None = None
        """How the chat template writes tool calls; None where it has no form that can be read."""

    async def learn_call_form(self) -> None:
        """Finds out how the chat template writes tool calls; without a form of its own they are written as text."""

        async def render(fields: Json) -> str:
            return str((await self._call("POST", "/apply-template", fields))["prompt"])

        if self._plain_replies:
            self.call_form = await form_of_template(render, self._special_tokens)

    async def call_for(self, request: ChatRequest, continuation: Continuation | None) -> EngineCall:
        """Returns the call that streams one reply; raises EngineError."""
        if request.mode == "completion":
            prompt_tokens = len(await self._tokenise([request.prompt])) if continuation else None
            return EngineCall(COMPLETIONS, request_body(request, continuation, self._context_tokens), prompt_tokens)
        has_images = any(each.images for each in request.messages)
        if self._plain_replies and offered_tools(request) and not has_images:
            return await self._with_calls(request, continuation)
        if self._plain_replies and self.call_form is None and not has_images:
            request = as_text(request)
        if request.model not in self._parse_special:
            request = self._written.broken_up(request)
            continuation = self._written.broken_up_reply(continuation)
            cut = secrets.token_hex(8)
            cut_request = self._special.broken_up(request, cut)
            cut_continuation = self._special.broken_up_reply(continuation, cut)
            if (cut_request, cut_continuation) != (request, continuation):
                if self._takes_tokens(request, continued=continuation is not None):
                    try:
                        return await self._with_tokens(cut_request, cut_continuation, cut)
                    except EngineFailed:
                        # The chat endpoint says better what is wrong with a conversation.
                        pass
                request = self._special.broken_up(request)
                continuation = self._special.broken_up_reply(continuation)
        prompt_tokens = len(await self._tokenise([await self._render(request, None)])) if continuation else None
        return EngineCall(CHAT, request_body(request, continuation, self._context_tokens), prompt_tokens)

    async def _with_calls(self, request: ChatRequest, continuation: Continuation | None) -> EngineCall:
        """The call for a reply that may call tools, under a grammar."""
        form = self.call_form or PLAIN
        shown = request if self.call_form else as_text(request)
        cut = secrets.token_hex(8)
        if request.model not in self._parse_special:
            shown = self._special.broken_up(self._written.broken_up(shown), cut)
            continuation = self._special.broken_up_reply(self._written.broken_up_reply(continuation), cut)
        try:
            call = await self._with_tokens(shown, continuation, cut)
        except EngineFailed:
            message = "The model's chat template does not take this conversation."
            info = ErrorInfo(code=ErrorCode.INVALID_REQUEST, message=message, param="messages")
            raise EngineRefused(info) from None
        grammar = await asyncio.to_thread(call_grammar, request, form, call.thoughts)
        calls = CallSplitter(form, call.thoughts)
        return replace(call, body={**call.body, "grammar": grammar}, opening="", calls=calls)

    def _takes_tokens(self, request: ChatRequest, *, continued: bool) -> bool:
        """Whether a request loses nothing without the chat endpoint.

        That endpoint takes tool calls and channels apart, reads images, and has a grammar begin after the thinking and
        after the start of a reply.
        """
        if not self._plain_replies or request.thinking.budget_tokens or any(each.images for each in request.messages):
            return False
        if request.output_format.kind != "text" and (continued or self.thinks):
            return False
        return not request.tools or request.tool_choice == "none"

    async def _with_tokens(self, request: ChatRequest, continuation: Continuation | None, cut: str) -> EngineCall:
        text = await self._render(request, continuation)
        pieces = text.split(cut)
        if len(pieces) > self._context_tokens:
            # Each piece has a token at least, and thousands of pieces take the server seconds.
            raise ContextExceeded(request, self._context_tokens)
        tokens = await self._tokenise(pieces)
        prompt_tokens = None
        if continuation:
            prompt_tokens = len(await self._tokenise((await self._render(request, None)).split(cut)))
        body = tokens_body(request_body(request, continuation, self._context_tokens), tokens)
        opening = OPEN if text.rstrip().endswith(OPEN) else ""
        return EngineCall(COMPLETIONS, body, prompt_tokens, opening, self._thoughts(text, continuation))

    def _thoughts(self, prompt: str, continuation: Continuation | None) -> Thoughts:
        """Whether the reply to a prompt may begin with thoughts."""
        said = continuation or Continuation()
        if said.thinking and not said.text:
            return "open"
        return thoughts_after(prompt, has_text=bool(said.text)) if self.thinks else "none"

    async def _render(self, request: ChatRequest, continuation: Continuation | None) -> str:
        body = request_body(request, continuation, self._context_tokens)
        wanted = {name: body[name] for name in TEMPLATE_FIELDS if name in body}
        return str((await self._call("POST", "/apply-template", wanted))["prompt"])

    async def _tokenise(self, pieces: list[str]) -> list[int]:
        body = {"content": pieces, "add_special": True, "parse_special": True}
        return (await self._call("POST", "/tokenize", body))["tokens"]

"""How a prompt reaches the embedded llama.cpp: as messages, or as tokens where messages hold control tokens.

Its chat endpoint takes any text for a control token that looks like one. So a conversation in which messages hold some
is rendered by the server with a cut in each of them, tokenised piece by piece, and sent as token ids: the model reads
the same text, and only the template makes turns.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence, Set
from dataclasses import dataclass, replace

from callboard_chat.backends.llamacpp_calls import CallSplitter, call_grammar, form_of_template
from callboard_chat.backends.llamacpp_grammar import Thoughts, thoughts_after
from callboard_chat.backends.llamacpp_request import (
    TEMPLATE_FIELDS,
    replies_in_plain_text,
    request_body,
    tokens_body,
)
from callboard_chat.backends.llamacpp_turns import turns_of_template
from callboard_chat.backends.openai_wire import Json
from callboard_chat.domain.control_tokens import ControlTokens, tokens_in
from callboard_chat.domain.front_cut import fitted
from callboard_chat.domain.models import ContextExceeded
from callboard_chat.domain.ports import Continuation, PromptTokens
from callboard_chat.domain.prompt_formats import OwnTurns, fallback_turns
from callboard_chat.domain.thinking import OPEN
from callboard_chat.domain.tool_calls import PLAIN, CallForm, as_text, offered_tools
from callboard_chat.domain.vocabulary import Vocabulary
from callboard_contracts.chat import ChatRequest
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.prompt_size import context_of, reply_within
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
    takes tool calls out of the reply, where it may have some. `max_tokens` is how much may be written where that is not
    what the request says, and `text` is the prompt's where the server gets its tokens.
    """

    path: str
    body: Json
    prompt_tokens: int | None = None
    opening: str = ""
    thoughts: Thoughts = "none"
    calls: CallSplitter | None = None
    max_tokens: int | None = None
    text: str | None = None


class Prompts:
    """Turns requests into calls of one server, whose model has this vocabulary and this chat template.

    `parse_special` names the models in whose messages control tokens act as such; `end` is the token that ends replies.
    """

    def __init__(
        self,
        call: Call,
        context_tokens: int,
        vocabulary: Vocabulary,
        template: str,
        parse_special: Set[str],
        end: str = "",
    ) -> None:
        self._call = call
        self._context_tokens = context_tokens
        self._vocabulary = vocabulary
        self._special = ControlTokens(vocabulary.special)
        # Some templates mark turns with text that is no token of its own, which only other text keeps apart.
        self._written = ControlTokens(tokens_in(template).difference(vocabulary.special))
        self._template = template
        self._end = end
        self._start: list[int] = []
        self._plain_replies = replies_in_plain_text(template)
        self.thinks = OPEN in template
        """Whether replies may begin with thinking."""
        self._parse_special = parse_special
        self.call_form: CallForm | None = None
        """How the chat template writes tool calls; None where it has no form that can be read."""
        self.own_turns = fallback_turns(template)
        """What the chat template writes around turns."""

    async def learn_template(self) -> None:
        """Finds out how the chat template writes turns and tool calls.

        Without a form of its own for calls they are written as text.
        """

        async def render(fields: Json) -> str:
            return str((await self._call("POST", "/apply-template", fields))["prompt"])

        self._start = await self._tokenise([""])
        start = await self.text_of(self._start) if self._start else ""
        texts = await turns_of_template(render, start, self._end)
        self.own_turns = OwnTurns(texts) if texts else fallback_turns("".join(self._vocabulary.special))
        if self._plain_replies:
            self.call_form = await form_of_template(render, self._vocabulary.special)

    def broken_up(self, request: ChatRequest) -> ChatRequest:
        """The request with the control tokens in its messages broken up, unless they may act as such."""
        if request.model in self._parse_special:
            return request
        return self._special.broken_up(self._written.broken_up(request))

    async def tokens(self, request: ChatRequest, *, special: bool = True) -> PromptTokens:
        """What the server would read for a request; raises EngineError."""
        if request.mode == "completion" and not special:
            return PromptTokens(tuple(await self._tokenise([request.prompt], special=False)), request.prompt)
        call = await self.call_for(request, None)
        prompt, text = call.body.get("prompt", ""), call.text
        if call.path == CHAT:
            wanted = {name: call.body[name] for name in TEMPLATE_FIELDS if name in call.body}
            prompt = text = str((await self._call("POST", "/apply-template", wanted))["prompt"])
        ids = await self._tokenise([prompt]) if isinstance(prompt, str) else prompt
        return PromptTokens(tuple(ids), text if text is not None else prompt)

    async def text_of(self, tokens: Sequence[int]) -> str:
        """The text of tokens, control tokens among them."""
        return str((await self._call("POST", "/detokenize", {"tokens": list(tokens)}))["content"])

    async def call_for(self, request: ChatRequest, continuation: Continuation | None) -> EngineCall:
        """Returns the call that streams one reply; raises EngineError."""
        if request.mode == "completion":
            if request.memory or request.overflow == "drop_front" or request.context_tokens is not None:
                return await self._within_context(request, continuation)
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

    async def _within_context(self, request: ChatRequest, continuation: Continuation | None) -> EngineCall:
        """The call for a raw prompt that has memory, or that is cut where it is too long."""
        memory = await self._tokenise([request.memory]) if request.memory else list(self._start)
        prompt = await self._tokenise([request.prompt], special=False) if request.prompt else []
        context = context_of(request, self._context_tokens)
        output_tokens = request.max_output_tokens
        if request.overflow == "drop_front":
            output_tokens = reply_within(output_tokens, context)
            room, border = context - output_tokens, self._vocabulary.border
            memory, prompt = await asyncio.to_thread(fitted, memory, prompt, room, border, len(self._start))
        tokens = memory + prompt
        if len(tokens) >= context:
            raise ContextExceeded(request, context, len(tokens))
        body = request_body(request, continuation, self._context_tokens)
        if not tokens:
            return EngineCall(COMPLETIONS, body)
        said = continuation or Continuation()
        limit = min(output_tokens, context - len(tokens)) - said.tokens
        # What was said is text, whatever it looks like.
        spoken = await self._tokenise([said.text], special=False, parse=False) if said.text else []
        body |= {"prompt": tokens + spoken, "max_tokens": limit}
        prompt_tokens = len(tokens) if continuation else None
        return EngineCall(COMPLETIONS, body, prompt_tokens, max_tokens=limit)

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
        thoughts = self._thoughts(text, continuation)
        return EngineCall(COMPLETIONS, body, prompt_tokens, opening, thoughts, text=text.replace(cut, ""))

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

    async def _tokenise(self, pieces: list[str], *, special: bool = True, parse: bool = True) -> list[int]:
        body = {"content": pieces, "add_special": special, "parse_special": parse}
        return (await self._call("POST", "/tokenize", body))["tokens"]

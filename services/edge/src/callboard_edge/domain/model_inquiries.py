"""Asks about a model that is on offer, in the pool that serves it."""

from collections.abc import Sequence
from dataclasses import dataclass

from callboard_contracts.chat import ChatMessage, ChatRequest
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.tokens import (
    MAX_TEXT_BYTES,
    MAX_TOKENS,
    DescribeModelReply,
    DescribeModelRequest,
    DetokenizeRequest,
    TokenizeReply,
    TokenizeRequest,
)
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.domain.ports import ModelInquiry


@dataclass(frozen=True, slots=True)
class ModelQuestions:
    """What protocols ask of a model.

    Every method raises CallboardError, as `ModelInquiry` does, and `body_too_large` for more than one question holds.
    """

    inquiry: ModelInquiry

    async def tokens(
        self, model: ChatModel, text: str, *, special: bool = True, turn_tags: bool = False
    ) -> TokenizeReply:
        """The tokens of a text; with `special` as many as a completion of it has in its prompt."""
        if len(text) > MAX_TEXT_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_TEXT_BYTES:
            raise CallboardError(
                ErrorCode.BODY_TOO_LARGE, f"The text is longer than {MAX_TEXT_BYTES} bytes.", param="prompt"
            )
        request = TokenizeRequest(model=model.served_name, text=text, special=special, turn_tags=turn_tags)
        return await self.inquiry.tokenize(model.pool, request)

    async def dialogue_tokens(self, model: ChatModel, messages: Sequence[ChatMessage]) -> TokenizeReply:
        """The tokens of the prompt for a dialogue's next reply."""
        return await self.inquiry.tokenize(
            model.pool, TokenizeRequest(model=model.served_name, messages=tuple(messages))
        )

    async def prompt_tokens(self, model: ChatModel, request: ChatRequest) -> TokenizeReply:
        """The tokens of the prompt for the reply that a request asks for, its tools among them."""
        asked = TokenizeRequest(
            model=model.served_name,
            messages=request.messages,
            tools=request.tools,
            tool_choice=request.tool_choice,
            thinking=request.thinking,
            prompt_format=request.prompt_format,
        )
        return await self.inquiry.tokenize(model.pool, asked)

    async def text(self, model: ChatModel, ids: Sequence[int], *, special: bool = True) -> str:
        """The text of some tokens."""
        if len(ids) > MAX_TOKENS:
            raise CallboardError(ErrorCode.BODY_TOO_LARGE, f"There are more than {MAX_TOKENS} tokens.", param="ids")
        request = DetokenizeRequest(model=model.served_name, ids=tuple(ids), special=special)
        return (await self.inquiry.detokenize(model.pool, request)).text

    async def description(self, model: ChatModel) -> DescribeModelReply:
        """What the model is."""
        return await self.inquiry.describe(model.pool, DescribeModelRequest(model=model.served_name))

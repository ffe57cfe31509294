"""Asks the workers of a chat pool about a model, over the bus."""

from typing import TypeVar

from pydantic import ValidationError

from callboard_contracts import subjects
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.model import Message
from callboard_contracts.tokens import (
    DescribeModelReply,
    DescribeModelRequest,
    DetokenizeReply,
    DetokenizeRequest,
    TokenizeReply,
    TokenizeRequest,
)
from callboard_kit.bus import Bus, BusError
from callboard_kit.rpc import ask_service

TIMEOUT_S = 5.0
RETRY_AFTER_S = 2.0

A = TypeVar("A", TokenizeReply, DetokenizeReply, DescribeModelReply)


class BusModelInquiry:
    """Asks whichever worker of the pool answers; see `ModelInquiry`."""

    def __init__(self, bus: Bus, timeout_s: float = TIMEOUT_S) -> None:
        self._bus = bus
        self._timeout_s = timeout_s

    async def tokenize(self, pool: str, request: TokenizeRequest) -> TokenizeReply:
        """The tokens of a text, or of a dialogue as a prompt."""
        return await self._ask(subjects.tokenize(pool), request, TokenizeReply)

    async def detokenize(self, pool: str, request: DetokenizeRequest) -> DetokenizeReply:
        """The text of some tokens."""
        return await self._ask(subjects.detokenize(pool), request, DetokenizeReply)

    async def describe(self, pool: str, request: DescribeModelRequest) -> DescribeModelReply:
        """What a model is."""
        return await self._ask(subjects.describe_model(pool), request, DescribeModelReply)

    async def _ask(self, subject: str, request: Message, kind: type[A]) -> A:
        payload = request.compact()
        if len(payload) > self._bus.connection.max_payload:
            raise CallboardError(ErrorCode.BODY_TOO_LARGE, "The text is too long for one question.", param="prompt")
        try:
            reply = kind.model_validate_json(await ask_service(self._bus, subject, payload, self._timeout_s))
        except (BusError, ValidationError) as error:
            raise CallboardError(
                ErrorCode.NO_WORKER, "No worker of the model's pool answered.", retry_after_s=RETRY_AFTER_S
            ) from error
        if reply.error is not None:
            raise CallboardError.of(reply.error)
        return reply

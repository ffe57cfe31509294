"""The workers of a chat pool that answer questions, for an edge without a bus."""

import re
from zlib import crc32

from callboard_contracts.errors import CallboardError
from callboard_contracts.tokens import (
    DescribeModelReply,
    DescribeModelRequest,
    DetokenizeReply,
    DetokenizeRequest,
    TokenizeReply,
    TokenizeRequest,
)

START = 1
"""The token before a whole prompt."""


class FakeModelInquiry:
    """Takes each word, with the blanks before it, for a token; with `failure` every method fails.

    `asked` has the pools and requests in their order, and `description` is told of every model.
    """

    def __init__(self) -> None:
        self.failure: CallboardError | None = None
        self.asked: list[tuple[str, TokenizeRequest | DetokenizeRequest | DescribeModelRequest]] = []
        self.description = DescribeModelReply()
        self._words: dict[int, str] = {START: ""}

    async def tokenize(self, pool: str, request: TokenizeRequest) -> TokenizeReply:
        """The words of a text, or of the names of tools and of all messages."""
        self._take(pool, request)
        text = request.text + "".join(f"{tool.name}\n" for tool in request.tools)
        text += "".join(f"{message.role}: {message.content}\n" for message in request.messages)
        words = re.findall(r"\s*\S+(?:\s+\Z)?", text)
        numbers = [crc32(word.encode()) for word in words]
        self._words |= dict(zip(numbers, words, strict=True))
        return TokenizeReply(ids=((START,) if request.special else ()) + tuple(numbers), text=text)

    async def detokenize(self, pool: str, request: DetokenizeRequest) -> DetokenizeReply:
        """The words of these numbers, as far as they were seen."""
        self._take(pool, request)
        return DetokenizeReply(text="".join(self._words.get(token, "\ufffd") for token in request.ids))

    async def describe(self, pool: str, request: DescribeModelRequest) -> DescribeModelReply:
        """What a test says of the model."""
        self._take(pool, request)
        return self.description

    def _take(self, pool: str, request: TokenizeRequest | DetokenizeRequest | DescribeModelRequest) -> None:
        self.asked.append((pool, request))
        if self.failure is not None:
            raise self.failure

"""Clients of the edge for tests: the official library, with what a test wants to know of an answer."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import openai

from tests.support.deployment import Deployment

HELLO: Any = [{"role": "user", "content": "Hello."}]
ANSWER_TIMEOUT_S = 60.0


@dataclass(slots=True)
class Reply:
    """A streamed chat reply as it grows; `error` is what the client raised."""

    text: str = ""
    finish_reason: str | None = None
    error: openai.OpenAIError | None = None
    _grown: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def words(self) -> int:
        """How many whole words have arrived."""
        return self.text.count(" ")

    async def reaches(self, words: int, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Waits until that many words have arrived."""
        async with asyncio.timeout(timeout_s):
            while self.words < words:
                self._grown.clear()
                await self._grown.wait()

    async def follow(self, client: openai.AsyncOpenAI, max_tokens: int = 250) -> None:
        """Asks for a streamed reply and follows it to its end."""
        try:
            stream = await client.chat.completions.create(
                model="owl", messages=HELLO, stream=True, max_tokens=max_tokens
            )
            async for chunk in stream:
                for choice in chunk.choices:
                    self.text += choice.delta.content or ""
                    self.finish_reason = choice.finish_reason or self.finish_reason
                self._grown.set()
        except openai.OpenAIError as error:
            self.error = error


@asynccontextmanager
async def connected(deployment: Deployment, key: str, edge: int = 0) -> AsyncGenerator[openai.AsyncOpenAI]:
    """The official client, without retries of its own, so that a test sees what the edge did."""
    async with openai.AsyncOpenAI(
        base_url=f"{deployment.root_url(edge)}/v1", api_key=key, max_retries=0, timeout=ANSWER_TIMEOUT_S
    ) as client:
        yield client


def script_text(count: int) -> str:
    """The text of a reply of numbered words."""
    return "".join(f"w{n} " for n in range(count))

"""What the domain needs of an engine."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, Protocol

from callboard_contracts.chat import ChatRequest, ToolCall

Finish = Literal["stop", "length", "tool_calls"]


@dataclass(slots=True)
class Chunk:
    """A piece of a reply as an engine hands it over.

    `tokens` is how many engine tokens the piece stands for. The last chunk has `finish`. `prompt_tokens` and
    `completion_tokens` are the engine's own counts for this run so far, None where it has not said; the latter counts
    only what this run made, without what a continuation started from.
    """

    text: str = ""
    thinking: str = ""
    tokens: int = 0
    tool_calls: tuple[ToolCall, ...] = ()
    finish: Finish | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Continuation:
    """What of a reply the client already has; an engine goes on exactly after it."""

    text: str = ""
    thinking: str = ""
    tokens: int = 0

    @property
    def prefill(self) -> str:
        """The start of the answer as a model would have written it, for engines that take one as plain text."""
        return self.text or f"<think>{self.thinking}"


class ChatEngine(Protocol):
    """An engine that writes replies, several at once."""

    async def load(self) -> None:
        """Gets the engine ready to work; called once, before the first job.

        Raises:
            CallboardError: it cannot work at all, for instance because its model file is missing.
        """
        ...

    async def ready(self) -> str | None:
        """None when the engine can take work at this moment, else the reason why it cannot."""
        ...

    def stream(self, request: ChatRequest, continuation: Continuation | None = None) -> AsyncGenerator[Chunk, None]:
        """Writes one reply; closing the generator stops the engine's work on it.

        With a continuation the chunks hold only what follows it, and at most `max_output_tokens` less its tokens.

        Raises:
            CallboardError: `engine_unavailable` when another try can help, `interrupted` when the engine cannot go on
                from a continuation, else whatever the client is to be told. Never with an engine's own words.
        """
        ...

    async def close(self) -> None:
        """Ends the engine or the connections to it."""
        ...

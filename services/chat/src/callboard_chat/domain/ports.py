"""What the domain needs of an engine."""

from collections.abc import AsyncGenerator, Sequence, Set
from dataclasses import dataclass
from typing import Literal, Protocol

from callboard_chat.domain.prompt_formats import OwnTurns
from callboard_contracts.chat import ChatRequest, PhaseDurations, TokenLogprob, ToolCall
from callboard_contracts.tokens import DescribeModelReply
from callboard_contracts.volunteers import ServedBy
from callboard_contracts.workers import Ability
from callboard_worker.engine import Engine

Finish = Literal["stop", "length", "tool_calls"]


@dataclass(slots=True)
class Chunk:
    """A piece of a reply as an engine hands it over.

    `tokens` is how many engine tokens the piece stands for, and `thinking_tokens` how many of them the engine wrote
    apart from the text; the last chunk may bring those of thinking that was never shown. It also has `finish`, and
    `stop_sequence` where the engine says which one ended the reply. The counts are the engine's own for this run so
    far, None where it has not said: `read_prompt_tokens` is how far it has come with a prompt, and `completion_tokens`
    counts only what this run made, without what a continuation started from. `served_by` is the volunteer who writes
    the reply, where one does, and `restarts` is how many volunteers have failed on it in this run. `worked_s` is how
    long this run has been written so far, where it waits for somebody to write it. With `last_follows` whatever ends
    the run comes next, without a wait.
    """

    text: str = ""
    thinking: str = ""
    tokens: int = 0
    thinking_tokens: int = 0
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: Finish | None = None
    stop_sequence: str | None = None
    prompt_tokens: int | None = None
    cached_prompt_tokens: int | None = None
    read_prompt_tokens: int | None = None
    completion_tokens: int | None = None
    durations: PhaseDurations | None = None
    served_by: ServedBy | None = None
    restarts: int = 0
    worked_s: float | None = None
    last_follows: bool = False


@dataclass(frozen=True, slots=True)
class Continuation:
    """What of a reply the client already has; an engine goes on exactly after it."""

    text: str = ""
    thinking: str = ""
    tokens: int = 0
    thinking_tokens: int = 0

    @property
    def prefill(self) -> str:
        """The start of the answer as a model would have written it, for engines that take one as plain text."""
        return self.text or f"<think>{self.thinking}"


@dataclass(frozen=True, slots=True)
class Embedded:
    """What became of some texts: a vector of each, as little-endian floats of 32 bits, and what reading them took.

    `truncated` is how many of them were cut.
    """

    vectors: Sequence[bytes]
    prompt_tokens: int
    truncated: int = 0
    load_s: float | None = None


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """The tokens of a prompt, and the text that they are made of."""

    ids: tuple[int, ...]
    text: str


class ModelTokens(Protocol):
    """What an engine says of its models and their tokens; models go by the engine's own names."""

    def broken_up(self, request: ChatRequest) -> ChatRequest:
        """The request with the control tokens in its messages broken up, unless they may act as such."""
        ...

    def own_turns(self, model: str) -> OwnTurns:
        """What the model's own chat template writes around turns."""
        ...

    async def tokenize(self, request: ChatRequest, *, special: bool = True) -> PromptTokens:
        """The tokens that the engine would read for a request.

        Without `special` those of a raw prompt come without what the engine puts before it.

        Raises:
            EngineError: the engine does not answer, or does not say (`unsupported`).
        """
        ...

    async def detokenize(self, model: str, ids: Sequence[int], *, special: bool = True) -> str:
        """The text of tokens, those that control the model among them if `special`; raises EngineError."""
        ...

    async def describe(self, model: str) -> DescribeModelReply:
        """What the engine tells of a model, without its turns; raises EngineError."""
        ...


class ChatEngine(Engine, ModelTokens, Protocol):
    """An engine that writes replies and makes embeddings, several at once."""

    @property
    def abilities(self) -> Set[Ability]:
        """What the engine, once loaded, can do with a model that can."""
        ...

    @property
    def sampling(self) -> Set[str]:
        """The fields of a request's sampling that the engine honours; all others are left aside."""
        ...

    @property
    def honours_prefill(self) -> bool:
        """Whether the engine is certain to go on from a continuation; others may begin their reply again."""
        ...

    def stream(self, request: ChatRequest, continuation: Continuation | None = None) -> AsyncGenerator[Chunk, None]:
        """Writes one reply; closing the generator stops the engine's work on it.

        With a continuation the chunks hold only what follows it, and at most `max_output_tokens` less its tokens.

        Raises:
            EngineUnavailable: another try can help.
            EngineRefused: with `interrupted` the engine cannot go on from a continuation; else the request is at fault.
            EngineFailed: the engine reported an error.
        """
        ...

    async def embed(self, model: str, inputs: Sequence[str], context_tokens: int, *, truncate: bool) -> Embedded:
        """Makes a vector of each of some texts; cancelling the call stops the engine's work on them.

        Raises:
            EngineUnavailable: another try can help.
            InputTooLong: a text is longer than the context, and is not to be cut.
            EngineRefused: the texts are at fault.
            EngineFailed: the engine reported an error.
        """
        ...

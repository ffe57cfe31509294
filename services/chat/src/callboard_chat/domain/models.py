"""The models of a pool and what each can do."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from callboard_contracts.chat import ChatRequest, PromptFormat
from callboard_contracts.context_length import context_exceeded
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.pools import ToolUse
from callboard_contracts.schema_bounds import MAX_ARRAY_ITEMS, array_items, too_many_items
from callboard_contracts.workers import Ability
from callboard_worker.engine import EngineRefused

_OF_OWN_TEMPLATE: Set[Ability] = frozenset({"tools", "images", "thinking"})
"""What only the model's own chat template can write."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as clients name it, and as the engine does."""

    name: str
    engine_model: str
    context_tokens: int = 4096
    tools: ToolUse = "grammar"
    json_schema: bool = True
    images: bool = False
    parse_special: bool = False
    prompt_format: PromptFormat = "own"
    embeddings: bool = False
    chat: bool = True

    def abilities(self, engine: Set[Ability]) -> frozenset[Ability]:
        """What the model can do on an engine with these abilities."""
        return frozenset(ability for ability in engine if self.can(ability, engine))

    def can(self, ability: Ability, engine: Set[Ability]) -> bool:
        """Whether the model can do something on an engine with these abilities."""
        if self.prompt_format != "own" and ability in _OF_OWN_TEMPLATE:
            return False
        match ability:
            case "embedding":
                return ability in engine and self.embeddings
            case "tokenize":
                return ability in engine
            case _ if not self.chat:
                return False
            case "tools":
                return ability in engine and self.tools == "grammar"
            case "json_schema" | "images":
                return ability in engine and bool(getattr(self, ability))
            case _:
                return ability in engine


def format_of(request: ChatRequest, model: ServedModel) -> PromptFormat:
    """How turns are written for a request."""
    return request.prompt_format or model.prompt_format


def refusal(request: ChatRequest, models: Mapping[str, ServedModel], engine: Set[Ability]) -> ErrorInfo | None:
    """Why a request cannot be served by these models on an engine with these abilities, or None when it can."""
    model = models.get(request.model)
    if model is None:
        return unknown_model(models)
    if not model.chat:
        return _unsupported("This model writes no replies; it makes embeddings.", "model")
    if request.mode == "chat" and not request.messages:
        return ErrorInfo(code=ErrorCode.INVALID_REQUEST, message="There is no message to answer.", param="messages")
    is_own = request.mode == "completion" or format_of(request, model) == "own"
    if request.tools and request.tool_choice != "none" and not (is_own and model.can("tools", engine)):
        return unsupported_tools()
    if request.output_format.kind == "json_schema" and not model.can("json_schema", engine):
        return _unsupported("This model cannot follow a JSON schema.", "output_format")
    schema = request.output_format.json_schema
    if schema is not None and array_items(schema) > MAX_ARRAY_ITEMS:
        message = f"Not a JSON schema that can be followed: {too_many_items()}."
        return ErrorInfo(code=ErrorCode.INVALID_REQUEST, message=message, param="output_format")
    if request.output_format.kind == "grammar" and not model.can("grammar", engine):
        return _unsupported("This model's engine cannot follow a grammar.", "output_format")
    if request.has_images and not (is_own and model.can("images", engine)):
        return _unsupported("This model cannot read images.", "messages")
    return None


def unknown_model(models: Iterable[str]) -> ErrorInfo:
    """The error for a model that a pool does not serve."""
    return ErrorInfo(
        code=ErrorCode.UNKNOWN_MODEL,
        message="This pool does not serve the model.",
        param="model",
        offered=tuple(sorted(models)),
    )


def unsupported_tools() -> ErrorInfo:
    """The error for tools that are offered to a model that cannot call any."""
    return _unsupported("This model cannot call tools.", "tools")


def tools_or_format() -> ErrorInfo:
    """The error for a form of the reply beside tools, where the engine follows only one of them."""
    return _unsupported("This model's engine cannot keep to an output format while it may call tools.", "output_format")


def no_tokens() -> EngineRefused:
    """The error for tokens that an engine does not tell."""
    return EngineRefused(_unsupported("This model's engine does not tell its tokens.", "model"))


class ContextExceeded(EngineRefused):
    """A prompt is longer than the model's context; a number is None where the engine does not tell it."""

    def __init__(
        self, request: ChatRequest, context_tokens: int | None = None, prompt_tokens: int | None = None
    ) -> None:
        self._request = request
        self._context_tokens = context_tokens
        self._prompt_tokens = prompt_tokens
        super().__init__(self.explained(0))

    def explained(self, context_tokens: int, asked: ChatRequest | None = None) -> ErrorInfo:
        """What a client is told of a model that has so large a context, unless the engine said otherwise.

        `asked` is the client's own request where the engine got another.
        """
        request = asked or self._request
        context = self._context_tokens or context_tokens
        estimate = max(estimated_prompt_tokens(self._request), context + 1)
        return context_exceeded(
            request, context, self._prompt_tokens or estimate, estimated=self._prompt_tokens is None
        )


def estimated_prompt_tokens(request: ChatRequest) -> int:
    """About how long a prompt is, for replies that were stopped before the engine counted it."""
    texts = (
        [request.memory, request.prompt]
        if request.mode == "completion"
        else [message.content for message in request.messages]
    )
    return sum(len(text.encode()) // 4 + 4 for text in texts if text or request.mode == "chat")


def _unsupported(message: str, param: str) -> ErrorInfo:
    return ErrorInfo(code=ErrorCode.UNSUPPORTED, message=message, param=param)

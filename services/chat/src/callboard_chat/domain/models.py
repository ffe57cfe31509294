"""The models of a pool and what each can do."""

from collections.abc import Mapping
from dataclasses import dataclass

from callboard_contracts.chat import ChatRequest
from callboard_contracts.errors import ErrorCode, ErrorInfo


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as clients name it, and as the engine does."""

    name: str
    engine_model: str
    context_tokens: int = 4096
    tools: bool = False
    json_schema: bool = True


def refusal(request: ChatRequest, models: Mapping[str, ServedModel]) -> ErrorInfo | None:
    """Why a request cannot be served by these models, or None when it can."""
    model = models.get(request.model)
    if model is None:
        return ErrorInfo(
            code=ErrorCode.UNKNOWN_MODEL,
            message="This pool does not serve the model.",
            param="model",
            offered=tuple(sorted(models)),
        )
    if request.mode == "chat" and not request.messages:
        return ErrorInfo(code=ErrorCode.INVALID_REQUEST, message="There is no message to answer.", param="messages")
    if request.tools and request.tool_choice != "none" and not model.tools:
        return unsupported_tools()
    if request.output_format.kind == "json_schema" and not model.json_schema:
        return ErrorInfo(
            code=ErrorCode.UNSUPPORTED, message="This model cannot follow a JSON schema.", param="output_format"
        )
    return None


def unsupported_tools() -> ErrorInfo:
    """The error for tools that are offered to a model that cannot call any."""
    return ErrorInfo(code=ErrorCode.UNSUPPORTED, message="This model cannot call tools.", param="tools")


def estimated_prompt_tokens(request: ChatRequest) -> int:
    """About how long a prompt is, for replies that were stopped before the engine counted it."""
    texts = [request.prompt] if request.mode == "completion" else [message.content for message in request.messages]
    return sum(len(text.encode()) // 4 + 4 for text in texts)

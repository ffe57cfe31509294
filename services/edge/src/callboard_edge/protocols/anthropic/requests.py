"""The neutral form of what Anthropic's clients ask."""

from typing import Literal

from callboard_contracts.chat import ChatRequest, OutputFormat, Sampling, Thinking, Tool
from callboard_edge.domain.abilities import unsupported
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.protocols.anthropic.bodies import CountTokensBody, MessagesBody, ToolDefinition
from callboard_edge.protocols.anthropic.conversation import conversation
from callboard_edge.protocols.anthropic.errors import invalid, missing

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_EFFORTS: dict[str, Literal["low", "medium", "high"]] = {
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}


def messages_request(body: MessagesBody, model: ChatModel) -> ChatRequest:
    """The request for a reply.

    Raises:
        CallboardError: it asks for what cannot be served, or a message is malformed.
    """
    sampling = Sampling(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        seed=body.seed,
        stop=tuple(word for word in body.stop_sequences or () if word),
    )
    request = prompt_request(body, model)
    limit = model.output_limit(body.max_tokens)
    thinking = request.thinking
    if thinking.budget_tokens is not None:
        # A reply that has to be shorter than was asked for thinks less, so that there is as much of its text.
        budget = max(1, thinking.budget_tokens * limit // body.max_tokens)
        thinking = thinking.model_copy(update={"budget_tokens": budget})
    return request.model_copy(
        update={
            "sampling": sampling,
            "max_output_tokens": limit,
            "thinking": thinking,
            "speaker": (body.metadata and body.metadata.user_id) or "",
        }
    )


def prompt_request(body: CountTokensBody, model: ChatModel) -> ChatRequest:
    """What of a request makes its prompt; raises as `messages_request` does."""
    if body.mcp_servers:
        raise unsupported("Tools of MCP servers are not called here; offer tools of your own.", "mcp_servers")
    tools, choice = _tools(body, model)
    config = body.output_config
    output_format = OutputFormat()
    if config is not None and config.format is not None:
        output_format = OutputFormat(kind="json_schema", json_schema=config.format.schema_)
    return ChatRequest(
        model=model.name,
        messages=conversation(body, reads_images=model.images),
        max_output_tokens=1,
        output_format=output_format,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=False if body.tool_choice and body.tool_choice.disable_parallel_tool_use else None,
        thinking=_thinking(body),
    )


def _tools(body: CountTokensBody, model: ChatModel) -> tuple[tuple[Tool, ...], str]:
    asked = body.tool_choice
    choice = _CHOICES.get(asked.type) if asked else "auto"
    if choice is None:
        choice = asked.name if asked else None
        if choice is None or choice not in {tool.name for tool in body.tools or ()}:
            raise invalid("There is no tool of that name in 'tools'.", "tool_choice.name")
        if choice in {"auto", "none", "required"}:
            raise invalid(f"A tool with the name '{choice}' cannot be chosen.", "tool_choice.name")
    if not body.tools or choice == "none":
        if choice == "required":
            raise invalid("'tool_choice' needs 'tools'.", "tool_choice")
        return (), choice
    # What a model that ignores tools would not call anyway is not looked at.
    own = [(index, tool) for index, tool in enumerate(body.tools) if model.tools != "ignore" or _is_own(tool)]
    return tuple(_tool(tool, f"tools[{index}]") for index, tool in own), choice


def _is_own(tool: ToolDefinition) -> bool:
    return tool.type in (None, "custom") and tool.input_schema is not None


def _tool(tool: ToolDefinition, place: str) -> Tool:
    if tool.type not in (None, "custom"):
        raise unsupported("Tools that Anthropic defines are not offered here; define it with a schema.", place)
    schema = tool.input_schema
    if schema is None:
        raise missing(f"{place}.input_schema")
    if schema.get("type", "object") != "object":
        raise invalid("The input must be described by a JSON schema of an object.", f"{place}.input_schema")
    return Tool(
        name=tool.name,
        description=tool.description or "",
        parameters=schema if "type" in schema else {"type": "object", **schema},
        strict=tool.strict,
    )


def _thinking(body: CountTokensBody) -> Thinking:
    wanted = body.thinking
    if wanted is None:
        return Thinking()
    if wanted.type == "disabled":
        return Thinking(enabled=False)
    if wanted.type == "enabled":
        if wanted.budget_tokens is None:
            raise missing("thinking.budget_tokens")
        return Thinking(enabled=True, budget_tokens=wanted.budget_tokens)
    effort = body.output_config.effort if body.output_config else None
    return Thinking(effort=_EFFORTS[effort] if effort else None)

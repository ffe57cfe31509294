"""The ends of conversations, as every engine takes them.

A last turn of the assistant is the start of the reply, which the model continues. There is one such turn at most, and
it is not empty: engines refuse two, and take an empty one for a turn that is over.
"""

from callboard_contracts.chat import ChatRequest
from callboard_contracts.errors import CallboardError, ErrorCode

SEPARATOR = "\n\n"
"""What stands between turns of the assistant that are made one."""


def with_usual_end(request: ChatRequest) -> ChatRequest:
    """The request without empty turns of the assistant at its end, and with the others there as one.

    Raises:
        CallboardError: `invalid_request`, where nothing is left to answer, or tool calls at the end have no results.
    """
    messages = request.messages
    if request.mode != "chat" or not messages or messages[-1].role != "assistant":
        return request
    end = len(messages)
    while end and messages[end - 1].role == "assistant":
        end -= 1
    for index, message in enumerate(messages[end:], end):
        if message.tool_calls:
            raise CallboardError(
                ErrorCode.INVALID_REQUEST,
                "The conversation ends with tool calls that have no results; each needs a message of the role 'tool'.",
                param=f"messages[{index}].tool_calls",
            )
    turns = [message for message in messages[end:] if message.content.strip() or message.thinking.strip()]
    if not turns and not end:
        raise CallboardError(ErrorCode.INVALID_REQUEST, "There is no message to answer.", param="messages")
    if turns:
        texts = [turn.content for turn in turns if turn.content.strip()]
        turns = [turns[-1].model_copy(update={"content": SEPARATOR.join(texts)})]
    return request.model_copy(update={"messages": (*messages[:end], *turns)})

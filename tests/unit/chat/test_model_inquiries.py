"""What a chat worker asks its engine where an edge asks it about a model."""

import pytest

from callboard_chat.backends.fake import FakeEngine
from callboard_chat.domain.ports import PromptTokens
from callboard_chat.handlers.model_inquiries import ModelInquiries
from callboard_chat.settings import pool_settings
from callboard_contracts.chat import ChatMessage, ChatRequest, Thinking, Tool
from callboard_contracts.config import Config
from callboard_contracts.errors import ErrorCode
from callboard_contracts.tokens import TokenizeRequest
from callboard_worker.engine import EngineRefused

pytestmark = pytest.mark.unit

CONFIG = Config.model_validate(
    {
        "chat": {
            "pools": {"main": {"backend": "fake"}},
            "models": {"owl": {"pool": "main"}, "elk": {"pool": "main", "tools": "refuse"}},
        }
    }
)
HELLO = (ChatMessage(role="user", content="Hello."),)
DIM = (Tool(name="dim"),)


class AskedEngine(FakeEngine):
    """Remembers whose tokens were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[ChatRequest] = []

    async def tokenize(self, request: ChatRequest, *, special: bool = True) -> PromptTokens:
        self.asked.append(request)
        return await super().tokenize(request, special=special)


async def test_what_tools_and_thinking_add_to_a_prompt_is_counted() -> None:
    engine = AskedEngine()
    inquiries = ModelInquiries(engine, pool_settings(CONFIG, "main"), 100_000)
    thinking = Thinking(enabled=False)
    asked = TokenizeRequest(model="owl", messages=HELLO, tools=DIM, tool_choice="dim", thinking=thinking)
    reply = await inquiries.tokenize(TokenizeRequest.model_validate_json(asked.compact()))
    assert len(reply.ids) == 1
    (seen,) = engine.asked
    assert (seen.messages, seen.tools, seen.tool_choice, seen.thinking) == (HELLO, DIM, "dim", thinking)
    with pytest.raises(EngineRefused) as refused:
        await inquiries.tokenize(asked.model_copy(update={"model": "elk"}))
    assert refused.value.info.code is ErrorCode.UNSUPPORTED

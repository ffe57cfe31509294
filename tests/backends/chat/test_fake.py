"""The fake engine passes what the real ones pass."""

from collections.abc import AsyncGenerator

import pytest

from callboard_chat.backends.fake import FakeEngine, FakeScript
from callboard_chat.domain.tool_calls import checked_calls
from callboard_contracts.chat import Tool, ToolCall
from callboard_contracts.errors import ErrorCode
from callboard_worker.engine import EngineError
from tests.backends.chat.suite import ChatEngineSuite, Rig, collect, request, text_of

pytestmark = pytest.mark.backend


class FakeRig(Rig):
    def __init__(self) -> None:
        self.fake = FakeEngine(FakeScript(tokens=tuple(f"w{n} " for n in range(60)), context_tokens=50))
        self.engine = self.fake

    async def busy(self) -> int:
        return self.fake.state.active

    def slow(self) -> None:
        self.fake.script.token_delay_s = 0.1

    def long_prompt(self) -> str:
        return "word " * 51


class TestFake(ChatEngineSuite):
    @pytest.fixture
    async def rig(self) -> AsyncGenerator[FakeRig]:
        rig = FakeRig()
        await rig.engine.load()
        yield rig
        await rig.engine.close()


async def test_faults_happen_where_the_script_says() -> None:
    engine = FakeEngine(FakeScript(tokens=("a", "b", "c"), unavailable_times=1, fail_at=2))
    with pytest.raises(EngineError) as away:
        await collect(engine, request())
    assert away.value.info.code is ErrorCode.ENGINE_UNAVAILABLE
    stream = engine.stream(request())
    assert [(await anext(stream)).text, (await anext(stream)).text] == ["a", "b"]
    with pytest.raises(EngineError) as failed:
        await anext(stream)
    assert failed.value.info.code is ErrorCode.ENGINE_FAILED
    assert engine.state.active == 0


async def test_thinking_comes_apart_from_the_text() -> None:
    engine = FakeEngine(FakeScript(tokens=("yes",), thinking=("hm ", "so ")))
    chunks = await collect(engine, request())
    assert text_of(chunks) == "yes"
    assert "".join(chunk.thinking for chunk in chunks) == "hm so "


TOOLS = (
    Tool(name="wait"),
    Tool(
        name="dim",
        parameters={
            "type": "object",
            "properties": {
                "level": {"type": "integer", "minimum": 2},
                "room": {"enum": ["attic"]},
                "names": {"type": "array", "items": {"type": "string"}, "minItems": 2},
                "now": {"type": "boolean"},
            },
            "required": ["level", "room", "names", "now"],
            "additionalProperties": False,
        },
    ),
)


async def test_tools_are_called_where_they_must_be_and_as_the_script_says() -> None:
    engine = FakeEngine()
    for choice, name in (("required", "wait"), ("dim", "dim")):
        wanted = request(tools=TOOLS, tool_choice=choice)
        chunks = await collect(engine, wanted)
        (call,) = checked_calls(wanted, chunks[-1].tool_calls, complete=True)
        assert (call.name, text_of(chunks), chunks[-1].finish) == (name, "", "tool_calls")
    for wanted in (request(tools=TOOLS), request(tools=TOOLS, tool_choice="none")):
        assert (await collect(engine, wanted))[-1].tool_calls == ()
    engine.script.tool_calls = (ToolCall(id="c", name="wait", arguments="{}"),)
    chunks = await collect(engine, request(tools=TOOLS))
    assert text_of(chunks)
    assert chunks[-1].tool_calls == engine.script.tool_calls
    assert (await collect(engine, request()))[-1].tool_calls == ()

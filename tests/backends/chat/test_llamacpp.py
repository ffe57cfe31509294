"""The embedded llama.cpp with the real SmolLM2."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from callboard_chat.backends.llamacpp import LlamaCppEngine
from callboard_chat.domain.ports import Continuation
from callboard_chat.settings import DEFAULT_MODEL_FILE
from callboard_contracts.chat import ChatMessage, OutputFormat, Sampling, Tool
from callboard_contracts.config import SiteSection
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_kit.model_files import model_path
from tests.backends.chat.suite import ChatEngineSuite, Rig, collect, failure, request, settled, text_of

pytestmark = [pytest.mark.backend, pytest.mark.timeout(60)]

CONTEXT_TOKENS = 1024
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


class LlamaRig(Rig):
    # It stops at the end of a token or of a batch of prompt, 0.15 s on a quiet machine; tests share theirs.
    stop_bound_s = 3.0

    def __init__(self, engine: LlamaCppEngine) -> None:
        self.llama = engine
        self.engine = engine

    async def busy(self) -> int:
        return await self.llama.busy_slots()

    def slow(self) -> None:
        """Long replies take seconds by themselves."""

    def long_prompt(self) -> str:
        return "hello " * (CONTEXT_TOKENS + 100)


@pytest.fixture(scope="session")
def model() -> Path:
    path = model_path(SiteSection(), DEFAULT_MODEL_FILE)
    if not path.exists():
        pytest.skip(f"no model at {path}: run `callboard models fetch`")
    return path


@pytest.fixture
async def rig(model: Path) -> AsyncGenerator[LlamaRig]:
    engine = LlamaCppEngine(model, slots=3, context_tokens=CONTEXT_TOKENS, threads=2)
    await engine.load()
    yield LlamaRig(engine)
    await engine.close()


class TestLlamaCpp(ChatEngineSuite):
    """The common suite; its fixture is the module's."""


async def test_a_long_prompt_that_nobody_waits_for_is_given_up(rig: LlamaRig) -> None:
    """The engine is stopped while it still reads, before its first token."""
    task = asyncio.ensure_future(collect(rig.engine, request("tell me more " * 300)))
    await settled(1, rig, timeout_s=5)
    await asyncio.sleep(0.3)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settled(0, rig)


async def test_a_schema_is_enforced(rig: LlamaRig) -> None:
    shape = OutputFormat(kind="json_schema", json_schema=PERSON, name="person")
    chunks = await collect(rig.engine, request("Invent a person.", limit=100, output_format=shape))
    person = json.loads(text_of(chunks))
    assert set(person) == {"name", "age"}
    assert isinstance(person["age"], int)
    assert chunks[-1].finish == "stop"
    assert chunks[-1].completion_tokens is not None


async def test_a_reply_in_a_schema_goes_on_inside_it(rig: LlamaRig) -> None:
    shape = OutputFormat(kind="json_schema", json_schema=PERSON, name="person")
    said = Continuation('{"name": "Al', "", 5)
    chunks = await collect(rig.engine, request("Invent a person.", limit=100, output_format=shape), said)
    person = json.loads(said.text + text_of(chunks))
    assert person["name"].startswith("Al")


async def test_any_json_object_is_an_object(rig: LlamaRig) -> None:
    chunks = await collect(rig.engine, request("Say hi.", limit=60, output_format=OutputFormat(kind="json_object")))
    assert text_of(chunks).lstrip().startswith("{")


async def test_a_schema_that_is_none_is_refused(rig: LlamaRig) -> None:
    shape = OutputFormat(kind="json_schema", json_schema={"type": "bogus"}, name="x")
    with pytest.raises(CallboardError) as refused:
        await collect(rig.engine, request(output_format=shape))
    assert refused.value.info.code is ErrorCode.INVALID_REQUEST
    assert refused.value.info.param == "output_format"
    assert "bogus" not in refused.value.info.message


async def test_a_stop_sequence_ends_the_reply_before_it(rig: LlamaRig) -> None:
    whole = text_of(await collect(rig.engine, request(limit=30)))
    word = whole.split()[4]
    sampling = Sampling(temperature=0, seed=1, stop=(word,))
    chunks = await collect(rig.engine, request(limit=30, sampling=sampling))
    assert text_of(chunks) == whole[: whole.index(word)]
    assert chunks[-1].finish == "stop"


async def test_tools_are_refused_by_a_model_that_knows_none(rig: LlamaRig) -> None:
    with pytest.raises(CallboardError) as refused:
        await collect(rig.engine, request(tools=(Tool(name="look"),)))
    assert refused.value.info.code is ErrorCode.UNSUPPORTED
    assert refused.value.info.param == "tools"
    ignored = await collect(rig.engine, request(tools=(Tool(name="look"),), tool_choice="none"))
    assert text_of(ignored)


async def test_a_reply_ends_when_the_context_is_full(rig: LlamaRig) -> None:
    chunks = await collect(rig.engine, request("Count. " * 480, limit=500, mode="completion"))
    last = chunks[-1]
    assert last.finish == "length"
    assert last.prompt_tokens is not None
    assert last.completion_tokens is not None
    assert last.prompt_tokens + last.completion_tokens <= CONTEXT_TOKENS + 1


async def test_odd_conversations_are_answered_or_refused(rig: LlamaRig) -> None:
    roles = (("system",), ("user", "user"), ("assistant",), ("tool",), ("assistant", "assistant"))
    for conversation in roles:
        messages = tuple(ChatMessage.model_validate({"role": role, "content": "Hi."}) for role in conversation)
        if conversation == ("assistant", "assistant"):
            _, error = await failure(rig.engine, request(limit=3, messages=messages))
            assert error.code is ErrorCode.INVALID_REQUEST
        else:
            assert (await collect(rig.engine, request(limit=3, messages=messages)))[-1].finish is not None


async def test_a_missing_or_broken_file_is_said_plainly(tmp_path: Path) -> None:
    for name, content in (("missing.gguf", None), ("broken.gguf", b"GGUF but not really")):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        engine = LlamaCppEngine(path, slots=1, context_tokens=128, threads=1)
        with pytest.raises(CallboardError, match=name):
            await engine.load()
        await engine.close()

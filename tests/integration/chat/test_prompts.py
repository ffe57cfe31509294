"""What a worker makes of raw prompts that are too long, have tags, or are written in another form."""

from collections.abc import AsyncGenerator

import pytest

from callboard_chat.backends.fake import FakeEngine, FakeScript
from callboard_chat.domain.models import ContextExceeded
from callboard_chat.domain.ports import Chunk, Continuation
from callboard_contracts.chat import ChatMessage, ChatRequest
from callboard_contracts.errors import ErrorCode
from callboard_contracts.workers import Ability
from tests.integration.chat.conftest import worker
from tests.integration.chat.edge_stub import EdgeStub
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.integration

LONG = "".join(f"Ada: line {n}.\n" for n in range(400))


class NoTokens(FakeEngine):
    """Tells no tokens, and finds prompts too long that others take."""

    abilities: frozenset[Ability] = FakeEngine.abilities - {"tokenize"}
    most_characters = 150

    async def stream(
        self, request: ChatRequest, continuation: Continuation | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """Refuses what is too long."""
        if len(request.prompt) > self.most_characters:
            self.state.requests.append((request, continuation))
            raise ContextExceeded(request, 64)
        async for chunk in super().stream(request, continuation):
            yield chunk


async def test_a_long_prompt_loses_its_front_and_keeps_its_memory(server: NatsServer, edge_stub: EdgeStub) -> None:
    async with worker(server, FakeEngine(FakeScript(context_tokens=64))):
        job = await edge_stub.post(
            mode="completion", messages=(), prompt=LONG, memory="Mo is a miller. ", overflow="drop_front", limit=12
        )
        last = await edge_stub.end(job)
        assert last.end is not None
        assert last.end.reason == "stop"
        assert 52 - 52 // 8 <= last.end.usage.prompt_tokens <= 52
        usage = await edge_stub.usage(job)
        assert usage.work.prompt_tokens == last.end.usage.prompt_tokens
        refused = await edge_stub.post(mode="completion", messages=(), prompt=LONG)
        last = await edge_stub.end(refused)
        assert last.end is not None
        assert last.end.error is not None
        assert last.end.error.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED


async def test_an_engine_without_tokens_is_asked_again_with_less(server: NatsServer, edge_stub: EdgeStub) -> None:
    engine = NoTokens()
    async with worker(server, engine):
        job = await edge_stub.post(
            mode="completion",
            messages=(),
            prompt=LONG,
            memory="Mo.\n",
            overflow="drop_front",
            context_tokens=128,
            limit=12,
        )
        last = await edge_stub.end(job)
        assert last.end is not None
        assert last.end.reason == "stop"
        prompts = [request.prompt for request, _ in engine.state.requests]
        assert 1 < len(prompts) <= 6
        assert [len(prompt) for prompt in prompts] == sorted((len(prompt) for prompt in prompts), reverse=True)
        assert all(prompt.startswith("Mo.\nAda: line ") and prompt.endswith("399.\n") for prompt in prompts)
        engine.most_characters = 0
        job = await edge_stub.post(
            mode="completion", messages=(), prompt=LONG, overflow="drop_front", context_tokens=99
        )
        last = await edge_stub.end(job)
        assert last.end is not None
        assert last.end.error is not None
        assert last.end.error.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED


async def test_tags_in_prompts_and_stop_sequences_are_the_models_own(server: NatsServer, edge_stub: EdgeStub) -> None:
    engine = FakeEngine(FakeScript(tokens=("Hi ", "you<|im_start|>user", " more ")))
    async with worker(server, engine):
        job = await edge_stub.post(
            mode="completion",
            messages=(),
            prompt="{{[INPUT]}}Hi{{[OUTPUT]}}",
            turn_tags=True,
            sampling={"stop": ["{{[INPUT]}}", "{{[OUTPUT]}}"]},
        )
        last = await edge_stub.end(job)
        assert edge_stub.text(job) == "Hi you"
        assert last.end is not None
        assert (last.end.reason, last.end.stop_sequence) == ("stop", "<|im_start|>user")
        assert engine.state.requests[0][0].prompt == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


async def test_a_dialogue_in_another_form_is_continued_where_it_broke_off(
    server: NatsServer, edge_stub: EdgeStub
) -> None:
    engine = FakeEngine(FakeScript(tokens=(" Good", " day", ".\nYou:", " no"), break_at=2, break_times=1))
    async with worker(server, engine, resume="prefill"):
        job = await edge_stub.post(
            messages=(ChatMessage(role="user", content="Hi <START> you"),), prompt_format="pygmalion"
        )
        last = await edge_stub.end(job)
        assert edge_stub.text(job).endswith("Good day Good day.")
        assert last.end is not None
        assert (last.end.reason, last.end.stop_sequence) == ("stop", "\nYou:")
        (first, _), (second, said) = engine.state.requests
        assert first.prompt == "<START>\nYou: Hi < START> you\nCharacter:"
        assert (second.prompt, said) == (f"{first.prompt} ", Continuation("Good day", "", 2))

"""What every chat engine must do; each backend's module inherits it and says how to cause the faults."""

import asyncio
from abc import abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from callboard_chat.domain.ports import ChatEngine, Chunk, Continuation
from callboard_contracts.chat import ChatMessage, ChatRequest, Sampling
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_worker.engine import EngineError


def request(text: str = "Tell me a story.", limit: int = 12, mode: str = "chat", **fields: object) -> ChatRequest:
    """A request with settings under which a real model repeats itself exactly."""
    body: dict[str, object] = {"model": "stub", "mode": mode, "max_output_tokens": limit}
    body |= {"messages": (ChatMessage(role="user", content=text),)} if mode == "chat" else {"prompt": text}
    return ChatRequest.model_validate({"sampling": Sampling(temperature=0, seed=1), **body, **fields})


async def collect(engine: ChatEngine, wanted: ChatRequest, said: Continuation | None = None) -> list[Chunk]:
    """A whole reply."""
    async with aclosing(engine.stream(wanted, said)) as chunks:
        return [chunk async for chunk in chunks]


def text_of(chunks: list[Chunk]) -> str:
    """The text of a reply."""
    return "".join(chunk.text for chunk in chunks)


async def failure(engine: ChatEngine, wanted: ChatRequest) -> tuple[str, ErrorInfo]:
    """What a reply said until it failed, and how it failed."""
    said = ""
    try:
        async for chunk in engine.stream(wanted):
            said += chunk.text
    except EngineError as error:
        return said, error.info
    raise AssertionError("the reply did not fail")


async def settled(busy: int, rig: "Rig") -> None:
    """Waits until the engine works on so many replies; fails after the rig's bound."""
    async with asyncio.timeout(rig.stop_bound_s):
        while await rig.busy() != busy:
            await asyncio.sleep(0.005)


class Rig:
    """One engine under test, and the ways to look at it and to trouble it."""

    engine: ChatEngine
    stop_bound_s = 10.0
    """How long the engine may go on after its stream is closed; its replies take longer when they are not stopped."""

    @abstractmethod
    async def busy(self) -> int:
        """How many replies the engine itself works on."""

    @abstractmethod
    def slow(self) -> None:
        """From now on replies take seconds."""

    @abstractmethod
    def long_prompt(self) -> str:
        """A prompt that does not fit."""


async def first_text(stream: AsyncGenerator[Chunk, None]) -> str:
    """The first text of a reply; an engine may tell before how much of the prompt it has read."""
    async for chunk in stream:
        if chunk.text:
            return chunk.text
    return ""


class ChatEngineSuite:
    """Inherited by each backend; subclasses supply the fixture `rig`."""

    async def test_a_reply_ends_with_a_finish_and_exact_counts(self, rig: Rig) -> None:
        chunks = await collect(rig.engine, request(limit=6))
        *said, last = chunks
        assert all(chunk.finish is None for chunk in said)
        assert last.finish == "length"
        assert last.completion_tokens == 6
        assert last.prompt_tokens is not None
        assert last.prompt_tokens > 0
        assert sum(chunk.tokens for chunk in chunks) <= 6
        assert text_of(chunks)

    async def test_a_completion_continues_its_prompt(self, rig: Rig) -> None:
        chunks = await collect(rig.engine, request("Once upon a time", limit=5, mode="completion"))
        assert text_of(chunks)
        assert chunks[-1].finish == "length"
        assert chunks[-1].completion_tokens == 5

    async def test_the_same_request_gives_the_same_reply(self, rig: Rig) -> None:
        first = await collect(rig.engine, request(limit=8))
        assert text_of(await collect(rig.engine, request(limit=8))) == text_of(first)

    async def test_a_continuation_says_exactly_the_rest(self, rig: Rig) -> None:
        whole = await collect(rig.engine, request(limit=10))
        said = whole[:4]
        continuation = Continuation(text_of(said), "", sum(chunk.tokens for chunk in said))
        rest = await collect(rig.engine, request(limit=10), continuation)
        assert continuation.text + text_of(rest) == text_of(whole)
        assert rest[-1].finish == whole[-1].finish
        assert rest[-1].prompt_tokens == whole[-1].prompt_tokens
        assert rest[-1].completion_tokens == 10 - continuation.tokens

    async def test_closing_the_stream_stops_the_engine(self, rig: Rig) -> None:
        rig.slow()
        stream = rig.engine.stream(request(limit=2000))
        await anext(stream)
        assert await rig.busy() == 1
        await stream.aclose()
        await settled(0, rig)

    async def test_cancelling_while_the_engine_is_silent_stops_it(self, rig: Rig) -> None:
        rig.slow()
        task = asyncio.ensure_future(collect(rig.engine, request(limit=2000)))
        await settled(1, rig)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await settled(0, rig)

    async def test_several_replies_are_written_at_once(self, rig: Rig) -> None:
        rig.slow()
        streams: list[AsyncGenerator[Chunk, None]] = [rig.engine.stream(request(limit=500)) for _ in range(3)]
        try:
            first = await asyncio.gather(*(first_text(stream) for stream in streams))
            assert all(first)
            assert await rig.busy() == 3
        finally:
            await asyncio.gather(*(stream.aclose() for stream in streams))
        await settled(0, rig)

    async def test_a_prompt_over_the_context_is_refused_before_any_token(self, rig: Rig) -> None:
        stream = rig.engine.stream(request(rig.long_prompt()))
        with pytest.raises(EngineError) as refused:
            await anext(stream)
        assert refused.value.info.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED

    async def test_the_engine_says_that_it_is_ready(self, rig: Rig) -> None:
        assert await rig.engine.ready() is None

"""What every engine that makes embeddings must do; each backend's module inherits it."""

import asyncio
from abc import abstractmethod
from collections.abc import Sequence

import pytest

from callboard_chat.domain.embedding import InputTooLong
from callboard_chat.domain.ports import ChatEngine, Embedded
from callboard_contracts.embedding import floats
from callboard_contracts.errors import ErrorCode

CONTEXT_TOKENS = 64
LONG = "word " * (CONTEXT_TOKENS + 20)


class EmbeddingRig:
    """One engine under test, and the ways to look at it and to trouble it."""

    engine: ChatEngine
    counts_cut_texts = True
    """Whether the engine says how many texts it cut."""

    @abstractmethod
    async def busy(self) -> int:
        """How many requests the engine itself works on."""

    @abstractmethod
    def slow(self) -> Sequence[str]:
        """Texts that take seconds."""

    async def embed(self, *texts: str, truncate: bool = False) -> Embedded:
        """Embeds texts."""
        return await self.engine.embed("stub", texts, CONTEXT_TOKENS, truncate=truncate)


class EmbeddingSuite:
    """Inherited by each backend; subclasses supply the fixture `embedding_rig`."""

    def test_the_engine_says_that_it_can(self, embedding_rig: EmbeddingRig) -> None:
        assert "embedding" in embedding_rig.engine.abilities

    async def test_texts_become_vectors_in_their_order(self, embedding_rig: EmbeddingRig) -> None:
        together = await embedding_rig.embed("An owl.", "Two owls and a wren.", "x")
        alone = [await embedding_rig.embed(text) for text in ("An owl.", "Two owls and a wren.", "x")]
        assert len({len(vector) for vector in together.vectors}) == 1
        for vector, single in zip(together.vectors, alone, strict=True):
            assert list(floats(vector)) == pytest.approx(list(floats(single.vectors[0])), abs=0.02)
        assert len(set(together.vectors)) == 3
        assert together.prompt_tokens == sum(each.prompt_tokens for each in alone) > 0
        assert together.truncated == 0

    async def test_text_over_the_context_is_refused(self, embedding_rig: EmbeddingRig) -> None:
        with pytest.raises(InputTooLong) as refused:
            await embedding_rig.embed("An owl.", LONG)
        info = refused.value.explained(CONTEXT_TOKENS, ("An owl.", LONG), 5)
        assert (info.code, info.param) == (ErrorCode.CONTEXT_LENGTH_EXCEEDED, "inputs[6]")
        assert f"maximum context length is {CONTEXT_TOKENS} tokens" in info.message

    async def test_text_over_the_context_is_cut_where_it_may_be(self, embedding_rig: EmbeddingRig) -> None:
        cut = await embedding_rig.embed("An owl.", LONG, truncate=True)
        short = await embedding_rig.embed("An owl.")
        assert len(cut.vectors) == 2
        assert short.prompt_tokens < cut.prompt_tokens <= CONTEXT_TOKENS + short.prompt_tokens
        if embedding_rig.counts_cut_texts:
            assert cut.truncated == 1

    async def test_cancelling_stops_the_engine(self, embedding_rig: EmbeddingRig) -> None:
        task = asyncio.ensure_future(embedding_rig.embed(*embedding_rig.slow()))
        async with asyncio.timeout(20):
            while await embedding_rig.busy() == 0:
                await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(20):
            while await embedding_rig.busy():
                await asyncio.sleep(0.005)

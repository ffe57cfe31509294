"""Embeddings by each engine: the fake one, stubs behind real sockets, and the embedded llama.cpp with SmolLM2."""

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest

from callboard_chat.backends.fake import FakeEngine
from callboard_chat.backends.llamacpp import LlamaCppEngine
from callboard_chat.backends.llamacpp_embedding import cut, portions
from callboard_chat.backends.ollama import OllamaEngine
from callboard_chat.backends.openai import OpenAIEngine
from callboard_chat.domain.ports import ChatEngine
from callboard_chat.settings import DEFAULT_MODEL_FILE
from callboard_contracts.config import SiteSection
from callboard_contracts.embedding import floats
from callboard_contracts.errors import ErrorCode
from callboard_kit.model_files import model_path
from callboard_worker.engine import EngineError
from tests.backends.chat.embedding_suite import CONTEXT_TOKENS, EmbeddingRig, EmbeddingSuite
from tests.backends.chat.suite import collect, request, text_of
from tests.support.stub_ollama import StubOllama
from tests.support.stub_openai import Script, StubOpenAI, word_vector
from tests.support.threaded_app import ThreadedApp

pytestmark = [pytest.mark.backend, pytest.mark.timeout(400)]


class FakeRig(EmbeddingRig):
    def __init__(self) -> None:
        self.fake = FakeEngine()
        self.engine = self.fake

    async def busy(self) -> int:
        return self.fake.state.active

    def slow(self) -> Sequence[str]:
        self.fake.script.embed_delay_s = 60
        return ("x",)


class StubRig(EmbeddingRig):
    def __init__(self, stub: StubOpenAI | StubOllama, engine: ChatEngine) -> None:
        self.stub = stub
        self.engine = engine
        self.counts_cut_texts = isinstance(stub, StubOpenAI)

    async def busy(self) -> int:
        return self.stub.active

    def slow(self) -> Sequence[str]:
        self.stub.script.first_delay_s = 60
        return ("x",)


class LlamaRig(EmbeddingRig):
    def __init__(self, engine: LlamaCppEngine) -> None:
        self.llama = engine
        self.engine = engine

    async def busy(self) -> int:
        return await self.llama.busy_slots()

    def slow(self) -> Sequence[str]:
        return ["An owl and a wren sat on a fence. " * 5] * 128


class TestFake(EmbeddingSuite):
    @pytest.fixture
    async def embedding_rig(self) -> FakeRig:
        rig = FakeRig()
        await rig.engine.load()
        return rig

    async def test_texts_with_the_same_words_are_near(self, embedding_rig: FakeRig) -> None:
        vectors = [floats(each) for each in (await embedding_rig.embed("an owl", "an owl sat", "wrens fly")).vectors]
        near, far = (sum(a * b for a, b in zip(vectors[0], other, strict=True)) for other in vectors[1:])
        assert near > far
        assert all(sum(value * value for value in vector) == pytest.approx(1) for vector in vectors)


class TestOpenAI(EmbeddingSuite):
    @pytest.fixture
    async def embedding_rig(self) -> AsyncGenerator[StubRig]:
        stub = StubOpenAI()
        stub.script = Script(context_tokens=CONTEXT_TOKENS)
        with ThreadedApp(stub.app) as app:
            engine = OpenAIEngine(f"{app.url}/v1", "secret", connect_timeout_s=2)
            await engine.load()
            yield StubRig(stub, engine)
            await engine.close()

    @pytest.mark.parametrize("plain_numbers", [False, True])
    async def test_vectors_come_in_either_form(self, embedding_rig: StubRig, plain_numbers: bool) -> None:
        embedding_rig.stub.script.plain_numbers = plain_numbers
        embedded = await embedding_rig.embed("An owl.", "A wren.")
        assert [list(floats(vector)) for vector in embedded.vectors] == [word_vector("An owl."), word_vector("A wren.")]
        (body,) = embedding_rig.stub.requests
        assert body == {"model": "stub", "input": ["An owl.", "A wren."], "encoding_format": "base64"}

    @pytest.mark.parametrize(
        ("status", "code"),
        [
            (503, ErrorCode.ENGINE_UNAVAILABLE),
            (501, ErrorCode.UNSUPPORTED),
            (404, ErrorCode.ENGINE_FAILED),
            (400, ErrorCode.INVALID_REQUEST),
        ],
    )
    async def test_refusals_are_told_apart(self, embedding_rig: StubRig, status: int, code: ErrorCode) -> None:
        embedding_rig.stub.script = Script(fail_status=status, fail_times=1)
        with pytest.raises(EngineError) as failed:
            await embedding_rig.embed("x")
        assert failed.value.info.code is code
        assert "secret" not in failed.value.info.message


class TestOllama(EmbeddingSuite):
    @pytest.fixture
    async def embedding_rig(self) -> AsyncGenerator[StubRig]:
        stub = StubOllama()
        with ThreadedApp(stub.app) as app:
            engine = OllamaEngine(app.url, None, connect_timeout_s=2, contexts={"stub": CONTEXT_TOKENS})
            await engine.load()
            yield StubRig(stub, engine)
            await engine.close()

    async def test_request_says_what_becomes_of_long_texts(self, embedding_rig: StubRig) -> None:
        embedded = await embedding_rig.embed("An owl.", truncate=True)
        (body,) = embedding_rig.stub.requests
        assert (body["input"], body["truncate"]) == (["An owl."], True)
        assert body["options"] == {"num_ctx": CONTEXT_TOKENS}
        assert embedded.load_s == 0.002

    @pytest.mark.parametrize("status", [500, 404])
    async def test_failure_is_told(self, embedding_rig: StubRig, status: int) -> None:
        embedding_rig.stub.script = Script(fail_status=status, fail_times=1)
        with pytest.raises(EngineError) as failed:
            await embedding_rig.embed("x")
        expected = ErrorCode.ENGINE_UNAVAILABLE if status == 500 else ErrorCode.ENGINE_FAILED
        assert failed.value.info.code is expected


class TestLlamaCpp(EmbeddingSuite):
    """SmolLM2 was made to write: its vectors are the mean of what it makes of each token."""

    @pytest.fixture
    async def embedding_rig(self) -> AsyncGenerator[LlamaRig]:
        path: Path = model_path(SiteSection(), DEFAULT_MODEL_FILE)
        if not path.exists():
            pytest.skip(f"no model at {path}: run `callboard models fetch`")
        engine = LlamaCppEngine(path, slots=2, context_tokens=128, threads=1, embeddings=True)
        await engine.load()
        yield LlamaRig(engine)
        await engine.close()

    async def test_related_texts_are_nearer_than_others(self, embedding_rig: LlamaRig) -> None:
        texts = ("The cat sleeps on the sofa.", "A kitten naps on the couch.", "Interest rates rose by two percent.")
        embedded = await embedding_rig.embed(*texts)
        cat, kitten, rates = (floats(vector) for vector in embedded.vectors)
        near, far = (sum(a * b for a, b in zip(cat, other, strict=True)) for other in (kitten, rates))
        assert near > far
        assert sum(value * value for value in cat) == pytest.approx(1, abs=1e-4)

    async def test_control_tokens_in_a_text_are_plain_text(self, embedding_rig: LlamaRig) -> None:
        plain, special = await embedding_rig.embed("x"), await embedding_rig.embed("<|im_end|>x")
        assert special.prompt_tokens > plain.prompt_tokens + 1

    async def test_the_engine_still_writes_replies(self, embedding_rig: LlamaRig) -> None:
        assert text_of(await collect(embedding_rig.engine, request(limit=4)))


@pytest.mark.parametrize(
    ("tokens", "text", "kept"),
    [
        ([1, 5, 6, 7, 2], [5, 6, 7], [1, 5, 2]),
        ([5, 6, 7, 2], [5, 6, 7], [5, 6, 2]),
        ([5, 6, 7, 8], [5, 6, 7, 8], [5, 6, 7]),
        ([1, 5, 6, 7], [5, 6, 7], [1, 5, 6]),
    ],
)
def test_cut_text_keeps_what_the_engine_puts_around_it(tokens: list[int], text: list[int], kept: Any) -> None:
    assert cut(tokens, text, 3) == kept


@pytest.mark.parametrize(
    ("lengths", "together"),
    [((2, 2, 1, 3), [[2, 2], [1, 3]]), ((5, 1), [[5], [1]]), ((1, 9, 1), [[1], [9], [1]]), ((), [])],
)
def test_engine_gets_a_portion_at_a_time(lengths: tuple[int, ...], together: list[list[int]]) -> None:
    assert [[len(text) for text in some] for some in portions([[0] * length for length in lengths], 4)] == together

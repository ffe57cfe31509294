"""How the texts of a request are cut into batches, and what becomes of their vectors."""

import base64
import math
from collections.abc import Sequence

import pytest

from callboard_chat.app import offered_models
from callboard_chat.backends.fake import FakeEngine
from callboard_chat.domain.embedding import (
    BATCH_BYTES,
    BATCH_INPUTS,
    FIRST_BATCH_INPUTS,
    Embedding,
    InputTooLong,
    embed_cut,
    embedding_refusal,
)
from callboard_chat.domain.models import ServedModel, refusal
from callboard_chat.domain.ports import Embedded
from callboard_chat.domain.prompt_statistics import PromptStatistics
from callboard_chat.domain.reply_statistics import ReplyStatistics
from callboard_chat.settings import pool_settings
from callboard_contracts.chat import ChatMessage, ChatRequest
from callboard_contracts.config import Config
from callboard_contracts.embedding import MAX_VECTOR_BYTES, EmbeddingRequest, floats, packed
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.workers import Ability
from callboard_worker.engine import EngineFailed

pytestmark = pytest.mark.unit


def asking(*inputs: str, **over: object) -> EmbeddingRequest:
    return EmbeddingRequest.model_validate({"model": "magpie", "inputs": inputs, **over})


def embedded(count: int, dimensions: int = 4, tokens: int = 3) -> Embedded:
    return Embedded([packed([float(n + 1)] * dimensions) for n in range(count)], tokens)


def test_batches_grow_once_the_size_of_a_vector_is_known() -> None:
    embedding = Embedding(asking(*["x"] * 100), attempt=1)
    sizes: list[int] = []
    while not embedding.complete:
        batch = embedding.next_inputs()
        sizes.append(len(batch))
        embedding.take(embedded(len(batch)), len(batch))
    assert sizes[:2] == [FIRST_BATCH_INPUTS, BATCH_INPUTS]
    assert sum(sizes) == 100
    assert embedding.tokens == 3 * len(sizes)


def test_batches_of_large_vectors_stay_one_message() -> None:
    embedding = Embedding(asking(*["x"] * 100), attempt=1)
    embedding.take(embedded(8, dimensions=8192), 8)
    frame = embedding.take(embedded(len(embedding.next_inputs()), dimensions=8192), len(embedding.next_inputs()))
    assert len(frame.compact()) < 1024 * 1024
    assert len(frame.vectors) == 16


def test_batches_are_bounded_in_bytes_and_a_larger_text_goes_alone() -> None:
    half, large = "y" * (BATCH_BYTES // 2), "z" * (2 * BATCH_BYTES)
    embedding = Embedding(asking(half, half, "x", large, "x"), attempt=1)
    seen: list[Sequence[str]] = []
    while not embedding.complete:
        seen.append(embedding.next_inputs())
        embedding.take(embedded(len(seen[-1])), len(seen[-1]))
    assert [list(batch) for batch in seen] == [[half, half], ["x"], [large], ["x"]]


def test_frames_go_on_where_an_earlier_attempt_ended() -> None:
    first = Embedding(asking("a", "b", "c"), attempt=1)
    known = first.take(embedded(2), 2)
    second = Embedding(asking("a", "b", "c"), attempt=2, known=[known])
    assert list(second.next_inputs()) == ["c"]
    frame = second.take(embedded(1), 1)
    end = second.end("stop").end
    assert (frame.seq, frame.attempt) == (1, 2)
    assert end is not None
    assert end.usage.prompt_tokens == 6
    assert [sent.seq for sent in second.sent_since(1)] == [1, 2]


def test_request_that_failed_has_used_nothing() -> None:
    embedding = Embedding(asking("a"), attempt=1)
    embedding.take(embedded(1), 1)
    error = ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="No.")
    failed, cancelled = embedding.end("error", error).end, embedding.end("cancelled").end
    assert failed is not None
    assert cancelled is not None
    assert (failed.usage.prompt_tokens, cancelled.usage.prompt_tokens) == (0, 3)


def test_vectors_are_shortened_to_length_one() -> None:
    embedding = Embedding(asking("a", dimensions=2), attempt=1)
    frame = embedding.take(Embedded([packed((3.0, 4.0, 12.0))], 1), 1)
    assert list(floats(base64.b64decode(frame.vectors[0]))) == pytest.approx([0.6, 0.8])


def test_more_dimensions_than_there_are_is_the_clients_fault() -> None:
    embedding = Embedding(asking("a", dimensions=5), attempt=1)
    with pytest.raises(CallboardError) as refused:
        embedding.take(embedded(1), 1)
    assert (refused.value.info.code, refused.value.info.param) == (ErrorCode.INVALID_REQUEST, "dimensions")


def test_more_vectors_than_one_request_may_have_are_refused() -> None:
    count = 2048
    dimensions = MAX_VECTOR_BYTES // 4 // count + 1
    embedding = Embedding(asking(*["x"] * count), attempt=1)
    with pytest.raises(CallboardError) as refused:
        embedding.take(embedded(8, dimensions), 8)
    assert (refused.value.info.code, refused.value.info.param) == (ErrorCode.INVALID_REQUEST, "inputs")
    assert "at most 2047 at once" in refused.value.info.message


@pytest.mark.parametrize(
    "vectors",
    [
        [packed((1.0,))],
        [packed((1.0,)), packed((1.0, 2.0))],
        [packed((1.0,)), b""],
        [packed((1.0,)), b"abc"],
        [packed((1.0,)), packed((math.nan,))],
        [packed((math.inf, -math.inf)), packed((1.0, 1.0))],
        [packed([1.0] * 20_000)] * 2,
    ],
    ids=["too few", "of several lengths", "empty", "no floats", "not a number", "infinite", "too long"],
)
def test_what_is_no_vector_is_the_engines_fault(vectors: list[bytes]) -> None:
    with pytest.raises(EngineFailed):
        Embedding(asking("a", "b"), attempt=1).take(Embedded(vectors, 1), 2)


def test_result_keeps_few_vectors_and_not_many() -> None:
    embedding = Embedding(asking(*["x"] * 16), attempt=1)
    embedding.take(embedded(8, dimensions=1024), 8)
    embedding.take(embedded(8, dimensions=1024), 8)
    end = embedding.end("stop").end
    assert end is not None
    assert len(embedding.result("r", end).vectors) == 16
    larger = Embedding(asking(*["x"] * 9), attempt=1)
    larger.take(embedded(8, dimensions=2048), 8)
    larger.take(embedded(1, dimensions=2048), 1)
    end = larger.end("stop").end
    assert end is not None
    assert larger.result("r", end).vectors == ()


def test_expected_tokens_follow_from_the_bytes_that_were_read() -> None:
    embedding = Embedding(asking("aaaa", "aaaa", "aaaaaaaa"), attempt=1)
    embedding.take(embedded(2, tokens=10), 2)
    assert embedding.expected_tokens(10) == 20


async def test_texts_are_cut_until_they_fit() -> None:
    asked: list[list[str]] = []

    async def embed(texts: Sequence[str]) -> Embedded:
        asked.append(list(texts))
        if any(len(text) > 10 for text in texts):
            raise InputTooLong(None)
        return Embedded([b"1234"] * len(texts), 1)

    cut = await embed_cut(embed, ["short", "a" * 30])
    assert cut.truncated == 1
    assert asked[-1] == ["short", "a" * 9]


async def test_text_that_never_fits_is_refused_in_the_end() -> None:
    async def embed(_texts: Sequence[str]) -> Embedded:
        raise InputTooLong(None)

    with pytest.raises(InputTooLong):
        await embed_cut(embed, ["abcdef"])


def test_model_does_what_it_is_configured_for() -> None:
    models = {
        "magpie": ServedModel("magpie", "m", embeddings=True, chat=False),
        "owl": ServedModel("owl", "o"),
    }
    chat = ChatRequest(model="magpie", messages=(ChatMessage(role="user", content="x"),), max_output_tokens=1)
    abilities: frozenset[Ability] = frozenset({"chat", "completion", "embedding", "tools"})
    assert models["magpie"].abilities(abilities) == {"embedding"}
    assert "embedding" not in models["owl"].abilities(abilities)
    refused = refusal(chat, models, {"chat", "embedding"})
    assert refused is not None
    assert refused.code is ErrorCode.UNSUPPORTED
    assert refusal(chat.model_copy(update={"model": "owl"}), models, {"chat"}) is None
    assert embedding_refusal(asking("x"), models, {"embedding"}) is None
    for name, code in (("owl", ErrorCode.UNSUPPORTED), ("dodo", ErrorCode.UNKNOWN_MODEL)):
        error = embedding_refusal(asking("x").model_copy(update={"model": name}), models, {"embedding"})
        assert error is not None
        assert error.code is code


def test_worker_offers_what_each_model_is_configured_for() -> None:
    table = {
        "pools": {"main": {"backend": "fake"}},
        "models": {"owl": {"pool": "main"}, "magpie": {"pool": "main", "embeddings": True, "chat": False}},
    }
    pool = pool_settings(Config.model_validate({"chat": table}), "main", {})
    statistics = {name: PromptStatistics() for name in ("owl", "magpie")}
    replies = {name: ReplyStatistics() for name in statistics}
    owl, magpie = offered_models(pool, FakeEngine(), statistics, replies)
    assert pool.makes_embeddings
    assert magpie.abilities == ("embedding", "tokenize")
    assert "chat" in owl.abilities
    assert "embedding" not in owl.abilities


@pytest.mark.parametrize(
    ("models", "default"),
    [({"chat": False}, None), ({"chat": False, "embeddings": True}, "magpie")],
    ids=["a model for nothing", "a default that writes no replies"],
)
def test_configuration_without_sense_is_refused(models: dict[str, bool], default: str | None) -> None:
    table = {"pools": {"main": {"backend": "fake"}}, "models": {"magpie": {"pool": "main", **models}}}
    with pytest.raises(ValueError, match="magpie"):
        Config.model_validate({"chat": {**table, "default_model": default}})

"""OpenAI's path for embeddings, and what all protocols with embeddings share."""

import asyncio
import base64
import json
from typing import Any

import pytest

from callboard_contracts.embedding import EmbeddingEnd, EmbeddingFrame, EmbeddingResult, floats
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.workers import OfferedModel, WorkerInfo
from callboard_edge.http import embedding_responder
from tests.unit.edge.harness import EdgeHarness, running, vectors

pytestmark = pytest.mark.unit

PATH = "/v1/embeddings"
A, B, C = (0.5, -0.25), (1.0, 0.0), (0.0, 1.0)


def asking(**over: Any) -> dict[str, Any]:
    return {"model": "magpie", "input": "Hello.", **over}


def failed(code: ErrorCode) -> EmbeddingFrame:
    error = ErrorInfo(code=code, message="It failed.")
    return EmbeddingFrame(seq=0, attempt=1, end=EmbeddingEnd(reason="error", error=error))


async def test_text_becomes_a_vector(harness: EdgeHarness) -> None:
    worker = harness.embeds(vectors(A))
    status, headers, body = await harness.post(PATH, asking())
    job = await worker
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body) == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}],
        "model": "magpie",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    assert (job.request.inputs, job.request.model, job.request.dimensions) == (("Hello.",), "magpie", None)
    assert job.request.truncate is False
    (asked,) = harness.quota.asked
    assert (asked.kind, asked.work.prompt_tokens, asked.work.completion_tokens) == ("embedding", 8, 0)
    await harness.all_closed()
    assert harness.jobs.cancelled == []


async def test_texts_become_vectors_in_their_order_as_base64(harness: EdgeHarness) -> None:
    worker = harness.embeds(vectors(A, B, C))
    body = asking(input=["a", "b", "c"], encoding_format="base64", dimensions=2, user="u", truncate=True)
    _, _, answer = await harness.post(PATH, body)
    request = (await worker).request
    found = json.loads(answer)["data"]
    assert [tuple(floats(base64.b64decode(each["embedding"]))) for each in found] == [A, B, C]
    assert [each["index"] for each in found] == [0, 1, 2]
    assert (request.inputs, request.dimensions, request.truncate) == (("a", "b", "c"), 2, True)


async def test_model_left_out_is_the_first_that_embeds(harness: EdgeHarness) -> None:
    harness.embeds(vectors(A))
    _, _, body = await harness.post(PATH, {"input": "x"})
    assert json.loads(body)["model"] == "magpie"


async def test_large_answer_goes_out_in_pieces(harness: EdgeHarness) -> None:
    values = [[float(n)] * 4096 for n in range(32)]
    harness.embeds(vectors(*values))
    status, headers, body = await harness.post(PATH, asking(input=["x"] * 32))
    assert (status, headers["Transfer-Encoding"]) == (200, "chunked")
    assert [each["embedding"] for each in json.loads(body)["data"]] == values
    assert (
        harness.figure(
            "callboard_edge_requests_total", route="embeddings", protocol="openai", mode="whole", status="2xx"
        )
        == 1
    )


async def test_newer_attempt_replaces_what_an_older_one_sent(harness: EdgeHarness) -> None:
    async def work() -> None:
        job = await harness.jobs.next_embedding()
        for frame in (*vectors(A, B, end=None), *vectors(C, attempt=2, first=1)):
            harness.replies.send_vectors(job.request_id, frame)

    worker = asyncio.ensure_future(work())
    _, _, body = await harness.post(PATH, asking(input=["a", "b"]))
    await worker
    assert [tuple(each["embedding"]) for each in json.loads(body)["data"]] == [A, C]


async def test_lost_frames_are_read_back(harness: EdgeHarness) -> None:
    harness.replies.lose_next = 2
    harness.embeds(vectors(A, B))
    status, _, body = await harness.post(PATH, asking(input=["a", "b"]))
    assert (status, len(json.loads(body)["data"])) == (200, 2)
    assert harness.replies.replays >= 1


@pytest.mark.parametrize(("kept", "status"), [((A,), 200), ((), 503)])
async def test_kept_result_stands_for_frames_that_are_gone(
    harness: EdgeHarness, kept: tuple[tuple[float, ...], ...], status: int
) -> None:
    async def work() -> None:
        job = await harness.jobs.next_embedding()
        harness.replies.embedding_results[job.request_id] = EmbeddingResult(
            request_id=job.request_id, model="magpie", vectors=kept
        )
        harness.jobs.finish(job.request_id)

    worker = asyncio.ensure_future(work())
    answered, _, body = await harness.post(PATH, asking())
    await worker
    assert answered == status
    if status == 200:
        assert tuple(json.loads(body)["data"][0]["embedding"]) == A
    else:
        assert json.loads(body)["error"]["code"] == "interrupted"


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "no text": ({"input": ""}, "input", "invalid_request"),
    "an empty text among others": ({"input": ["a", ""]}, "input", "invalid_request"),
    "an empty list": ({"input": []}, "input", "invalid_request"),
    "too many texts": ({"input": ["a"] * 2049}, "input", "invalid_request"),
    "token ids": ({"input": [1, 2]}, "input", "unsupported"),
    "lists of token ids": ({"input": [[1, 2], [3]]}, "input", "unsupported"),
    "texts and token ids": ({"input": ["a", 1]}, "input", "invalid_request"),
    "an object": ({"input": {"text": "a"}}, "input", "invalid_request"),
    "another encoding": ({"encoding_format": "hex"}, "encoding_format", "invalid_request"),
    "no dimension": ({"dimensions": 0}, "dimensions", "invalid_request"),
    "a model that only writes": ({"model": "owl"}, "model", "model_not_found"),
    "a text that is certain not to fit": ({"input": "a" * 70_000}, "input", "context_length_exceeded"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_request_is_refused_and_nothing_is_held(harness: EdgeHarness, case: str) -> None:
    over, param, code = REFUSED[case]
    status, _, body = await harness.post(PATH, asking(**over))
    error = json.loads(body)["error"]
    assert (status, error["param"], error["code"]) == (404 if code == "model_not_found" else 400, param, code)
    assert harness.quota.asked == []


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_model_for_embeddings_writes_no_replies(harness: EdgeHarness, path: str) -> None:
    body = {"model": "magpie", "prompt": "x", "messages": [{"role": "user", "content": "x"}]}
    status, _, answer = await harness.post(path, body)
    assert (status, json.loads(answer)["error"]["code"]) == (404, "model_not_found")


async def test_model_whose_workers_do_not_embed_is_refused(harness: EdgeHarness) -> None:
    offered = OfferedModel(name="magpie", abilities=("chat",))
    harness.known.announce(
        WorkerInfo(id="w", service="chat", pool="main", backend="x", models=(offered,), slots=1, at=0)
    )
    status, _, body = await harness.post(PATH, asking())
    assert (status, json.loads(body)["error"]["code"]) == (400, "unsupported")


async def test_hold_is_what_the_model_usually_reads(harness: EdgeHarness) -> None:
    offered = OfferedModel(name="magpie", abilities=("embedding",), tokens_per_byte=0.25)
    harness.known.announce(
        WorkerInfo(id="w", service="chat", pool="main", backend="x", models=(offered,), slots=1, at=0)
    )
    harness.embeds(vectors(A, B))
    await harness.post(PATH, asking(input=["x" * 400, "y" * 100_00]))
    (asked,) = harness.quota.asked
    assert asked.work.prompt_tokens == 102 + 512


async def test_models_are_listed_once_each(harness: EdgeHarness) -> None:
    async with harness.session.get(harness.url + "/v1/models") as reply:
        names = [model["id"] for model in (await reply.json())["data"]]
    assert names == ["owl", "wren/tiny", "magpie", "parrot", "ear"]
    async with harness.session.get(harness.url + "/v1/models/magpie") as reply:
        assert reply.status == 200


@pytest.mark.parametrize(
    ("code", "status"),
    [(ErrorCode.CONTEXT_LENGTH_EXCEEDED, 400), (ErrorCode.ENGINE_FAILED, 502), (ErrorCode.QUOTA_EXCEEDED, 429)],
)
async def test_failure_of_the_worker_has_its_own_status(harness: EdgeHarness, code: ErrorCode, status: int) -> None:
    harness.embeds([failed(code)])
    answered, _, body = await harness.post(PATH, asking())
    assert answered == status
    assert json.loads(body)["error"]["message"] == "It failed."


async def test_fewer_vectors_than_texts_are_an_engines_fault(harness: EdgeHarness) -> None:
    harness.embeds(vectors(A))
    status, _, body = await harness.post(PATH, asking(input=["a", "b"]))
    assert (status, json.loads(body)["error"]["code"]) == (502, "engine_failed")


async def test_client_that_leaves_cancels_the_job(harness: EdgeHarness) -> None:
    asked = asyncio.ensure_future(harness.post(PATH, asking()))
    job = await harness.jobs.next_embedding()
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await harness.all_closed()
    assert harness.jobs.cancelled == [job.request_id]


async def test_vectors_of_all_requests_are_bounded(harness: EdgeHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_responder, "MAX_HELD_BYTES", 64)
    many = [[1.0] * 8] * 3
    harness.embeds(vectors(*many))
    status, _, body = await harness.post(PATH, asking(input=["a", "b", "c"]))
    assert (status, json.loads(body)["error"]["code"]) == (503, "overloaded")
    await harness.all_closed()
    harness.embeds(vectors([1.0] * 8))
    assert (await harness.post(PATH, asking()))[0] == 200


async def test_request_that_no_job_can_carry_is_refused() -> None:
    async with running() as harness:
        harness.jobs.max_request_bytes = 2000
        status, _, body = await harness.post(PATH, asking(input=["word " * 500]))
    assert (status, json.loads(body)["error"]["code"]) == (413, "body_too_large")
    assert harness.quota.asked == []

"""Chat and embedding jobs in one queue are told apart, also those that older edges wrote."""

import json
from pathlib import Path
from typing import Any, cast

import pytest

from callboard_chat.handlers.chat_jobs import ChatJobs
from callboard_chat.handlers.embedding_jobs import EmbeddingJobs
from callboard_chat.handlers.pool_jobs import PoolJobs
from callboard_contracts.chat import ChatJob
from callboard_contracts.embedding import EmbeddingJob
from callboard_worker.handler import read_job

pytestmark = pytest.mark.unit

SAMPLES = Path(__file__).parents[2] / "contracts" / "samples"


class Reader:
    def __init__(self, model: type[Any]) -> None:
        self.model = model

    def parse(self, data: bytes) -> Any:
        return read_job(self.model, data)


@pytest.fixture
def jobs() -> PoolJobs:
    return PoolJobs(cast(ChatJobs, Reader(ChatJob)), cast(EmbeddingJobs, Reader(EmbeddingJob)))


@pytest.mark.parametrize("sample", ["chat_job.v1", "chat_job.v2"])
def test_chat_job_is_one(jobs: PoolJobs, sample: str) -> None:
    assert isinstance(jobs.parse((SAMPLES / f"{sample}.json").read_bytes()), ChatJob)


def test_embedding_job_is_one(jobs: PoolJobs) -> None:
    job = EmbeddingJob.model_validate_json((SAMPLES / "embedding_job.v2.json").read_bytes())
    assert jobs.parse(job.encoded()) == job


def test_chat_job_may_speak_of_embeddings(jobs: PoolJobs) -> None:
    job = ChatJob.model_validate_json((SAMPLES / "chat_job.v2.json").read_bytes())
    tool = job.request.tools[0].model_copy(update={"parameters": {"kind": "embedding"}})
    asked = job.model_copy(update={"request": job.request.model_copy(update={"tools": (tool,)})})
    assert b'"kind":"embedding"' in asked.encoded()
    assert jobs.parse(asked.encoded()) == asked


@pytest.mark.parametrize(
    ("body", "named"),
    [({"request_id": "r"}, "ChatJob"), ({"request_id": "r", "kind": "embedding"}, "EmbeddingJob")],
)
def test_what_is_neither_is_refused_without_its_words(jobs: PoolJobs, body: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=f"not a {named}"):
        jobs.parse(json.dumps(body, separators=(",", ":")).encode())

"""Embedding jobs: texts in, vectors out. They lie in the queues of chat pools, whose engines make them."""

from pydantic import Field

from callboard_contracts.chat import TokenUsage
from callboard_contracts.errors import ErrorInfo
from callboard_contracts.jobs import Job
from callboard_contracts.model import Message


class EmbeddingRequest(Message):
    """The texts to embed; `dimensions` left out, as many as the model has."""

    model: str
    inputs: tuple[str, ...] = Field(min_length=1)
    dimensions: int | None = Field(default=None, ge=1)


class EmbeddingJob(Job):
    """An embedding request in a work queue."""

    request: EmbeddingRequest


class EmbeddingResult(Message):
    """One vector for each text, in their order; `error` is set when there are none."""

    request_id: str
    model: str
    vectors: tuple[tuple[float, ...], ...] = ()
    usage: TokenUsage = TokenUsage()
    error: ErrorInfo | None = None

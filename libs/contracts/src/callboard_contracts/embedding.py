"""Embedding jobs: texts in, vectors out. They lie in the queues of chat pools, whose engines make them.

A vector on its way is base64 of its numbers as little-endian floats of 32 bits.
"""

import sys
from array import array
from collections.abc import Iterable
from operator import attrgetter
from typing import Literal

from pydantic import Field

from callboard_contracts.chat import PhaseDurations, TokenUsage
from callboard_contracts.errors import ErrorInfo
from callboard_contracts.jobs import Job
from callboard_contracts.model import Message
from callboard_contracts.ordering import AttemptOrder

MAX_INPUTS = 2048
"""The most texts of one request."""
MAX_VECTOR_BYTES = 16 * 1024 * 1024
"""The most that all vectors of one request may have."""
FLOAT_BYTES = 4

EmbeddingEndReason = Literal["stop", "cancelled", "error"]


class EmbeddingRequest(Message):
    """The texts to embed; `dimensions` left out, as many as the model has.

    A text that is longer than the model's context is refused, or with `truncate` loses its end.
    """

    model: str
    inputs: tuple[str, ...] = Field(min_length=1, max_length=MAX_INPUTS)
    dimensions: int | None = Field(default=None, ge=1)
    truncate: bool = False


class EmbeddingJob(Job):
    """An embedding request in a work queue; `kind` tells it apart from a chat job, which has none."""

    kind: Literal["embedding"] = "embedding"
    request: EmbeddingRequest


class EmbeddingEnd(Message):
    """How the work on the texts ended and what it used; `error` is set exactly when the reason is `error`.

    `truncated` is how many texts were cut.
    """

    reason: EmbeddingEndReason
    usage: TokenUsage = TokenUsage()
    durations: PhaseDurations = PhaseDurations()
    truncated: int = Field(default=0, ge=0)
    error: ErrorInfo | None = None


class EmbeddingFrame(Message):
    """Some vectors of a request on `out.<edge>.<request>`, in the order of the texts.

    `seq` counts from 0 without gaps over all attempts; `attempt` is the delivery that wrote the frame. `tokens` and
    `truncated` are those of the frame's texts. The last frame has `end`.
    """

    seq: int = Field(ge=0)
    attempt: int = Field(ge=1)
    vectors: tuple[str, ...] = ()
    tokens: int = Field(default=0, ge=0)
    truncated: int = Field(default=0, ge=0)
    end: EmbeddingEnd | None = None


class EmbeddingResult(Message):
    """One vector for each text, in their order; `error` is set when there are none.

    It is kept for an edge that missed frames, and where the vectors are too many to be kept it has none of them.
    """

    request_id: str
    model: str
    vectors: tuple[tuple[float, ...], ...] = ()
    usage: TokenUsage = TokenUsage()
    error: ErrorInfo | None = None


def order_of_embedding_frames(first: int = 0) -> AttemptOrder[EmbeddingFrame]:
    """Puts the frames of one request in order, beginning with the number `first`."""
    return AttemptOrder(attrgetter("seq"), attrgetter("attempt"), first)


def packed(values: Iterable[float]) -> bytes:
    """A vector of these numbers; raises OverflowError for one that is too large."""
    found = array("f", values)
    if sys.byteorder == "big":
        found.byteswap()
    return found.tobytes()


def floats(vector: bytes) -> "array[float]":
    """The numbers of a vector."""
    values = array("f", vector)
    if sys.byteorder == "big":
        values.byteswap()
    return values

"""Embeddings as JSON objects, in the form that OpenAI made common."""

import json
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from callboard_contracts.embedding import MAX_INPUTS, floats
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.abilities import unsupported
from callboard_edge.domain.embedding_stream import Vectors
from callboard_edge.http.bodies import AnswerBody

EncodingFormat = Literal["float", "base64"]


class EmbeddingObject(AnswerBody):
    """One vector: numbers, or base64 of them as little-endian floats of 32 bits."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(AnswerBody):
    """Exact token counts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(AnswerBody):
    """One vector for each text, in their order."""

    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str
    usage: EmbeddingUsage


@dataclass(frozen=True, slots=True)
class EmbeddingListWriter:
    """Writes vectors as such a list."""

    model: str
    encoding: EncodingFormat = "float"

    def pieces(self, vectors: Vectors) -> Iterator[bytes]:
        """The answer; see `EmbeddingWriter`."""
        yield b'{"object":"list","data":['
        for index, vector in enumerate(vectors.vectors):
            written = numbers(vector) if self.encoding == "float" else b'"' + b64encode(vector) + b'"'
            comma = b"," if index else b""
            yield b'%b{"object":"embedding","index":%d,"embedding":%b}' % (comma, index, written)
        tokens = vectors.end.usage.prompt_tokens
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        model, counted = json.dumps(self.model, ensure_ascii=False), json.dumps(usage)
        yield f'],"model":{model},"usage":{counted}}}'.encode("utf-8", "replace")


def numbers(vector: bytes) -> bytes:
    """A vector as a JSON list; nine digits are all that its floats have."""
    return f"[{','.join([format(value, '.9g') for value in floats(vector)])}]".encode()


def texts_of(given: str | list[Any]) -> tuple[str, ...]:
    """The texts of a request that has one, or a list of them.

    Raises:
        CallboardError: it has none, too many, or something else.
    """
    parts = [given] if isinstance(given, str) else given
    texts = tuple(part for part in parts if isinstance(part, str))
    if len(texts) < len(parts) and all(isinstance(part, int | list) for part in parts):
        # They are most often those of OpenAI's own tokenizer, and would be other words here.
        raise unsupported("Token ids belong to one model's tokenizer and cannot be read here; send text.", "inputs")
    if not parts or len(texts) < len(parts):
        raise _invalid("'input' must be a text, or a list of texts.")
    if len(texts) > MAX_INPUTS:
        raise _invalid(f"'input' may have at most {MAX_INPUTS} texts; it has {len(texts)}.")
    empty = next((index for index, text in enumerate(texts) if not text), None)
    if empty is not None:
        raise _invalid(f"Text {empty} of 'input' is empty.")
    return texts


def _invalid(message: str) -> CallboardError:
    return CallboardError(ErrorCode.INVALID_REQUEST, message, param="inputs")

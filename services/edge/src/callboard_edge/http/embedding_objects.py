"""Embeddings as JSON objects, in the form that OpenAI made common."""

import json
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from callboard_contracts.embedding import floats
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

"""The vectors of one request as they come into being, batch by batch and over all attempts."""

import base64
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set

from callboard_chat.domain.models import ServedModel, unknown_model
from callboard_chat.domain.ports import Embedded
from callboard_contracts.chat import PhaseDurations, TokenUsage
from callboard_contracts.context_length import input_exceeded
from callboard_contracts.embedding import (
    FLOAT_BYTES,
    MAX_VECTOR_BYTES,
    EmbeddingEnd,
    EmbeddingEndReason,
    EmbeddingFrame,
    EmbeddingRequest,
    EmbeddingResult,
    floats,
    packed,
)
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.prompt_size import text_bytes
from callboard_contracts.workers import Ability
from callboard_worker.engine import EngineFailed, EngineRefused

FIRST_BATCH_INPUTS = 8
"""How many texts an engine gets while it is not known how large its vectors are."""
BATCH_INPUTS = 32
BATCH_BYTES = 32 * 1024
"""How much text an engine gets at once, unless a single one has more; in between a request can be stopped."""
BATCH_VECTOR_BYTES = 512 * 1024
"""The vectors of a batch are one frame, which the bus must take as one message."""
MAX_DIMENSIONS = BATCH_VECTOR_BYTES // FIRST_BATCH_INPUTS // FLOAT_BYTES
KEPT_FLOATS = 16 * 1024
"""So many numbers at most are kept as a result."""
SHORTER = 3, 4
"""What is left each time of a text that is cut for an engine which does not cut it itself."""


class InputTooLong(EngineRefused):
    """One of the texts is longer than the model's context; `index` is its place, None where the engine does not say."""

    def __init__(self, index: int | None, context_tokens: int | None = None, input_tokens: int | None = None) -> None:
        self.index = index
        self._context_tokens = context_tokens
        self._input_tokens = input_tokens
        super().__init__(self.explained(0, ()))

    def explained(self, context_tokens: int, inputs: Sequence[str], first: int = 0) -> ErrorInfo:
        """What a client is told, where the engine was given these texts from the place `first` on."""
        context = self._context_tokens or context_tokens
        sizes = [text_bytes(text) // 4 for text in inputs] or [0]
        index = sizes.index(max(sizes)) if self.index is None else self.index
        tokens = self._input_tokens or max(sizes[min(index, len(sizes) - 1)], context + 1)
        return input_exceeded(first + index, context, tokens, estimated=self._input_tokens is None)


def embedding_refusal(
    request: EmbeddingRequest, models: Mapping[str, ServedModel], engine: Set[Ability]
) -> ErrorInfo | None:
    """Why a request cannot be served by these models on an engine with these abilities, or None when it can."""
    model = models.get(request.model)
    if model is None:
        return unknown_model(models)
    if not model.can("embedding", engine):
        return ErrorInfo(code=ErrorCode.UNSUPPORTED, message="This model makes no embeddings.", param="model")
    return None


class Embedding:
    """The vectors of one request: `known` are the frames of earlier attempts, in order and from the first on.

    Raises CallboardError where a model's vectors are not as the request wants them.
    """

    def __init__(self, request: EmbeddingRequest, attempt: int, known: Iterable[EmbeddingFrame] = ()) -> None:
        self._request = request
        self._attempt = attempt
        self._frames = list(known)
        self._load_s: float | None = None
        self.done = sum(len(frame.vectors) for frame in self._frames)
        """How many texts have their vectors."""
        self.tokens = sum(frame.tokens for frame in self._frames)

    @property
    def complete(self) -> bool:
        """Whether every text has its vector."""
        return self.done >= len(self._request.inputs)

    def next_inputs(self) -> Sequence[str]:
        """The texts that the engine gets next."""
        size = self._vector_bytes()
        most = FIRST_BATCH_INPUTS if size is None else max(1, min(BATCH_INPUTS, BATCH_VECTOR_BYTES // size))
        batch: list[str] = []
        left = BATCH_BYTES
        for text in self._request.inputs[self.done : self.done + most]:
            left -= text_bytes(text)
            if batch and left < 0:
                break
            batch.append(text)
        return batch

    def expected_tokens(self, tokens: int) -> int:
        """How many tokens all texts will have, if those that have been read so far are like the rest."""
        sizes = [text_bytes(text) for text in self._request.inputs]
        read = sum(sizes[: self.done]) or 1
        return math.ceil(tokens * sum(sizes) / read)

    def take(self, embedded: Embedded, count: int) -> EmbeddingFrame:
        """The frame for what an engine made of the next `count` texts."""
        vectors = [_checked(vector) for vector in embedded.vectors]
        if len(vectors) != count or len(set(map(len, vectors))) != 1:
            raise EngineFailed("the engine made other vectors than it was asked for")
        if (dimensions := self._request.dimensions) is not None:
            vectors = [shortened(vector, dimensions) for vector in vectors]
        size = len(vectors[0])
        if size * len(self._request.inputs) > MAX_VECTOR_BYTES:
            raise CallboardError(
                ErrorCode.INVALID_REQUEST,
                f"The model's vectors of {size // FLOAT_BYTES} numbers are too long for so many texts: "
                f"send at most {MAX_VECTOR_BYTES // size} at once.",
                param="inputs",
            )
        frame = EmbeddingFrame(
            seq=len(self._frames),
            attempt=self._attempt,
            vectors=tuple(base64.b64encode(vector).decode() for vector in vectors),
            tokens=embedded.prompt_tokens,
            truncated=embedded.truncated,
        )
        self._frames.append(frame)
        self.done += count
        self.tokens += frame.tokens
        self._load_s = embedded.load_s if self._load_s is None else self._load_s
        return frame

    def end(
        self,
        reason: EmbeddingEndReason,
        error: ErrorInfo | None = None,
        queue_s: float | None = None,
        prompt_s: float | None = None,
    ) -> EmbeddingFrame:
        """The last frame; of a request that failed nothing was used, since its client gets nothing."""
        end = EmbeddingEnd(
            reason=reason,
            usage=TokenUsage(prompt_tokens=0 if error else self.tokens),
            durations=PhaseDurations(queue_s=queue_s, load_s=self._load_s, prompt_s=prompt_s),
            truncated=sum(frame.truncated for frame in self._frames),
            error=error,
        )
        frame = EmbeddingFrame(seq=len(self._frames), attempt=self._attempt, end=end)
        self._frames.append(frame)
        return frame

    def sent_since(self, seq: int) -> Sequence[EmbeddingFrame]:
        """The frames from a number on."""
        return self._frames[seq:]

    def result(self, request_id: str, end: EmbeddingEnd) -> EmbeddingResult:
        """What is kept of the request; no vectors where they are too many."""
        vectors: tuple[tuple[float, ...], ...] = ()
        size = self._vector_bytes() or 0
        if end.reason == "stop" and size * self.done <= KEPT_FLOATS * FLOAT_BYTES:
            vectors = tuple(
                tuple(floats(base64.b64decode(vector))) for frame in self._frames for vector in frame.vectors
            )
        return EmbeddingResult(
            request_id=request_id, model=self._request.model, vectors=vectors, usage=end.usage, error=end.error
        )

    def _vector_bytes(self) -> int | None:
        """How large one vector is; None while there is none."""
        first = next((frame.vectors[0] for frame in self._frames if frame.vectors), None)
        return None if first is None else len(base64.b64decode(first))


def shortened(vector: bytes, dimensions: int) -> bytes:
    """The first numbers of a vector, at length 1 again; raises CallboardError where it has fewer."""
    values = floats(vector)
    if dimensions > len(values):
        raise CallboardError(
            ErrorCode.INVALID_REQUEST, f"The model's vectors have {len(values)} dimensions.", param="dimensions"
        )
    values = values[:dimensions]
    length = math.hypot(*values) or 1.0
    return packed(value / length for value in values)


async def embed_cut(embed: Callable[[Sequence[str]], Awaitable[Embedded]], inputs: Sequence[str]) -> Embedded:
    """Embeds texts with an engine that cuts none itself: those that are too long lose their end until they fit."""
    texts = list(inputs)
    cut: set[int] = set()
    while True:
        try:
            embedded = await embed(texts)
        except InputTooLong as error:
            index = error.index
            if index is None:
                index = max(range(len(texts)), key=lambda one: len(texts[one]))
            if len(texts[index]) < 2:
                raise
            texts[index] = texts[index][: len(texts[index]) * SHORTER[0] // SHORTER[1]]
            cut.add(index)
        else:
            return Embedded(embedded.vectors, embedded.prompt_tokens, len(cut), embedded.load_s)


def _checked(vector: bytes) -> bytes:
    """A vector that is one; raises EngineFailed otherwise."""
    if not vector or len(vector) % FLOAT_BYTES or len(vector) > MAX_DIMENSIONS * FLOAT_BYTES:
        raise EngineFailed("the engine's vector has no length that a vector can have")
    if not math.isfinite(sum(floats(vector))):
        raise EngineFailed("the engine's vector has a number that is none")
    return vector

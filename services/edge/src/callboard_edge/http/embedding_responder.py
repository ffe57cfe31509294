"""Answers a request for embeddings, in whatever form a protocol's writer gives them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import web

from callboard_contracts.embedding import EmbeddingRequest
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.abilities import check_embeds
from callboard_edge.domain.admission import Admission
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.domain.embedding_stream import Vectors
from callboard_edge.domain.workers import Workers
from callboard_edge.http.call import Call

MAX_HELD_BYTES = 128 * 1024 * 1024
"""What the vectors of all open requests may take together."""
RETRY_AFTER_S = 1.0


class EmbeddingWriter(Protocol):
    """Writes vectors in a protocol's form."""

    def pieces(self, vectors: Vectors) -> Iterable[bytes]:
        """The answer, as JSON in pieces that follow one another."""
        ...


@dataclass(slots=True)
class _HeldBytes:
    count: int = 0


@dataclass(frozen=True, slots=True)
class EmbeddingResponder:
    """What all protocols with embeddings share between their bodies and their writers."""

    admission: Admission
    workers: Workers
    held: _HeldBytes = field(default_factory=_HeldBytes)

    async def respond(
        self, call: Call, request: EmbeddingRequest, model: ChatModel, writer: EmbeddingWriter
    ) -> web.StreamResponse:
        """Checks a request against the model, admits it and answers it.

        Raises:
            CallboardError: it was refused, or failed before anything was sent.
        """
        check_embeds(self.workers.model("chat", model.pool, model.name))
        self.admission.check_size(request)
        held_bytes = 0

        def hold(size: int) -> None:
            nonlocal held_bytes
            self.held.count += size - held_bytes
            held_bytes = size
            if self.held.count > MAX_HELD_BYTES:
                raise CallboardError(
                    ErrorCode.OVERLOADED,
                    "The server is making too many embeddings; try again shortly.",
                    retry_after_s=RETRY_AFTER_S,
                )

        try:
            async with await self.admission.embeddings(call.caller, request, model, call.fresh_id) as stream:
                call.tell_limits(stream.states)

                async def on_silence() -> None:
                    # While a worker is there an error keeps its own status.
                    if stream.waking or call.response is not None:
                        await call.hold_open()

                vectors = await stream.collect(on_silence, hold)
            return await call.answer_pieces(writer.pieces(vectors))
        finally:
            self.held.count -= held_bytes

"""The jobs that lie in the queue of a chat pool: replies to write, and texts to embed."""

from types import CoroutineType
from typing import Any, cast

from callboard_chat.handlers.chat_jobs import ChatJobs
from callboard_chat.handlers.embedding_jobs import EmbeddingJobs
from callboard_contracts.chat import ChatJob
from callboard_contracts.embedding import EmbeddingJob
from callboard_contracts.errors import ErrorInfo
from callboard_worker.running import RunningJob

PoolJob = ChatJob | EmbeddingJob
KIND = b'"kind":"embedding"'


class PoolJobs:
    """Hands each job to its kind; see `JobKind`."""

    def __init__(self, chats: ChatJobs, embeddings: EmbeddingJobs) -> None:
        self._chats = chats
        self._embeddings = embeddings

    def parse(self, data: bytes) -> PoolJob:
        """Reads a job; raises ValueError."""
        # No embedding job can be read as a chat job, and a chat job may well hold these bytes.
        try:
            return self._chats.parse(data)
        except ValueError:
            if KIND not in data:
                raise
        return self._embeddings.parse(data)

    def run(self, running: RunningJob[PoolJob]) -> "CoroutineType[Any, Any, None]":
        """Runs one job to its end; see `JobKind`."""
        if isinstance(running.job, EmbeddingJob):
            return self._embeddings.run(cast("RunningJob[EmbeddingJob]", running))
        return self._chats.run(cast("RunningJob[ChatJob]", running))

    async def answer_dead(self, job: PoolJob, error: ErrorInfo) -> None:
        """Answers for a job that is not handed out again."""
        if isinstance(job, EmbeddingJob):
            await self._embeddings.answer_dead(job, error)
        else:
            await self._chats.answer_dead(job, error)

    async def close(self) -> None:
        """Ends what is still under way."""
        await self._chats.close()
        await self._embeddings.close()

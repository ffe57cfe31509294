"""The work queues in memory; they behave as those on the bus, and fail on demand."""

import asyncio
from collections import Counter

from callboard_contracts.chat import ChatJob
from callboard_contracts.embedding import EmbeddingJob
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.jobs import Job, Service
from callboard_contracts.speech import SpeechJob
from callboard_contracts.streams import JOB_STREAMS
from callboard_contracts.subjects import JobClass
from callboard_contracts.transcription import (
    SOUND_PART_BYTES,
    TranscriptionJob,
)
from callboard_edge.domain.ports import JobRef, QueueDepth


class FakeJobQueue:
    """Work queues in memory; `next_chat`, `next_embedding` and their like are the worker's side."""

    def __init__(self, max_queued_per_tenant: int = 64) -> None:
        self.failure: CallboardError | None = None
        self.delay_s = 0.0
        self.cancelled: list[str] = []
        self.removed: list[str] = []
        self.classes: list[JobClass] = []
        self.depths: dict[JobClass, QueueDepth] = {}
        self.max_request_bytes = 64 * 1024 * 1024
        self._most = max_queued_per_tenant
        self._seq = 0
        self._refs: dict[str, JobRef] = {}
        self._queued: dict[int, Job] = {}
        self._chats: asyncio.Queue[ChatJob] = asyncio.Queue()
        self._embeddings: asyncio.Queue[EmbeddingJob] = asyncio.Queue()
        self._speeches: asyncio.Queue[SpeechJob] = asyncio.Queue()
        self._transcriptions: asyncio.Queue[TranscriptionJob] = asyncio.Queue()
        self.sounds: dict[str, bytes] = {}
        self.sound_failure: CallboardError | None = None

    @property
    def queued(self) -> int:
        """How many jobs lie in the queues, taken by a worker or not."""
        return len(self._queued)

    async def enqueue(self, job: Job, service: Service, pool: str, job_class: JobClass) -> JobRef:
        """Stores a job."""
        del pool
        await asyncio.sleep(self.delay_s)
        if self.failure is not None:
            raise self.failure
        if job.request_id in self._refs:
            return self._refs[job.request_id]
        if Counter(queued.tenant for queued in self._queued.values())[job.tenant] >= self._most:
            raise CallboardError(ErrorCode.QUEUE_FULL, "Too many requests wait.", retry_after_s=2.0)
        self._seq += 1
        self._queued[self._seq] = job
        self.classes.append(job_class)
        if isinstance(job, ChatJob):
            self._chats.put_nowait(job)
        elif isinstance(job, EmbeddingJob):
            self._embeddings.put_nowait(job)
        elif isinstance(job, SpeechJob):
            self._speeches.put_nowait(job)
        elif isinstance(job, TranscriptionJob):
            self._transcriptions.put_nowait(job)
        ref = self._refs[job.request_id] = JobRef(JOB_STREAMS[service], self._seq)
        return ref

    async def store_sound(self, edge: str, request_id: str, sound: bytes | bytearray) -> int:
        """Stores a sound."""
        del edge
        await asyncio.sleep(self.delay_s)
        if self.sound_failure is not None:
            raise self.sound_failure
        self.sounds[request_id] = bytes(sound)
        return -(-len(sound) // SOUND_PART_BYTES)

    async def delete_sound(self, edge: str, request_id: str) -> None:
        """Forgets a sound."""
        del edge
        self.sounds.pop(request_id, None)

    async def cancel(self, request_id: str) -> None:
        """Notes the cancellation."""
        self.cancelled.append(request_id)

    async def remove(self, job_ref: JobRef) -> bool:
        """Takes a job out of its queue; a worker that has it already is not told."""
        job = self._queued.pop(job_ref.seq, None)
        if job is None:
            return False
        self.removed.append(job.request_id)
        return True

    async def depth(self, service: Service, pool: str, job_class: JobClass) -> QueueDepth:
        """How long a queue is, as a test has it."""
        del service, pool
        return self.depths.get(job_class, QueueDepth())

    async def next_chat(self) -> ChatJob:
        """Waits for a chat job and takes it."""
        return await asyncio.wait_for(self._chats.get(), 5)

    async def next_embedding(self) -> EmbeddingJob:
        """Waits for an embedding job and takes it."""
        return await asyncio.wait_for(self._embeddings.get(), 5)

    async def next_speech(self) -> SpeechJob:
        """Waits for a speech job and takes it."""
        return await asyncio.wait_for(self._speeches.get(), 5)

    async def next_transcription(self) -> TranscriptionJob:
        """Waits for a transcription job and takes it."""
        return await asyncio.wait_for(self._transcriptions.get(), 5)

    def finish(self, request_id: str) -> None:
        """Acknowledges a job, as a worker does at its end."""
        self._queued = {seq: job for seq, job in self._queued.items() if job.request_id != request_id}

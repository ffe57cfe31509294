"""The backends in memory keep the promises of the real ones."""

import pytest

from callboard_contracts.chat import ChatFrame, ChatResult
from callboard_contracts.embedding import EmbeddingFrame, EmbeddingResult
from callboard_contracts.interest import EdgeHeartbeat, ResumeReply
from callboard_contracts.speech import SegmentInfo
from callboard_edge.backends.fake_job_queue import FakeJobQueue
from callboard_edge.backends.fake_reply_router import FakeReplyRouter
from callboard_edge.backends.fake_result_store import FakeResultStore
from tests.backends.edge.suite import QUEUE_BOUND, EdgeBackendSuite, Rig

pytestmark = pytest.mark.backend


class FakeRig(Rig):
    """Everything in this process."""

    def __init__(self) -> None:
        self.fake_jobs = FakeJobQueue(QUEUE_BOUND)
        self.fake_replies = FakeReplyRouter()
        self.jobs = self.fake_jobs
        self.replies = self.fake_replies
        self.results = FakeResultStore(self.fake_replies)

    async def send(self, request_id: str, frame: ChatFrame) -> None:
        """Publishes a frame."""
        self.fake_replies.send(request_id, frame)

    async def send_vectors(self, request_id: str, frame: EmbeddingFrame) -> None:
        """Publishes a frame of vectors."""
        self.fake_replies.send_vectors(request_id, frame)

    async def keep_vectors(self, result: EmbeddingResult) -> None:
        """Stores a result."""
        self.fake_replies.embedding_results[result.request_id] = result

    async def say(self, request_id: str, n: int, info: SegmentInfo, pcm: bytes) -> None:
        """Publishes a segment."""
        self.fake_replies.say(request_id, n, info, pcm)

    async def resume(self, request_id: str, attempt: int) -> ResumeReply:
        """Asks how far a reply has come."""
        return self.fake_replies.resume(request_id, attempt)

    async def heartbeat(self) -> EdgeHeartbeat:
        """What a heartbeat would say."""
        return self.fake_replies.heartbeat()

    async def keep(self, result: ChatResult) -> None:
        """Stores a finished reply."""
        self.fake_replies.results[result.request_id] = result

    async def cancelled(self, request_id: str) -> bool:
        """Whether the cancellation was noted."""
        await self.jobs.cancel(request_id)
        return request_id in self.fake_jobs.cancelled


class TestFake(EdgeBackendSuite):
    """The suite over the fakes."""

    @pytest.fixture
    def rig(self) -> Rig:
        """Fresh ones."""
        return FakeRig()

"""The board in memory keeps the promises of the real one."""

import pytest

from callboard_contracts.chat import ChatFrame, ChatResult, InterestReply, InterestRequest
from callboard_contracts.speech import SegmentInfo
from callboard_edge.backends.fake import FakeJobQueue, FakeReplyRouter
from tests.backends.edge.suite import QUEUE_BOUND, BoardSuite, Rig

pytestmark = pytest.mark.backend


class FakeRig(Rig):
    """Everything in this process."""

    def __init__(self) -> None:
        self.fake_board = FakeJobQueue(QUEUE_BOUND)
        self.fake_frames = FakeReplyRouter()
        self.jobs = self.fake_board
        self.frames = self.fake_frames

    async def send(self, request_id: str, frame: ChatFrame) -> None:
        """Publishes a frame."""
        self.fake_frames.send(request_id, frame)

    async def say(self, request_id: str, n: int, info: SegmentInfo, pcm: bytes) -> None:
        """Publishes a segment."""
        self.fake_frames.say(request_id, n, info, pcm)

    async def ask(self, request_id: str, question: InterestRequest) -> InterestReply:
        """Asks whether a request is still wanted."""
        return self.fake_frames.ask(request_id, question)

    async def keep(self, result: ChatResult) -> None:
        """Stores a finished reply."""
        self.fake_frames.results[result.request_id] = result

    async def cancelled(self, request_id: str) -> bool:
        """Whether the cancellation was noted."""
        await self.jobs.cancel(request_id)
        return request_id in self.fake_board.cancelled


class TestFake(BoardSuite):
    """The suite over the fakes."""

    @pytest.fixture
    def rig(self) -> Rig:
        """A fresh jobs."""
        return FakeRig()

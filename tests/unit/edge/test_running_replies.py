"""Replies that are found, and stopped, by a name of their client's."""

from dataclasses import dataclass, field

import pytest

from callboard_contracts.running import RunningReply, RunningReplyRequest
from callboard_edge.domain.running_replies import FollowedReplies

pytestmark = pytest.mark.unit

STOP = RunningReplyRequest(name="pond", action="stop")
READ = RunningReplyRequest(name="pond", action="read")


@dataclass
class OtherEdge:
    """Another edge with its own replies."""

    replies: FollowedReplies = field(default_factory=FollowedReplies)

    async def ask(self, request: RunningReplyRequest) -> RunningReply | None:
        """Its answer."""
        return self.replies.answer(request)


async def test_order_that_another_edge_obeyed_does_not_stop_the_next_reply() -> None:
    other = OtherEdge()
    here = FollowedReplies(other)
    with other.replies.running("pond") as there:
        reply = await here.ask(STOP)
        assert (reply.running, reply.stopped, there.stopped) == (True, True, True)
    with here.running("pond") as following, other.replies.running("pond") as there:
        assert not following.stopped
        assert not there.stopped


async def test_order_that_nobody_could_obey_stops_the_next_reply_only() -> None:
    here = FollowedReplies(OtherEdge())
    assert await here.ask(STOP) == RunningReply()
    with here.running("pond") as first:
        assert first.stopped
    with here.running("pond") as second:
        assert not second.stopped


async def test_order_for_a_reply_that_has_just_ended_does_not_stop_the_next() -> None:
    here = FollowedReplies()
    with here.running("pond"):
        pass
    assert not (await here.ask(STOP)).stopped
    with here.running("pond") as following:
        assert not following.stopped


async def test_replies_that_share_a_name_are_all_stopped_and_not_read() -> None:
    here = FollowedReplies()
    with here.running("pond") as one, here.running("pond") as two:
        assert await here.ask(READ) == RunningReply()
        assert (await here.ask(STOP)).stopped
        assert one.stopped
        assert two.stopped
    assert here.count == 0

"""What is remembered of jobs that are in no volunteer's hands any more, for texts that come too late."""

from typing import Literal

from callboard_chat.domain.posted_job import Handout
from callboard_chat.domain.recent_entries import RecentEntries

REMEMBERED_ENDS = 8192

Ended = Literal["duplicate", "aborted"]


class EndedHandouts:
    """How the last hand-outs ended, and what was told of those whose reply ended while they were streamed."""

    def __init__(self) -> None:
        self._ended: RecentEntries[str, tuple[str, Ended]] = RecentEntries(REMEMBERED_ENDS)
        self._told: RecentEntries[str, Handout] = RecentEntries(REMEMBERED_ENDS)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._ended

    def put(self, job_id: str, account: str, outcome: Ended) -> None:
        """Notes how a hand-out to a volunteer of an account ended."""
        self._ended.put(job_id, (account, outcome))

    def keep_told(self, handout: Handout) -> None:
        """Keeps a hand-out whose reply was complete with what had been streamed, such as at a stop sequence."""
        self._told.put(handout.id, handout)

    def take_told(self, job_id: str, account: str) -> Handout | None:
        """Such a hand-out to a volunteer of an account, once; its text counts as submitted then."""
        handout = self._told.get(job_id)
        if handout is None or handout.by.account != account:
            return None
        del self._told[job_id]
        self.put(job_id, account, "duplicate")
        return handout

    def outcome(self, job_id: str, account: str) -> Literal["duplicate", "aborted", "foreign", "unknown"]:
        """What a volunteer of an account is told that comes too late."""
        known = self._ended.get(job_id)
        if known is None:
            return "unknown"
        return known[1] if known[0] == account else "foreign"

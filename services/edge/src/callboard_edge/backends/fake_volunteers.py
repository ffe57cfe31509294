"""Volunteers without a bus: a store in memory, and chat workers that a test scripts."""

from collections.abc import Callable

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.volunteers import (
    PopReply,
    PopRequest,
    ProgressRequest,
    SubmitReply,
    SubmitRequest,
    VolunteerRecord,
)
from callboard_edge.domain.volunteer_jobs import ChatWorkerGone


class FakeVolunteerStore:
    """Records in memory; see `VolunteerStore`."""

    def __init__(self) -> None:
        self.records: dict[str, VolunteerRecord] = {}

    async def change(
        self,
        worker_id: str,
        change: Callable[[VolunteerRecord], VolunteerRecord],
        new: VolunteerRecord | None = None,
    ) -> VolunteerRecord:
        """Changes a record, or `new` where there is none."""
        known = self.records.get(worker_id, new)
        if known is None:
            raise CallboardError(ErrorCode.NOT_FOUND, "there is no such volunteer")
        self.records[worker_id] = changed = change(known)
        return changed

    async def remove(self, worker_id: str) -> None:
        """Forgets a record."""
        self.records.pop(worker_id, None)


class FakeVolunteerWorkers:
    """Chat workers that answer as scripted; see `VolunteerWorkers`. Those that are `gone` do not answer."""

    def __init__(self) -> None:
        self.pops: list[tuple[str, PopRequest]] = []
        self.submits: list[tuple[str, SubmitRequest]] = []
        self.told: list[tuple[str, ProgressRequest]] = []
        self.withdrawn: list[tuple[str, str]] = []
        self.gone: set[str] = set()
        self.lost: set[str] = set()
        """Those whose processes have ended."""
        self.jobs: list[PopReply] = []
        """What pops get, one after another; then nothing."""
        self.nothing = PopReply()
        self.outcomes: dict[str, SubmitReply] = {}
        """By chat worker."""

    async def pop(self, worker: str, request: PopRequest) -> PopReply | None:
        """Jobs for a volunteer."""
        self.pops.append((worker, request))
        if worker in self.gone:
            return None
        return self.jobs.pop(0) if self.jobs else self.nothing

    async def withdraw(self, worker: str, ticket: str) -> None:
        """Notes it."""
        self.withdrawn.append((worker, ticket))

    async def submit(self, worker: str, request: SubmitRequest) -> SubmitReply | None:
        """What became of a text."""
        self.submits.append((worker, request))
        if worker in self.lost:
            raise ChatWorkerGone
        return None if worker in self.gone else self.outcomes.get(worker, SubmitReply(outcome="unknown"))

    async def progress(self, worker: str, request: ProgressRequest) -> SubmitReply | None:
        """What became of a piece of a text."""
        self.told.append((worker, request))
        return None if worker in self.gone else self.outcomes.get(worker, SubmitReply(outcome="unknown"))

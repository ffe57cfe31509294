"""What the edge's decisions need from the outside, as the shapes that its backends fill in."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from callboard_contracts.chat import ChatFrame, ChatJob, ChatResult, InterestReply, InterestRequest
from callboard_contracts.errors import ErrorInfo
from callboard_contracts.quota import (
    Hold,
    IdentifyReply,
    IdentifyRequest,
    ReserveReply,
    ReserveRequest,
    UsageReply,
    UsageRequest,
)
from callboard_contracts.speech import SegmentInfo, SpeechJob

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class JobRef:
    """Where a job lies on the board, so that it can be taken back."""

    stream: str
    seq: int


@dataclass(frozen=True, slots=True)
class Segment:
    """Segment `n` of an utterance: what is known of it, and its PCM."""

    n: int
    info: SegmentInfo
    pcm: bytes


OnInterest = Callable[[InterestRequest], InterestReply]
"""Answers a worker that asks whether a request is still wanted."""


class QuotaClient(Protocol):
    """Holds what a request may cost before it runs."""

    async def reserve(self, request: ReserveRequest) -> ReserveReply:
        """Takes a hold, or says why not; never raises because quota is away, but answers `quota_unavailable`."""
        ...

    async def release(self, hold: Hold) -> None:
        """Gives a hold back whose job never ran; what cannot be given back is left to expire."""
        ...

    async def identify(self, request: IdentifyRequest) -> IdentifyReply:
        """Says who a caller is."""
        ...

    async def usage(self, request: UsageRequest) -> UsageReply:
        """Says what a caller has used; answers `quota_unavailable` when quota is away, whatever the site admits."""
        ...


class JobQueue(Protocol):
    """Where jobs are job_ref for the workers."""

    async def enqueue_chat(self, job: ChatJob, pool: str) -> JobRef:
        """Posts a chat job that somebody waits for.

        Raises:
            CallboardError: `queue_full` or `bus_unavailable`.
        """
        ...

    async def enqueue_speech(self, job: SpeechJob, pool: str) -> JobRef:
        """Posts a speech job that somebody waits for; raises as `enqueue_chat` does."""
        ...

    async def cancel(self, request_id: str) -> None:
        """Tells the worker of a request, if there is one, that nobody waits any more."""
        ...

    async def remove(self, job_ref: JobRef) -> bool:
        """Deletes a job that may still be queued; false when it is already gone."""
        ...


class Inbox(Protocol[T]):
    """What arrives for one request: bounded, read by one reader, filled without waiting."""

    @property
    def lost(self) -> bool:
        """Whether something may have been missed since the last `drain`: the inbox was full, or the bus was away."""
        ...

    @property
    def failure(self) -> ErrorInfo | None:
        """The error that the inbox was failed with."""
        ...

    def drain(self) -> list[T]:
        """Takes what has arrived, and forgets that something was lost."""
        ...

    async def wait(self, timeout_s: float) -> None:
        """Returns when something has arrived or was lost, when the inbox is failed, or after the timeout."""
        ...

    def fail(self, error: ErrorInfo) -> None:
        """Ends the reader's waiting with an error."""
        ...


class ReplyRouter(Protocol):
    """What workers send back for the requests of this edge."""

    @property
    def edge(self) -> str:
        """This edge's token in subjects."""
        ...

    def open_chat(self, request_id: str, on_interest: OnInterest) -> "Inbox[ChatFrame]":
        """Starts to collect the frames of a chat request; call before the job is job_ref."""
        ...

    def open_audio(self, request_id: str, on_interest: OnInterest) -> "Inbox[Segment]":
        """Starts to collect the segments of a speech request, whose room is this edge."""
        ...

    def close_request(self, request_id: str) -> None:
        """Stops collecting; a worker that asks from now on learns that nobody waits."""
        ...

    async def replay_chat(self, request_id: str) -> list[ChatFrame]:
        """Reads all frames of a request back from the board; empty when the board does not answer."""
        ...

    async def replay_audio(self, request_id: str, from_n: int) -> list[Segment]:
        """Reads the next few segments from number `from_n` on back from the board, as `replay_chat` does."""
        ...

    async def result(self, request_id: str) -> ChatResult | None:
        """The finished reply, if the board has it."""
        ...

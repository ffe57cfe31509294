"""What the edge's decisions need from the outside, as the protocols that its backends implement."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from callboard_contracts.chat import ChatFrame, ChatResult
from callboard_contracts.embedding import EmbeddingFrame, EmbeddingResult
from callboard_contracts.errors import ErrorInfo
from callboard_contracts.interest import ResumeReply
from callboard_contracts.jobs import Job, Service
from callboard_contracts.kept import JobTicket, KeptDialogue, KeptGroup
from callboard_contracts.kudos import KudosReply, KudosTransferRequest, KudosUptimeRequest
from callboard_contracts.quota import (
    Hold,
    IdentifyReply,
    IdentifyRequest,
    ReserveReply,
    ReserveRequest,
    UsageReply,
    UsageRequest,
)
from callboard_contracts.rooms import (
    CancelTurn,
    OpenRoom,
    PostTurn,
    Room,
    RoomKind,
    RoomReply,
    RoomRequest,
    SpeakInRoom,
)
from callboard_contracts.running import RunningReply, RunningReplyRequest
from callboard_contracts.speech import AudioSegment
from callboard_contracts.subjects import JobClass
from callboard_contracts.tokens import (
    DescribeModelReply,
    DescribeModelRequest,
    DetokenizeReply,
    DetokenizeRequest,
    TokenizeReply,
    TokenizeRequest,
)
from callboard_contracts.transcription import TranscriptionFrame, TranscriptionResult
from callboard_edge.domain.room_playout import RoomEvent, WantedSegments

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class JobRef:
    """A job's place in its work queue."""

    stream: str
    seq: int


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """How many jobs of a queue wait for a worker, and the place of the last that one was given."""

    waiting: int = 0
    delivered_seq: int = 0


@dataclass(frozen=True, slots=True)
class RequestState:
    """What an open request tells workers: the newest attempt seen, and how far the reply has come.

    `resume` takes the number of the attempt that asks.
    """

    attempt: Callable[[], int]
    resume: Callable[[int], ResumeReply]


class QuotaClient(Protocol):
    """Holds what a request may cost before it runs."""

    async def reserve(self, request: ReserveRequest) -> ReserveReply:
        """Takes a hold or says why not; answers `quota_unavailable` when quota is away, and never raises for it."""
        ...

    async def release(self, hold: Hold) -> None:
        """Releases the hold of a job that never ran; a hold that cannot be released expires."""
        ...

    async def check_caller(self, key_digest: str | None) -> ErrorInfo | None:
        """Why a caller's request is not even read, or None: where keys are required, a missing or unknown key."""
        ...

    async def identify(self, request: IdentifyRequest) -> IdentifyReply:
        """Says who a caller is."""
        ...

    async def usage(self, request: UsageRequest) -> UsageReply:
        """Says what a caller has used; answers `quota_unavailable` when quota is away, whatever the site admits."""
        ...

    async def kudos(self, account: str) -> KudosReply:
        """Says what an account is called and has in kudos; answers `quota_unavailable` as `usage` does."""
        ...

    async def pay_uptime(self, request: KudosUptimeRequest) -> KudosReply:
        """Pays a volunteer for having been there, once for a period; answers as `kudos`."""
        ...

    async def transfer_kudos(self, request: KudosTransferRequest) -> KudosReply:
        """Moves kudos, once for each id; answers as `kudos`, after which the transfer may have happened."""
        ...


class Background(Protocol):
    """The owner of work that must not end when its request does.

    There are at most a few tasks for each open request, so the bound on requests bounds them too.
    """

    def start(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Runs a coroutine to its end, or until the process ends."""
        ...


class JobQueue(Protocol):
    """The work queues of all services."""

    @property
    def max_request_bytes(self) -> int:
        """How large the request in a job may be, as JSON."""
        ...

    async def enqueue(self, job: Job, service: Service, pool: str, job_class: JobClass) -> JobRef:
        """Stores a job in a pool's queue; a repeat of the same request id is stored once.

        Raises:
            CallboardError: `queue_full`, `body_too_large` or `bus_unavailable`.
        """
        ...

    async def store_sound(self, edge: str, request_id: str, sound: bytes | bytearray) -> int:
        """Stores what a transcription job is about, before it is enqueued, and returns in how many parts.

        Raises:
            CallboardError: `overloaded` or `bus_unavailable`; a part may then be stored.
        """
        ...

    async def delete_sound(self, edge: str, request_id: str) -> None:
        """Deletes what is stored of a sound; one that cannot be deleted expires."""
        ...

    async def cancel(self, request_id: str) -> None:
        """Tells the worker of a request, if there is one, to stop."""
        ...

    async def remove(self, job_ref: JobRef) -> bool:
        """Deletes a job that may still be queued; false when it is already gone."""
        ...

    async def depth(self, service: Service, pool: str, job_class: JobClass) -> QueueDepth:
        """How long a pool's queue is, as it was a second ago at the most; raises CallboardError (`bus_unavailable`)."""
        ...


class Inbox(Protocol[T]):
    """What arrives for one request: bounded, read by one reader, filled without waiting."""

    @property
    def lost(self) -> bool:
        """Whether a message may have been missed since the last `drain`: the inbox was full, or the bus was away."""
        ...

    @property
    def failure(self) -> ErrorInfo | None:
        """The error that the inbox was failed with."""
        ...

    def drain(self) -> list[T]:
        """Takes what has arrived, and clears `lost`."""
        ...

    async def wait(self, timeout_s: float) -> None:
        """Returns when a message has arrived or was lost, when the inbox is failed, or after the timeout."""
        ...

    def wake(self) -> None:
        """Ends the reader's waiting."""
        ...

    def fail(self, error: ErrorInfo) -> None:
        """Ends the reader's waiting with an error."""
        ...


class ReplyRouter(Protocol):
    """Sorts what workers send to this edge into the inboxes of its requests."""

    @property
    def edge(self) -> str:
        """This edge's token in subjects."""
        ...

    def open_text(self, request_id: str, state: RequestState) -> Inbox[ChatFrame]:
        """Starts to collect the frames of a chat request; call before the job is enqueued."""
        ...

    def open_audio(self, request_id: str, state: RequestState) -> Inbox[AudioSegment]:
        """Starts to collect the segments of a speech request, whose room is this edge."""
        ...

    def open_embedding(self, request_id: str, state: RequestState) -> Inbox[EmbeddingFrame]:
        """Starts to collect the frames of an embedding request."""
        ...

    def open_transcription(self, request_id: str, state: RequestState) -> Inbox[TranscriptionFrame]:
        """Starts to collect the frames of a transcription request."""
        ...

    def close_request(self, request_id: str) -> None:
        """Stops collecting; workers learn with the next heartbeat that nobody waits."""
        ...

    async def replay_text(self, request_id: str) -> list[ChatFrame]:
        """Reads all frames of a request back from the bus; empty when the bus does not answer."""
        ...

    async def replay_audio(self, request_id: str, from_n: int) -> list[AudioSegment]:
        """Reads the next few segments from number `from_n` on back, as `replay_text` does."""
        ...

    async def replay_embedding(self, request_id: str) -> list[EmbeddingFrame]:
        """Reads all frames of an embedding request back, as `replay_text` does."""
        ...

    async def replay_transcription(self, request_id: str) -> list[TranscriptionFrame]:
        """Reads all frames of a transcription request back, as `replay_text` does."""
        ...

    async def transcription_result(self, request_id: str) -> TranscriptionResult | None:
        """The kept result of a transcription request, if there is one."""
        ...

    async def result(self, request_id: str) -> ChatResult | None:
        """The kept result, if there is one."""
        ...

    async def embedding_result(self, request_id: str) -> EmbeddingResult | None:
        """The kept result of an embedding request, if there is one."""
        ...


class ResultStore(Protocol):
    """What is kept of polled jobs, readable from every edge."""

    async def put_ticket(self, ticket: JobTicket) -> None:
        """Keeps where a polled job lies; raises CallboardError (`bus_unavailable`)."""
        ...

    async def ticket(self, request_id: str) -> JobTicket | None:
        """The ticket of a polled job, or None when it is unknown or expired; raises CallboardError."""
        ...

    async def put_result(self, result: ChatResult) -> None:
        """Keeps the result of a job that never reached a worker; raises CallboardError."""
        ...

    async def result(self, request_id: str) -> ChatResult | None:
        """The kept result, or None; raises CallboardError."""
        ...

    async def frames(self, request_id: str) -> list[ChatFrame]:
        """All frames sent so far for a request, whichever edge it came from; raises CallboardError."""
        ...

    async def put_name(self, name: str, request_id: str) -> None:
        """Keeps under which name a client asks for a request, the newest of that name; raises CallboardError."""
        ...

    async def named(self, name: str) -> str | None:
        """The request that was given a name, or None; raises CallboardError."""
        ...

    async def put_group(self, name: str, group: KeptGroup) -> None:
        """Keeps which jobs a request is made of, and again when all have ended; raises CallboardError."""
        ...

    async def group(self, name: str) -> KeptGroup | None:
        """The jobs of a request, or None; raises CallboardError."""
        ...

    async def put_dialogue(self, name: str, dialogue: KeptDialogue) -> None:
        """Keeps a dialogue, or that it is deleted, under a name; raises CallboardError."""
        ...

    async def dialogue(self, name: str) -> KeptDialogue | None:
        """The dialogue of a name, or None; raises CallboardError."""
        ...


class ModelInquiry(Protocol):
    """Asks the workers of a chat pool about a model.

    Every method raises CallboardError: what the worker answers (`unsupported` where its engine does not say), or
    `no_worker` when none answers in time.
    """

    async def tokenize(self, pool: str, request: TokenizeRequest) -> TokenizeReply:
        """The tokens of a text, or of a dialogue as a prompt."""
        ...

    async def detokenize(self, pool: str, request: DetokenizeRequest) -> DetokenizeReply:
        """The text of some tokens."""
        ...

    async def describe(self, pool: str, request: DescribeModelRequest) -> DescribeModelReply:
        """What a model is."""
        ...


class RunningReplies(Protocol):
    """Finds replies by their clients' own names, whichever edge writes them."""

    async def ask(self, request: RunningReplyRequest) -> RunningReply | None:
        """The answer of the edge that has the reply, None where none has."""
        ...


class RoomAudioSource(Protocol):
    """What is said in rooms, as it comes and as the bus keeps it."""

    def listen(
        self, room: str, take: Callable[[RoomEvent], None], on_lost: Callable[[], None]
    ) -> AbstractAsyncContextManager[None]:
        """Hands over what is said in a room for as long as the context is open.

        `on_lost` is called when messages may have passed unseen. Entering raises CallboardError (`bus_unavailable`).
        """
        ...

    def history(self, room: str, since: float) -> AsyncGenerator[list[RoomEvent]]:
        """What was said in a room since a Unix time, in the order in which it was stored, some at a time.

        Raises:
            CallboardError: `bus_unavailable`.
        """
        ...

    async def starts(self, room: str, since: float) -> list[RoomEvent]:
        """The announcements in a room since a Unix time; raises as `history`."""
        ...

    async def segments(self, room: str, wanted: WantedSegments) -> list[AudioSegment]:
        """A few seconds of an utterance from a segment on; raises as `history`."""
        ...

    def recorded(self, room: str, utterance: str) -> AsyncGenerator[list[AudioSegment]]:
        """All segments of an utterance in the order in which they were stored, some at a time; raises as `history`."""
        ...


class RoomReader(Protocol):
    """Rooms as they are stored, readable from every edge while no rooms process runs."""

    async def room(self, kind: RoomKind, key: str) -> Room | None:
        """The room that clients call so, or None; raises CallboardError (`bus_unavailable`)."""
        ...

    async def reply(self, turn_id: str) -> ChatResult | None:
        """How a turn ended, for as long as results are kept, or None; raises CallboardError."""
        ...


class RoomsClient(Protocol):
    """Asks the rooms service to change rooms.

    Every method raises CallboardError with what the service refuses, or `bus_unavailable` when no rooms process
    answers; then the change may have happened. A turn that is posted twice under one id is added once.
    """

    async def open(self, request: OpenRoom) -> RoomReply:
        """Opens a room, or finds it open; raises `room_secret_required` where another secret claims it."""
        ...

    async def post(self, request: PostTurn) -> RoomReply:
        """Adds a turn; raises `not_found`, `duplicate_message`, `queue_full` or `body_too_large`."""
        ...

    async def speak(self, request: SpeakInRoom) -> RoomReply:
        """Speaks a text in a room; raises as `post`, and `room_secret_required`."""
        ...

    async def reset(self, request: RoomRequest) -> RoomReply:
        """Empties a room; raises `not_found` and `room_secret_required`."""
        ...

    async def end(self, request: RoomRequest) -> RoomReply:
        """Ends a room and forgets it; raises as `reset`."""
        ...

    async def cancel(self, request: CancelTurn) -> RoomReply:
        """Gives up a turn; nothing happens where it is over, or was never added."""
        ...

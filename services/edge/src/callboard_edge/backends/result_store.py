"""What is kept of polled jobs, in the streams RESULT and OUT."""

from collections.abc import Callable
from typing import TypeVar

from callboard_contracts import subjects
from callboard_contracts.chat import ChatFrame, ChatResult
from callboard_contracts.kept import JobTicket, KeptDialogue, KeptGroup, NamedRequest
from callboard_contracts.model import Message
from callboard_contracts.streams import OUT
from callboard_edge.backends.reply_router import read_frame
from callboard_kit.bus import Bus, BusError
from callboard_kit.jobs import bus_unavailable
from callboard_kit.kept import keep, kept
from callboard_kit.stream_reads import read_subject

MAX_FRAMES = 65_536

M = TypeVar("M", bound=Message)


class BusResultStore:
    """Reads and writes tickets and results; see `ResultStore`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def put_ticket(self, ticket: JobTicket) -> None:
        """Keeps where a polled job lies."""
        await self._put(subjects.ticket(ticket.request_id), ticket, f"{ticket.request_id}.ticket")

    async def ticket(self, request_id: str) -> JobTicket | None:
        """The ticket of a polled job."""
        return await self._last(subjects.ticket, request_id, JobTicket)

    async def put_result(self, result: ChatResult) -> None:
        """Keeps the result of a job that never reached a worker."""
        await self._put(subjects.result(result.request_id), result, f"{result.request_id}.result")

    async def result(self, request_id: str) -> ChatResult | None:
        """The kept result."""
        return await self._last(subjects.result, request_id, ChatResult)

    async def frames(self, request_id: str) -> list[ChatFrame]:
        """All frames sent so far."""
        try:
            stored = await read_subject(self._bus, OUT, subjects.out("*", request_id), limit=MAX_FRAMES)
        except BusError as error:
            raise bus_unavailable() from error
        return [frame for frame in (read_frame(message.data) for message in stored) if frame is not None]

    async def put_name(self, name: str, request_id: str) -> None:
        """Keeps the name of a request."""
        named = NamedRequest(request_id=request_id)
        await self._put(subjects.request_name(name), named, f"{request_id}.name")

    async def named(self, name: str) -> str | None:
        """The request of a name."""
        found = await self._last(subjects.request_name, name, NamedRequest)
        return found.request_id if found else None

    async def put_group(self, name: str, group: KeptGroup) -> None:
        """Keeps the jobs of a request."""
        # The id of a stored message is not encrypted, and that of the request is what its texts are read by.
        subject = subjects.request_name(name)
        await self._put(subject, group, f"{subject}.{'ended' if group.ended else 'group'}")

    async def group(self, name: str) -> KeptGroup | None:
        """The jobs of a request."""
        return await self._last(subjects.request_name, name, KeptGroup)

    async def put_dialogue(self, name: str, dialogue: KeptDialogue) -> None:
        """Keeps a dialogue."""
        kind = "deleted" if dialogue.deleted else "dialogue"
        await self._put(subjects.request_name(name), dialogue, f"{dialogue.request_id}.{kind}")

    async def dialogue(self, name: str) -> KeptDialogue | None:
        """The dialogue of a name."""
        return await self._last(subjects.request_name, name, KeptDialogue)

    async def _put(self, subject: str, message: Message, msg_id: str) -> None:
        try:
            await keep(self._bus, subject, message, msg_id)
        except BusError as error:
            raise bus_unavailable() from error

    async def _last(self, subject_of: Callable[[str], str], request_id: str, model: type[M]) -> M | None:
        try:
            subject = subject_of(request_id)
        except ValueError:
            # An id that no subject can hold names nothing that is known here.
            return None
        try:
            return await kept(self._bus, subject, model)
        except BusError as error:
            raise bus_unavailable() from error

"""Kept results in memory; the store behaves as that on the bus, and fails on demand."""

from callboard_contracts.chat import ChatFrame, ChatResult
from callboard_contracts.errors import CallboardError
from callboard_contracts.kept import JobTicket, KeptDialogue, KeptGroup
from callboard_edge.backends.fake_reply_router import FakeReplyRouter


class FakeResultStore:
    """Kept results in memory; the frames are those of a router."""

    def __init__(self, replies: FakeReplyRouter) -> None:
        self.failure: CallboardError | None = None
        self.tickets: dict[str, JobTicket] = {}
        self.names: dict[str, str] = {}
        self.dialogues: dict[str, KeptDialogue] = {}
        self.groups: dict[str, KeptGroup] = {}
        self._replies = replies

    async def put_name(self, name: str, request_id: str) -> None:
        """Keeps the name of a request."""
        self._fail()
        self.names[name] = request_id

    async def named(self, name: str) -> str | None:
        """The request of a name."""
        self._fail()
        return self.names.get(name)

    async def put_group(self, name: str, group: KeptGroup) -> None:
        """Keeps the jobs of a request."""
        self._fail()
        self.groups[name] = group

    async def group(self, name: str) -> KeptGroup | None:
        """The jobs of a request."""
        self._fail()
        return self.groups.get(name)

    async def put_dialogue(self, name: str, dialogue: KeptDialogue) -> None:
        """Keeps a dialogue."""
        self._fail()
        self.dialogues[name] = dialogue

    async def dialogue(self, name: str) -> KeptDialogue | None:
        """The dialogue of a name."""
        self._fail()
        return self.dialogues.get(name)

    async def put_ticket(self, ticket: JobTicket) -> None:
        """Keeps a ticket."""
        self._fail()
        self.tickets[ticket.request_id] = ticket

    async def ticket(self, request_id: str) -> JobTicket | None:
        """The ticket of a polled job."""
        self._fail()
        return self.tickets.get(request_id)

    async def put_result(self, result: ChatResult) -> None:
        """Keeps a result."""
        self._fail()
        self._replies.results[result.request_id] = result

    async def result(self, request_id: str) -> ChatResult | None:
        """The kept result."""
        self._fail()
        return self._replies.results.get(request_id)

    async def frames(self, request_id: str) -> list[ChatFrame]:
        """All frames sent so far."""
        self._fail()
        return list(self._replies.stored.get(request_id, ()))

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure

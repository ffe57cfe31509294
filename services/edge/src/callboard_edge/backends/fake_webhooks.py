"""Webhooks in memory: a queue that is full on demand, and receivers that answer as they are told."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from callboard_contracts.errors import CallboardError
from callboard_contracts.webhooks import WebhookTask


class FakeWebhookQueue:
    """Webhooks that are to be called."""

    def __init__(self) -> None:
        self.failure: CallboardError | None = None
        self.tasks: list[WebhookTask] = []
        self.waiting: dict[str, asyncio.Event] = {}

    async def add(self, task: WebhookTask) -> None:
        """Keeps a webhook."""
        if self.failure is not None:
            raise self.failure
        self.tasks.append(task)

    @asynccontextmanager
    async def news(self, job_id: str) -> AsyncGenerator[asyncio.Event]:
        """An event that a test sets."""
        event = self.waiting[job_id] = asyncio.Event()
        try:
            yield event
        finally:
            del self.waiting[job_id]


class FakeWebhookCaller:
    """Receivers; each call takes the next of the answers, and 200 when there is none left."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = list(answers)
        self.calls: list[tuple[str, bytes]] = []
        self.hold: asyncio.Event | None = None
        self.under_way = 0
        self.most_under_way = 0

    async def post(self, url: str, body: bytes) -> int:
        """Notes a call, waits while it is held, and answers."""
        self.calls.append((url, body))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.hold is not None:
                await self.hold.wait()
        finally:
            self.under_way -= 1
        answer = self.answers.pop(0) if self.answers else 200
        if isinstance(answer, Exception):
            raise answer
        return answer

"""A page of the spirit box, by the client library that speaks its protocol."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import socketio  # pyright: ignore[reportMissingTypeStubs]

HEARING_TIMEOUT_S = 60.0


class Page:
    """What a page keeps of its conversation."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.heard: list[tuple[str, bytes]] = []
        self.failures: list[Any] = []
        self._changed = asyncio.Event()
        for name in ("first_response", "response"):
            client.on(name, lambda sound, name=name: self._hear(name, sound))
        client.on("failure", self.failures.append)

    async def asks(self, question: bytes) -> None:
        """Sends a question."""
        await self.client.emit("contact", question)

    async def hears(self, count: int, name: str = "response") -> list[tuple[str, bytes]]:
        """What came, once it is so much whose name ends so."""
        async with asyncio.timeout(HEARING_TIMEOUT_S):
            while sum(one.endswith(name) for one, _sound in self.heard) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.heard

    def _hear(self, name: str, sound: bytes) -> None:
        self.heard.append((name, sound))
        self._changed.set()


@asynccontextmanager
async def page(url: str, password: str, transports: list[str] | None = None) -> AsyncGenerator[Page]:
    """A connected page."""
    client: Any = socketio.AsyncClient(reconnection=False)
    own = Page(client)
    await client.connect(url, auth={"user": "seance", "password": password}, transports=transports)
    try:
        yield own
    finally:
        await client.disconnect()

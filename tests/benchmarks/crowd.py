"""Many clients of streams, and the engine that answers them in a process of its own."""

import asyncio
import dataclasses
import json
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.children import Child, wait_until
from tests.support.ports import free_port
from tests.support.stub_openai import Script

START_TIMEOUT_S = 30.0


@dataclass(slots=True)
class Client(asyncio.Protocol):
    """A client of one stream, which notes when its pieces come."""

    request: bytes
    sent_at: float = 0.0
    pieces: list[float] = field(default_factory=list[float])
    head: bytes = b""
    failed: str = ""
    transport: asyncio.Transport | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asks."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.sent_at = time.monotonic()
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        """Notes a piece of text, and how the answer begins and ends."""
        if not self.head:
            self.head = data[:15]
            if b" 200" not in self.head:
                self.failed = self.head.decode("latin-1")
        if b'"content":"w' in data or b'"content": "w' in data:
            self.pieces.append(time.monotonic())
        if b"data: [DONE]" in data or self.failed:
            self.ended.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Notes the end."""
        if not self.ended.is_set():
            self.failed = self.failed or "closed"
            self.ended.set()

    @property
    def first_s(self) -> float:
        """The time to the first piece."""
        return self.pieces[0] - self.sent_at

    @property
    def gap_s(self) -> float:
        """The longest time between two pieces."""
        return max((after - before for before, after in zip(self.pieces, self.pieces[1:], strict=False)), default=0.0)


class Engine:
    """The stub engine in a process of its own, so that it shares no core with the clients' loop."""

    def __init__(self, log: Path) -> None:
        self._port = free_port()
        self._child = Child([sys.executable, "-m", "tests.support.stub_openai", "--port", str(self._port)], log)
        wait_until(self._listens, START_TIMEOUT_S, "the engine listens")

    @property
    def url(self) -> str:
        """Its address, with the version segment."""
        return f"http://127.0.0.1:{self._port}/v1"

    def plays(self, script: Script) -> None:
        """Lets the next requests meet a script."""
        body = json.dumps(dataclasses.asdict(script)).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/control", body)
        with urllib.request.urlopen(request, timeout=START_TIMEOUT_S) as reply:
            reply.read()

    def close(self) -> None:
        """Ends it."""
        self._child.kill()

    def _listens(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/models", timeout=2) as reply:
                return reply.status == 200
        except OSError:
            return False

"""How `up` sees whether its processes are ready and healthy."""

import asyncio
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from callboard_cli.up.bus_server import monitor_port
from callboard_cli.up.child import Child
from callboard_cli.up.ports import LOOPBACK

PROBE_TIMEOUT_S = 2.0
NO_ANSWER = "no answer"
WRITE_ERROR = "write error"
"""What the server says of a stream that takes nothing more until the next start, since a write to the disk failed."""
LOW_DISK_BYTES = 512 * 1024 * 1024
RESTART_DISK_BYTES = 64 * 1024 * 1024
"""The free space that a restart of the bus is worth; with less its streams would fail again."""


class Probes(Protocol):
    """Asks one process how it is."""

    async def ready(self, child: Child) -> bool:
        """Whether the process can do its work."""
        ...

    async def health(self, child: Child) -> str | None:
        """None if the process is healthy, `NO_ANSWER`, or what only a restart mends."""
        ...


class ServiceProbes:
    """Asks a service at its operations port."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def ready(self, child: Child) -> bool:
        """Whether `/readyz` says so."""
        del child
        return (await http_get(self._port, "/readyz"))[0] == 200

    async def health(self, child: Child) -> str | None:
        """Whether `/healthz` answers, which it does as long as the event loop runs."""
        del child
        return None if (await http_get(self._port, "/healthz"))[0] == 200 else NO_ANSWER


class BusProbes:
    """Asks nats-server at its monitor, and watches the free space of its disk."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._say = say
        self._low = False
        self._full = False

    async def ready(self, child: Child) -> bool:
        """Whether the server has read its store; streams that it could not read are for the store check."""
        return (await self._get(child, "/healthz?js-enabled-only=true"))[0] == 200

    async def health(self, child: Child) -> str | None:
        """Whether every stream takes messages; while the disk is full, a restart would not help."""
        try:
            free = (await asyncio.to_thread(shutil.disk_usage, self._folder)).free
        except OSError:
            free = 0
        self._warn_of_low_space(free)
        status, page = await self._get(child, "/healthz")
        if status is None:
            return NO_ANSWER
        error = _error_of(page)
        if status == 200 or WRITE_ERROR not in error:
            self._full = False
            return None
        if free >= RESTART_DISK_BYTES:
            self._full = False
            return f"its store failed: {error}"
        if not self._full:
            self._full = True
            self._say(f"nats: the disk of {self._folder} is full, so no request is accepted until there is space")
        return None

    def _warn_of_low_space(self, free: int) -> None:
        low = free < LOW_DISK_BYTES
        if low and not self._low:
            self._say(f"nats: the disk of {self._folder} has {free // 1024**2} MiB left; make room")
        self._low = low

    async def _get(self, child: Child, path: str) -> tuple[int | None, bytes]:
        port = await asyncio.to_thread(monitor_port, self._folder, child.pid)
        return await http_get(port, path) if port else (None, b"")


async def http_get(port: int, path: str) -> tuple[int | None, bytes]:
    """Gets a page of this machine; returns its status and body, or None without an answer."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\nConnection: close\r\n\r\n".encode())
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
                return int(head.split(maxsplit=2)[1]), body
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError, ValueError, IndexError):
        return None, b""


def _error_of(page: bytes) -> str:
    try:
        return str(json.loads(page).get("error", ""))
    except (ValueError, AttributeError):
        return ""

"""What processes have in memory."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.children import Child
from tests.support.cluster import Cluster
from tests.support.nats_server import NatsServer

MIB = 1024 * 1024
SLACK_BYTES = 24 * MIB
"""What a process may keep beside the 10 %: allocators and runtimes give memory back in large pieces."""
BLOCK_BYTES = 8 * MIB
"""Of each stream that is written to, the bus keeps its newest block in memory, which is at most so long."""
GIVE_BACK_TIMEOUT_S = 45.0


def anonymous_bytes(pid: int | str = "self") -> int:
    """The memory of a process that no file backs."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


class MemoryWatch:
    """Says what the processes of a set keep in memory; the bus is called `nats`."""

    def __init__(self, children: Mapping[str, Child], nats: NatsServer | Cluster) -> None:
        self._children = children
        self._nats = nats

    def now(self) -> dict[str, int]:
        """The memory of each process that no file backs, in bytes; that of the bus without what its streams hold.

        Of the bus it is what its last garbage collection left: the next begins when there is twice as much, and what it
        frees stays with the process for a while.
        """
        found = {name: anonymous_bytes(child.pid) for name, child in self._children.items() if child.alive}
        heap: Any = self._nats.monitor("debug/vars")["memstats"]
        found["nats"] = int(heap["NextGC"]) // 2 - self._held_by_streams()
        return found

    def check(self, before: Mapping[str, int]) -> None:
        """Fails where a process keeps a tenth more memory than before; most need a moment to give it back."""
        until = time.monotonic() + GIVE_BACK_TIMEOUT_S
        while kept := self._kept(before):
            assert time.monotonic() < until, f"memory is kept (MiB before, now): {kept}"
            time.sleep(1)

    def _held_by_streams(self) -> int:
        page: Any = self._nats.monitor("jsz?streams=true&config=true")
        streams = [stream for account in page["account_details"] for stream in account["stream_detail"]]
        return sum(
            size if stream["config"]["storage"] == "memory" else min(size, BLOCK_BYTES)
            for stream in streams
            for size in [int(stream["state"]["bytes"])]
        )

    def _kept(self, before: Mapping[str, int]) -> dict[str, tuple[int, int]]:
        now = self.now()
        return {
            name: (size // MIB, now[name] // MIB)
            for name, size in before.items()
            if now[name] > size * 1.1 + SLACK_BYTES
        }

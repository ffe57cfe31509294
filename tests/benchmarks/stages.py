"""Where the time of one reply goes, seen from outside: what passes on the bus, stamped with one clock.

A tap on the bus costs the requests that it watches a little, so these figures come from a run of their own. Holds of
such requests are taken ahead, so quota is no stage of theirs.
"""

import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from types import TracebackType
from typing import Literal, Self

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.benchmarks.figures import percentile, table_of
from tests.benchmarks.load import Timing

Mark = Literal["job published", "job delivered", "first frame"]

STAGES: tuple[tuple[str, str, str], ...] = (
    ("edge: read the request, post the job", "sent", "job published"),
    ("bus: store the job and hand it out", "job published", "job delivered"),
    ("chat: read the job, ask the engine", "job delivered", "engine asked"),
    ("engine and chat: first token into a frame", "engine asked", "first frame"),
    ("edge: frame to the client's first token", "first frame", "first token"),
    ("from the first token to the end", "first token", "end"),
)


class Taps:
    """Listens to everything on the bus and keeps the moments that matter, in monotonic nanoseconds."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection = Client()
        self.seen: dict[Mark, list[int]] = {
            "job published": [],
            "job delivered": [],
            "first frame": [],
        }

    async def __aenter__(self) -> Self:
        self._connection = await nats.connect(self._url, allow_reconnect=False)
        await self._connection.subscribe("_INBOX.>", cb=self._inbox)
        await self._connection.subscribe("job.chat.>", cb=self._job)
        await self._connection.subscribe("out.>", cb=self._frame)
        await self._connection.flush()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._connection.close()

    async def _inbox(self, message: Msg) -> None:
        if message.reply.startswith("$JS.ACK.CHAT."):
            self.seen["job delivered"].append(time.monotonic_ns())

    async def _job(self, message: Msg) -> None:
        now = time.monotonic_ns()
        # A delivery keeps its job's subject and carries the reply subject of its acknowledgement.
        self.seen["job delivered" if message.reply.startswith("$JS.ACK.") else "job published"].append(now)

    async def _frame(self, message: Msg) -> None:
        if b'"tok0 ' in message.data:
            self.seen["first frame"].append(time.monotonic_ns())


def stage_rows(timings: Sequence[Timing], seen: dict[Mark, list[int]], arrivals: Sequence[int]) -> list[str]:
    """The table of stages over requests that were sent one after another."""
    marks: dict[str, Sequence[int]] = {**seen, "engine asked": sorted(arrivals)}
    spent: dict[str, list[float]] = {name: [] for name, _, _ in STAGES}
    for timing in timings:
        at = {"sent": timing.sent_ns, "first token": timing.first_ns, "end": timing.end_ns}
        for name, moments in marks.items():
            first = bisect_left(moments, timing.sent_ns)
            if first < bisect_right(moments, timing.end_ns):
                at[name] = moments[first]
        for name, start, end in STAGES:
            if start in at and end in at:
                spent[name].append((at[end] - at[start]) / 1000)
    rows = [("stage", "p50", "p99")]
    for name, _, _ in STAGES:
        values = spent[name]
        if len(values) < len(timings) // 2:
            rows.append((name, "not seen", ""))
        else:
            rows.append((name, f"{percentile(values, 0.5):,.0f} us", f"{percentile(values, 0.99):,.0f} us"))
    whole = [(t.first_ns - t.sent_ns) / 1000 for t in timings]
    rows.append(("all, to the first token", f"{percentile(whole, 0.5):,.0f} us", f"{percentile(whole, 0.99):,.0f} us"))
    return table_of(rows)

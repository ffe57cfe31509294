"""The metrics of the rooms service."""

from typing import get_args

from prometheus_client import Counter, Gauge, Histogram

from callboard_contracts.rooms import RoomKind
from callboard_rooms.domain.reaper import Reaper

OUTCOMES = ("answered", "spoken", "failed", "cancelled")

ROOMS = Gauge("callboard_rooms_open", "Rooms that are open, by kind; every process counts all of them.", ("kind",))
WAITING = Gauge("callboard_rooms_waiting_turns", "Turns that wait for those before them; every process counts all.")
TURNS = Counter("callboard_rooms_turns", "Turns that are over, by outcome.", ("outcome",))
TURN_WAIT_SECONDS = Histogram(
    "callboard_rooms_turn_wait_seconds",
    "Time from a message's arrival at an edge to the start of its turn.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
)
CONFLICTS = Counter("callboard_rooms_conflicts", "Writes that were repeated because another process changed the room.")
REQUESTS = Counter(
    "callboard_rooms_requests", "Requests answered, by result: ok, or the error's code.", ("request", "result")
)
REQUEST_SECONDS = Histogram(
    "callboard_rooms_request_seconds",
    "Time from a request's arrival to its answer.",
    ("request",),
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)


class Figures:
    """Counts what happens to rooms; see `RoomMetrics`."""

    def conflict(self) -> None:
        """Another process changed a room first."""
        CONFLICTS.inc()

    def turn_started(self, wait_s: float) -> None:
        """A turn was started after so long."""
        TURN_WAIT_SECONDS.observe(max(0.0, wait_s))

    def turn_ended(self, outcome: str) -> None:
        """A turn ended."""
        TURNS.labels(outcome).inc()


def begin(reaper: Reaper) -> None:
    """Exports every series from the start, so that the first event is an increase."""
    for kind in get_args(RoomKind):
        ROOMS.labels(kind).set_function(lambda kind=kind: reaper.rooms_by_kind[kind])
    WAITING.set_function(lambda: reaper.waiting)
    for outcome in OUTCOMES:
        TURNS.labels(outcome)
    for request in ("open", "post", "speak", "reset", "end", "cancel", "characters_put", "characters_delete"):
        REQUESTS.labels(request, "ok")

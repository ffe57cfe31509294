"""Rooms: are turns answered, in order and soon?"""

from deploy.observability.panels import (
    Dashboard,
    Query,
    Row,
    counter,
    of,
    panel,
    processes,
    quantile,
    spread,
)

ROOM_TURNS = Row(
    "Turns",
    (
        counter(
            "Turns by outcome",
            "Turns that ended a second: answered, only spoken, failed, or cancelled by a reset.",
            "callboard_rooms_turns_total",
            by="outcome",
            stacked=True,
            runbook="turns-fail",
        ),
        *spread(
            "callboard_rooms_turn_wait_seconds",
            "Turn wait",
            "From a message's arrival at an edge to the start of its turn, which waits for those before it.",
        ),
        panel(
            "Waiting turns",
            "Turns that wait for those before them; each process counts all of them, so the maximum is shown.",
            "short",
            f"max ({of('callboard_rooms_waiting_turns')})",
            kind="stat",
            width=4,
        ),
    ),
)
OPEN_ROOMS = Row(
    "Rooms",
    (
        panel(
            "Open rooms",
            "Rooms by kind; each process counts all of them, so the maximum is shown.",
            "short",
            Query(f"max by (kind) ({of('callboard_rooms_open')})", "{{kind}}"),
            stacked=True,
        ),
        counter(
            "Requests",
            "Requests of edges and operators a second, by result.",
            "callboard_rooms_requests_total",
            by="request, result",
            unit="reqps",
        ),
        panel(
            "Request latency, p95",
            "From a request's arrival to its reply.",
            "s",
            Query(quantile(0.95, "callboard_rooms_request_seconds", by="request"), "{{request}}"),
        ),
        counter(
            "Conflicts",
            "Writes that were repeated because another process changed the room first.",
            "callboard_rooms_conflicts_total",
        ),
    ),
)
CHARACTERS = Row(
    "Characters",
    (
        panel(
            "Characters",
            "Characters that the edges know; each knows all of them, so the maximum is shown.",
            "short",
            f"max ({of('callboard_edge_characters')})",
            kind="stat",
            width=4,
        ),
        counter(
            "Requests to characters",
            "Requests a second, by memory: kept where a request names its speaker, none where it does not.",
            "callboard_edge_character_requests_total",
            by="memory",
            unit="reqps",
        ),
    ),
)

ROOMS = Dashboard(
    "rooms",
    "Rooms",
    "Are turns answered, in order and soon?",
    (ROOM_TURNS, OPEN_ROOMS, CHARACTERS, processes("callboard-rooms")),
)

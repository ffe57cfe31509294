"""The edge: who asks what, and what do they get?"""

from functools import partial

from deploy.observability.panels import (
    Board,
    Choice,
    Query,
    Row,
    counter,
    gauge,
    panel,
    per_second,
    processes,
    quantile,
    spread,
)

ROUTE = 'route=~"$route"'
REQUESTS = "callboard_edge_requests_total"
FIRST_BYTE = "callboard_edge_time_to_first_byte_seconds"
DURATION = "callboard_edge_request_duration_seconds"
TO_FIRST_BYTE = "From a request's headers to a streamed answer's first byte."
TO_LAST_BYTE = "From a request's headers to its answer's last byte."

requests = partial(counter, unit="reqps", stacked=True)

TRAFFIC = Row(
    "Requests",
    (
        requests(
            "Requests by route",
            "Requests answered a second, also those whose client went away.",
            REQUESTS,
            ROUTE,
            by="route",
        ),
        requests(
            "Requests by outcome",
            "By class of status; *gone* is a client that left before the end.",
            REQUESTS,
            ROUTE,
            by="status",
        ),
        requests(
            "Requests by protocol and mode",
            "Whether answers are streamed or sent whole, for each protocol.",
            REQUESTS,
            ROUTE,
            by="protocol, mode",
        ),
        requests(
            "Errors",
            "Requests that ended in an error, by its code, before or in the middle of the answer.",
            "callboard_edge_errors_total",
            ROUTE,
            by="code",
            runbook="error-budget-burn",
        ),
        requests(
            "Too many requests",
            "Answers of status 429: over a limit of the quota, or too many waiting already.",
            "callboard_edge_too_many_requests_total",
            by="reason",
        ),
        requests(
            "Admitted without quota",
            "Requests let in without a hold while no quota process answered; they are settled from their use.",
            "callboard_edge_admitted_without_quota_total",
            stacked=False,
            runbook="admitted-without-quota",
        ),
        requests(
            "Admin refusals",
            "Requests to the admin API without its token, or with a wrong one.",
            "callboard_edge_admin_refusals_total",
            by="reason",
            runbook="admin-refused",
        ),
        requests(
            "Clients gone",
            "Clients that left, or read too slowly, before the end of their answer.",
            "callboard_edge_clients_gone_total",
            ROUTE,
            by="route",
        ),
    ),
)
TIME = Row(
    "Time",
    (
        *spread(FIRST_BYTE, "First byte", TO_FIRST_BYTE, ROUTE),
        *spread(DURATION, "Whole answer", TO_LAST_BYTE, ROUTE),
        panel(
            "First byte by route, p95",
            TO_FIRST_BYTE,
            "s",
            Query(quantile(0.95, FIRST_BYTE, ROUTE, by="route"), "{{route}}"),
            width=12,
            runbook="first-token-slow",
        ),
        panel(
            "Whole answer by route and mode, p95",
            TO_LAST_BYTE,
            "s",
            Query(quantile(0.95, DURATION, ROUTE, by="route, mode"), "{{route}} {{mode}}"),
            width=12,
        ),
    ),
)
STREAMS = Row(
    "Streams",
    (
        gauge(
            "Open streams",
            "Streamed answers that are being sent.",
            "callboard_edge_open_streams",
            ROUTE,
            by="route",
            stacked=True,
        ),
        counter(
            "Sent",
            "Bytes of answers' bodies a second.",
            "callboard_edge_sent_bytes_total",
            ROUTE,
            by="route",
            unit="Bps",
            stacked=True,
        ),
        panel(
            "Read back from the board",
            "*dropped*: workers' messages that a full inbox dropped because a client read too slowly. "
            "*replays*: reads from the board because of a gap, a lost connection or a long silence. "
            "Nothing is lost by either; many of them cost time.",
            "ops",
            Query(per_second("callboard_edge_dropped_messages_total"), "dropped"),
            Query(per_second("callboard_edge_replays_total"), "replays"),
            runbook="messages-dropped",
        ),
    ),
)

EDGE = Board(
    "edge",
    "Edge",
    "Who asks what, and what do they get?",
    (TRAFFIC, TIME, STREAMS, processes("callboard-edge")),
    (Choice("route", REQUESTS),),
)

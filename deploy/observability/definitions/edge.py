"""The edge: who asks what, and what do they get?"""

from deploy.observability.panels import Board, Choice, Panel, Query, Row, per_second, processes, quantile, spread, total

ROUTE = 'route=~"$route"'
REQUESTS = "callboard_edge_requests_total"
FIRST_BYTE = "callboard_edge_time_to_first_byte_seconds"
DURATION = "callboard_edge_request_duration_seconds"

EDGE = Board(
    "edge",
    "Edge",
    "Who asks what, and what do they get?",
    (
        Row(
            "Requests",
            (
                Panel(
                    "Requests by route",
                    "Requests answered a second, also those whose client went away.",
                    "reqps",
                    (Query(per_second(REQUESTS, ROUTE, by="route"), "{{route}}"),),
                    stacked=True,
                ),
                Panel(
                    "Requests by outcome",
                    "By class of status; *gone* is a client that left before the end.",
                    "reqps",
                    (Query(per_second(REQUESTS, ROUTE, by="status"), "{{status}}"),),
                    stacked=True,
                ),
                Panel(
                    "Requests by protocol and mode",
                    "Whether answers are streamed or sent whole, for each protocol.",
                    "reqps",
                    (Query(per_second(REQUESTS, ROUTE, by="protocol, mode"), "{{protocol}} {{mode}}"),),
                    stacked=True,
                ),
                Panel(
                    "Errors",
                    "Requests that ended in an error, by its code, before or in the middle of the answer.",
                    "reqps",
                    (Query(per_second("callboard_edge_errors_total", ROUTE, by="code"), "{{code}}"),),
                    stacked=True,
                    runbook="error-budget-burn",
                ),
                Panel(
                    "Too many requests",
                    "Answers of status 429: over a limit of the quota, or too many waiting already.",
                    "reqps",
                    (Query(per_second("callboard_edge_too_many_requests_total", by="reason"), "{{reason}}"),),
                    stacked=True,
                ),
                Panel(
                    "Admitted without quota",
                    "Requests let in without a hold while no quota process answered; they are settled from their use.",
                    "reqps",
                    (Query(per_second("callboard_edge_admitted_without_quota_total"), "admitted"),),
                    runbook="admitted-without-quota",
                ),
                Panel(
                    "Admin refusals",
                    "Requests to the admin API without its token, or with a wrong one.",
                    "reqps",
                    (Query(per_second("callboard_edge_admin_refusals_total", by="reason"), "{{reason}}"),),
                    stacked=True,
                    runbook="admin-refused",
                ),
                Panel(
                    "Clients gone",
                    "Clients that left, or read too slowly, before the end of their answer.",
                    "reqps",
                    (Query(per_second("callboard_edge_clients_gone_total", ROUTE, by="route"), "{{route}}"),),
                    stacked=True,
                ),
            ),
        ),
        Row(
            "Time",
            (
                *spread(FIRST_BYTE, "First byte", "From a request's headers to a streamed answer's first byte.", ROUTE),
                *spread(DURATION, "Whole answer", "From a request's headers to its answer's last byte.", ROUTE),
                Panel(
                    "First byte by route, p95",
                    "From a request's headers to a streamed answer's first byte.",
                    "s",
                    (Query(quantile(0.95, FIRST_BYTE, ROUTE, by="route"), "{{route}}"),),
                    width=12,
                    runbook="first-token-slow",
                ),
                Panel(
                    "Whole answer by route and mode, p95",
                    "From a request's headers to its answer's last byte.",
                    "s",
                    (Query(quantile(0.95, DURATION, ROUTE, by="route, mode"), "{{route}} {{mode}}"),),
                    width=12,
                ),
            ),
        ),
        Row(
            "Streams",
            (
                Panel(
                    "Open streams",
                    "Streamed answers that are being sent.",
                    "short",
                    (Query(total("callboard_edge_open_streams", ROUTE, by="route"), "{{route}}"),),
                    stacked=True,
                ),
                Panel(
                    "Sent",
                    "Bytes of answers' bodies a second.",
                    "Bps",
                    (Query(per_second("callboard_edge_sent_bytes_total", ROUTE, by="route"), "{{route}}"),),
                    stacked=True,
                ),
                Panel(
                    "Read back from the board",
                    "*dropped*: workers' messages that a full inbox dropped because a client read too slowly. "
                    "*replays*: reads from the board because of a gap, a lost connection or a long silence. "
                    "Nothing is lost by either; many of them cost time.",
                    "ops",
                    (
                        Query(per_second("callboard_edge_dropped_messages_total"), "dropped"),
                        Query(per_second("callboard_edge_replays_total"), "replays"),
                    ),
                    runbook="messages-dropped",
                ),
            ),
        ),
        processes("callboard-edge"),
    ),
    (Choice("route", REQUESTS),),
)

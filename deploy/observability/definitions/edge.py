"""The edge: who asks what, and what do they get?"""

from functools import partial

from deploy.observability.panels import (
    Dashboard,
    Query,
    Row,
    Variable,
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
TO_FIRST_BYTE = "From a request's headers to a streamed response's first byte."
TO_LAST_BYTE = "From a request's headers to its response's last byte."

requests = partial(counter, unit="reqps", stacked=True)

TRAFFIC = Row(
    "Requests",
    (
        requests(
            "Requests by route",
            "Requests completed a second, including those whose client went away.",
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
            "Whether responses are streamed or sent whole, for each protocol.",
            REQUESTS,
            ROUTE,
            by="protocol, mode",
        ),
        requests(
            "Errors",
            "Requests that ended in an error, by its code, before or in the middle of the response.",
            "callboard_edge_errors_total",
            ROUTE,
            by="code",
            runbook="error-budget-burn",
        ),
        requests(
            "Too many requests",
            "Responses of status 429: over a limit of the quota, or too many waiting already.",
            "callboard_edge_too_many_requests_total",
            by="reason",
        ),
        requests(
            "Admitted without quota",
            "Requests let in without a hold while no quota process answered; they are settled from their usage events.",
            "callboard_edge_admitted_without_quota_total",
            stacked=False,
            runbook="admitted-without-quota",
        ),
        requests(
            "Holds ahead",
            "Holds that were taken before the request that they are for: used by it, or released again.",
            "callboard_edge_holds_ahead_total",
            by="result",
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
            "Clients that left, or read too slowly, before the end of their response.",
            "callboard_edge_clients_gone_total",
            ROUTE,
            by="route",
        ),
    ),
)
LATENCY = Row(
    "Latency",
    (
        *spread(FIRST_BYTE, "First byte", TO_FIRST_BYTE, ROUTE),
        *spread(DURATION, "Request duration", TO_LAST_BYTE, ROUTE),
        panel(
            "First byte by route, p95",
            TO_FIRST_BYTE,
            "s",
            Query(quantile(0.95, FIRST_BYTE, ROUTE, by="route"), "{{route}}"),
            width=12,
            runbook="first-token-slow",
        ),
        panel(
            "Request duration by route and mode, p95",
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
            "Streamed responses that are being sent.",
            "callboard_edge_open_streams",
            ROUTE,
            by="route",
            stacked=True,
        ),
        counter(
            "Bytes sent",
            "Bytes of response bodies a second.",
            "callboard_edge_sent_bytes_total",
            ROUTE,
            by="route",
            unit="Bps",
            stacked=True,
        ),
        panel(
            "Dropped and replayed",
            "*dropped*: workers' messages that a full inbox dropped because a client read too slowly. "
            "*replays*: reads from a stream because of a gap, a lost connection or a long silence. "
            "Neither loses text, but many of them cost time.",
            "ops",
            Query(per_second("callboard_edge_dropped_messages_total"), "dropped"),
            Query(per_second("callboard_edge_replays_total"), "replays"),
            runbook="messages-dropped",
        ),
    ),
)
LATENESS = "callboard_edge_room_lateness_seconds"
ROOMS = Row(
    "Room streams",
    (
        gauge("Listeners", "Clients that listen to a room's stream.", "callboard_edge_room_listeners"),
        gauge("Rooms mixed", "Rooms whose sound is mixed because somebody listens.", "callboard_edge_rooms_mixed"),
        counter(
            "Encoding",
            "Processor cores that encoding room streams keeps busy.",
            "callboard_edge_room_encoding_seconds_total",
            unit="short",
        ),
        *spread(LATENESS, "Lateness", "How long after its time a frame of the room streams was sent."),
        counter(
            "Underruns",
            "Silences in the middle of an utterance because its next sound was not there in time.",
            "callboard_edge_room_underruns_total",
            runbook="speech-slower-than-real-time",
        ),
        panel(
            "Frames left out",
            "Frames of 24 ms. *dropped*: left out for listeners that did not read in time. *skipped*: never made, "
            "because the process stood still.",
            "ops",
            Query(per_second("callboard_edge_room_frames_dropped_total"), "dropped"),
            Query(per_second("callboard_edge_room_frames_skipped_total"), "skipped"),
        ),
        counter(
            "Listeners disconnected",
            "Listeners that were disconnected because they did not read.",
            "callboard_edge_room_listeners_dropped_total",
        ),
    ),
)
STAGES = "callboard_edge_spirit_stage_seconds"
SPIRIT_BOX = Row(
    "Spirit box",
    (
        gauge("Visitors", "Visitors that are connected.", "callboard_edge_spirit_visitors"),
        counter(
            "Questions",
            "Questions a second, by how they came out; *replaced*: by the next one, or left, before an answer.",
            "callboard_edge_spirit_contacts_total",
            by="outcome",
        ),
        panel(
            "After the end of a question, p50",
            "How soon its text, the first token of the answer and the first sound of it come.",
            "s",
            Query(quantile(0.5, STAGES, by="stage"), "{{stage}}"),
        ),
        panel(
            "After the end of a question, p95",
            "How soon its text, the first token of the answer and the first sound of it come.",
            "s",
            Query(quantile(0.95, STAGES, by="stage"), "{{stage}}"),
        ),
    ),
)
TRANSCRIPT = "callboard_edge_realtime_transcript_seconds"
FIRST_TEXT = "callboard_edge_realtime_first_text_seconds"
FIRST_SOUND = "callboard_edge_realtime_first_audio_seconds"
SINCE_LAST_WORD = (
    "From somebody's last word, with the silence that had to pass where the site found the end of the turn."
)
REALTIME = Row(
    "Real-time conversation",
    (
        gauge("Sessions", "Open sessions of `/v1/realtime`.", "callboard_edge_realtime_sessions"),
        counter(
            "Sessions refused",
            "Sessions that were refused because the site or the caller has too many open.",
            "callboard_edge_realtime_refused_total",
            by="limit",
        ),
        counter(
            "Interruptions",
            "Answers that were stopped because somebody spoke into them.",
            "callboard_edge_realtime_interruptions_total",
        ),
        *spread(TRANSCRIPT, "What was said", SINCE_LAST_WORD, limits=((4, "red"),), runbook="spoken-question-late"),
        *spread(FIRST_TEXT, "First text", SINCE_LAST_WORD),
        *spread(FIRST_SOUND, "First sound", SINCE_LAST_WORD, limits=((8, "red"),), runbook="spoken-answer-late"),
    ),
)

EDGE = Dashboard(
    "edge",
    "Edge",
    "Who asks what, and what do they get?",
    (TRAFFIC, LATENCY, STREAMS, ROOMS, SPIRIT_BOX, REALTIME, processes("callboard-edge")),
    (Variable("route", REQUESTS),),
)

"""Chat: where does a reply's time go?"""

from deploy.observability.panels import (
    Board,
    Choice,
    Panel,
    Query,
    Row,
    of,
    per_second,
    processes,
    quantile,
    spread,
    total,
)

MODEL = 'gen_ai_request_model=~"$model"'
USAGE = "gen_ai_client_token_usage"

CHAT = Board(
    "chat",
    "Chat",
    "Where does a reply's time go?",
    (
        Row(
            "Jobs",
            (
                Panel(
                    "Jobs by outcome",
                    "Jobs ended a second, by the reason to stop or the error's code; *dead* was handed out too often.",
                    "ops",
                    (Query(per_second("callboard_chat_jobs_total", by="outcome"), "{{outcome}}"),),
                    stacked=True,
                    runbook="jobs-dead",
                ),
                *spread(
                    "callboard_chat_queue_wait_seconds",
                    "Queue wait",
                    "From the posting of a job to its arrival at a worker.",
                    limits=((30, "red"),),
                    runbook="queue-wait-long",
                ),
                Panel(
                    "Slots in use",
                    "The share of all workers' slots that run a job; near 1 new jobs wait.",
                    "percentunit",
                    (Query(f"{total('callboard_chat_slots_used')} / {total('callboard_chat_slots_limit')}", "in use"),),
                    "stat",
                    4,
                    limits=((0.8, "orange"), (1, "red")),
                    runbook="queue-wait-long",
                ),
                Panel(
                    "Slots",
                    "Jobs that run, and how many may, over all workers.",
                    "short",
                    (
                        Query(total("callboard_chat_slots_used"), "used"),
                        Query(total("callboard_chat_slots_limit"), "limit"),
                    ),
                ),
                Panel(
                    "Taken over",
                    "Jobs taken over from a lost worker, by where their past was found; *nowhere* began anew.",
                    "ops",
                    (Query(per_second("callboard_chat_resumed_total", by="source"), "{{source}}"),),
                    runbook="jobs-redelivered",
                ),
                Panel(
                    "Frames",
                    "Messages with pieces of replies sent to edges a second.",
                    "ops",
                    (Query(per_second("callboard_chat_frames_total"), "frames"),),
                ),
            ),
        ),
        Row(
            "Replies",
            (
                *spread(
                    "gen_ai_server_time_to_first_token_seconds",
                    "First token",
                    "From a job's arrival at the worker to the first piece of its reply: the engine's queue, loading "
                    "and reading of the prompt. The wait before that is *Queue wait*.",
                    MODEL,
                    runbook="first-token-slow",
                ),
                *spread(
                    "gen_ai_server_time_per_output_token_seconds",
                    "Time per token",
                    "Mean time between the tokens of a reply after its first.",
                    MODEL,
                ),
                *spread(
                    "gen_ai_server_request_duration_seconds",
                    "Whole reply",
                    "From a job's arrival at the worker to the end of its reply.",
                    MODEL,
                ),
                Panel(
                    "Whole reply by model, p95",
                    "From a job's arrival at the worker to the end of its reply.",
                    "s",
                    (
                        Query(
                            quantile(0.95, "gen_ai_server_request_duration_seconds", MODEL, by="gen_ai_request_model"),
                            "{{gen_ai_request_model}}",
                        ),
                    ),
                    width=12,
                ),
                Panel(
                    "Tokens",
                    "Tokens read (input) and written (output) a second, by model, as charged.",
                    "suffix: tokens/s",
                    (
                        Query(
                            per_second(f"{USAGE}_sum", MODEL, by="gen_ai_request_model, gen_ai_token_type"),
                            "{{gen_ai_request_model}} {{gen_ai_token_type}}",
                        ),
                    ),
                    width=12,
                ),
                Panel(
                    "More used than held",
                    "Replies whose prompt was counted longer than was held, too late to cut them; what is over is not "
                    "charged.",
                    "ops",
                    (Query(per_second("callboard_chat_over_hold_total"), "replies"),),
                    width=12,
                ),
                *spread(
                    USAGE,
                    "Tokens of a prompt",
                    "How long prompts are, as charged.",
                    MODEL,
                    'gen_ai_token_type="input"',
                    unit="suffix: tokens",
                ),
                *spread(
                    USAGE,
                    "Tokens of a reply",
                    "How long replies are, as charged.",
                    MODEL,
                    'gen_ai_token_type="output"',
                    unit="suffix: tokens",
                ),
            ),
        ),
        Row(
            "Engines",
            (
                Panel(
                    "Engines ready",
                    "Workers whose engine answers, by backend.",
                    "short",
                    (Query(total("callboard_chat_engine_ready", by="backend"), "{{backend}}"),),
                    "stat",
                    4,
                    limits=((1, "green"),),
                    good_above=True,
                    runbook="engine-down",
                ),
                Panel(
                    "Engine errors",
                    "Failures of the engine, by backend and code, also those that a repeat put right.",
                    "ops",
                    (
                        Query(
                            per_second("callboard_chat_engine_errors_total", by="backend, code"), "{{backend}} {{code}}"
                        ),
                    ),
                    width=10,
                    runbook="engine-down",
                ),
                Panel(
                    "Engine retries",
                    "Repeated calls of the engine.",
                    "ops",
                    (Query(per_second("callboard_chat_engine_retries_total", by="backend"), "{{backend}}"),),
                    width=10,
                ),
                *spread(
                    "callboard_chat_cancel_seconds",
                    "Time to stop",
                    "From the order to stop a reply to the closing of the engine's stream; 0.25 s is promised.",
                    limits=((0.25, "red"),),
                ),
                Panel(
                    "Engines by worker",
                    "Whether the engine behind each worker answers.",
                    "bool_yes_no",
                    (Query(of("callboard_chat_engine_ready"), "{{instance}} {{backend}}"),),
                    width=12,
                    runbook="engine-down",
                ),
            ),
        ),
        processes("callboard-chat"),
    ),
    (Choice("gen_ai_request_model", "gen_ai_server_request_duration_seconds_count", "model"),),
)

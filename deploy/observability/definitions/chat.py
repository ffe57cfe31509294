"""Chat: where does a reply's time go?"""

from deploy.observability.definitions import workers
from deploy.observability.panels import Board, Choice, Query, Row, counter, of, panel, processes, quantile, spread

MODEL = 'gen_ai_request_model=~"$model"'
USAGE = "gen_ai_client_token_usage"
DURATION = "gen_ai_server_request_duration_seconds"
WHOLE_REPLY = "From a job's arrival at the worker to the end of its reply."

JOBS = Row(
    "Jobs",
    (
        *workers.jobs("callboard_chat"),
        counter("Frames", "Messages with pieces of replies sent to edges a second.", "callboard_chat_frames_total"),
    ),
)
REPLIES = Row(
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
        *spread(DURATION, "Whole reply", WHOLE_REPLY, MODEL),
        panel(
            "Whole reply by model, p95",
            WHOLE_REPLY,
            "s",
            Query(quantile(0.95, DURATION, MODEL, by="gen_ai_request_model"), "{{gen_ai_request_model}}"),
            width=12,
        ),
        counter(
            "Tokens",
            "Tokens read (input) and written (output) a second, by model, as charged.",
            f"{USAGE}_sum",
            MODEL,
            by="gen_ai_request_model, gen_ai_token_type",
            unit="suffix: tokens/s",
            width=12,
        ),
        counter(
            "More used than held",
            "Replies whose prompt was counted longer than was held, too late to cut them; what is over is not charged.",
            "callboard_chat_over_hold_total",
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
)
ENGINES = Row(
    "Engines",
    (
        *workers.engines("callboard_chat", "code"),
        panel(
            "Engines by worker",
            "Whether the engine behind each worker answers.",
            "bool_yes_no",
            Query(of("callboard_chat_engine_ready"), "{{instance}} {{backend}}"),
            width=12,
            runbook="engine-down",
        ),
    ),
)

CHAT = Board(
    "chat",
    "Chat",
    "Where does a reply's time go?",
    (JOBS, REPLIES, ENGINES, processes("callboard-chat")),
    (Choice("gen_ai_request_model", f"{DURATION}_count", "model"),),
)

"""Chat: where does a reply's time go?"""

from deploy.observability.definitions import workers
from deploy.observability.panels import (
    Dashboard,
    Query,
    Row,
    Variable,
    counter,
    of,
    panel,
    per_second,
    processes,
    quantile,
    spread,
    total,
)

MODEL = f'gen_ai_request_model=~"$model",{workers.POOL}'
USAGE = "gen_ai_client_token_usage"
DURATION = "gen_ai_server_request_duration_seconds"
BY_MODEL = "gen_ai_request_model"
CACHED = per_second("callboard_chat_cached_prompt_tokens_total", MODEL, by=BY_MODEL)
PROMPTS = per_second(f"{USAGE}_sum", MODEL, 'gen_ai_token_type="input"', by=BY_MODEL)
REPLY_DURATION = "From a job's delivery to the worker to the end of its reply."

JOBS = Row(
    "Jobs",
    (
        *workers.jobs("callboard_chat"),
        counter("Frames", "Frames of replies sent to edges a second.", "callboard_chat_frames_total", workers.POOL),
    ),
)
REPLIES = Row(
    "Replies",
    (
        *spread(
            "gen_ai_server_time_to_first_token_seconds",
            "First token",
            "From a job's delivery to the worker to the first token of its reply: the engine's queue, model loading "
            "and prompt processing. The wait before that is *Queue wait*.",
            MODEL,
            runbook="first-token-slow",
        ),
        *spread(
            "gen_ai_server_time_per_output_token_seconds",
            "Time per token",
            "Mean time between the tokens of a reply after its first.",
            MODEL,
        ),
        *spread(DURATION, "Reply duration", REPLY_DURATION, MODEL),
        panel(
            "Reply duration by model, p95",
            REPLY_DURATION,
            "s",
            Query(quantile(0.95, DURATION, MODEL, by="gen_ai_request_model"), "{{gen_ai_request_model}}"),
            width=12,
        ),
        counter(
            "Tokens",
            "Prompt (input) and completion (output) tokens a second, by model, as charged.",
            f"{USAGE}_sum",
            MODEL,
            by="gen_ai_request_model, gen_ai_token_type",
            unit="suffix: tokens/s",
            width=12,
        ),
        panel(
            "Prompt cache",
            "Which part of all prompts the engines had in their caches, by model: conversations that go on, and "
            "instructions that many share.",
            "percentunit",
            Query(f"{CACHED} / {PROMPTS}", "{{gen_ai_request_model}}"),
            width=12,
        ),
        counter(
            "Over the hold",
            "Replies that used more than was held because their prompt was counted only at the end; the excess is "
            "not charged.",
            "callboard_chat_over_hold_total",
            workers.POOL,
            width=12,
        ),
        panel(
            "Volunteers",
            "Volunteers that have asked for work within five minutes, those that wait for a job at this moment, and "
            "the jobs that wait for one or that one has.",
            "short",
            Query(f"max ({of('callboard_edge_volunteers_online')})", "online"),
            Query(total("callboard_chat_volunteers_parked", workers.POOL), "waiting for a job"),
            Query(total("callboard_chat_volunteer_jobs", workers.POOL, by="state"), "jobs {{state}}"),
            width=8,
        ),
        panel(
            "Pops",
            "Pops of volunteers a second, by whether they got a job: answered by edges, and asked of chat workers.",
            "reqps",
            Query(per_second("callboard_edge_volunteer_pops_total", by="result"), "edge {{result}}"),
            Query(per_second("callboard_chat_volunteer_pops_total", workers.POOL, by="result"), "chat {{result}}"),
            width=8,
        ),
        panel(
            "Texts of volunteers",
            "Texts that volunteers submitted a second, by what became of them.",
            "reqps",
            Query(per_second("callboard_edge_volunteer_submits_total", by="outcome"), "edge {{outcome}}"),
            Query(per_second("callboard_chat_volunteer_submits_total", workers.POOL, by="outcome"), "chat {{outcome}}"),
            width=8,
        ),
        panel(
            "Shared jobs",
            "Jobs of pools that share them with volunteers, a second: those that the own engine began, and those that "
            "volunteers finished.",
            "reqps",
            Query(per_second("callboard_chat_shared_jobs_total", workers.POOL, by="source"), "{{source}}"),
            width=8,
        ),
        panel(
            "Webhooks",
            "Webhooks of Horde requests a second, by what became of them, and those that wait for their texts or for "
            "their receivers.",
            "reqps",
            Query(per_second("callboard_edge_webhooks_total", by="outcome"), "{{outcome}}"),
            Query(f"sum ({of('callboard_edge_webhooks_waiting')})", "waiting"),
            width=8,
        ),
        *spread(
            USAGE,
            "Prompt length",
            "Tokens of a prompt, as charged.",
            MODEL,
            'gen_ai_token_type="input"',
            unit="suffix: tokens",
        ),
        *spread(
            USAGE,
            "Reply length",
            "Tokens of a reply, as charged.",
            MODEL,
            'gen_ai_token_type="output"',
            unit="suffix: tokens",
        ),
    ),
)
EMBEDDINGS = Row(
    "Embeddings",
    (
        *spread(
            "gen_ai_client_operation_duration_seconds",
            "Embedding duration",
            "From an embedding job's delivery to the worker to its last vector.",
            MODEL,
            'gen_ai_operation_name="embeddings"',
        ),
        counter(
            "Embedded texts",
            "Texts embedded a second, by model; their tokens count as prompts.",
            "callboard_chat_embedded_inputs_total",
            MODEL,
            by=BY_MODEL,
            width=12,
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
            Query(of("callboard_chat_engine_ready", workers.POOL), "{{instance}} {{pool}} {{backend}}"),
            width=12,
            runbook="engine-down",
        ),
    ),
)

CHAT = Dashboard(
    "chat",
    "Chat",
    "Where does a reply's time go?",
    (JOBS, REPLIES, EMBEDDINGS, ENGINES, processes("callboard-chat")),
    (Variable("gen_ai_request_model", f"{DURATION}_count", "model"), workers.pool_variable("callboard_chat")),
)

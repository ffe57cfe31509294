"""What the embedded llama.cpp is asked: OpenAI's form, and its own fields beside it."""

import re
from collections.abc import Sequence

from callboard_chat.backends import openai_wire
from callboard_chat.backends.llamacpp_tools import bounded_parameters
from callboard_chat.backends.openai_wire import Json
from callboard_chat.backends.sampling import given, names, within_context
from callboard_chat.domain.ports import Continuation
from callboard_contracts.chat import ChatRequest, Sampling
from callboard_contracts.workers import Ability

SEED_MASK = 0xFFFF_FFFF
WHOLE_CONTEXT = -1
MAX_BREAKERS, MAX_LONG_BREAKERS, MAX_BREAKER_CHARACTERS = 16, 4, 16
"""How many sequence breakers go on to the engine, how many of them have more than one character, and how long those
are. The engine compares each with every token of its vocabulary, and reads the rest of a long one anew for each token
within which it begins, while all other replies wait: a second for one that begins with a small letter, at which
thousands of tokens end, and hardly anything for others."""
TEMPLATE_FIELDS = ("messages", "tools", "chat_template_kwargs", "reasoning_effort")
"""What of a request's body the chat template sees."""

NAMES = names(
    "temperature dynatemp_range dynatemp_exponent top_k top_p min_p typical_p top_n_sigma xtc_threshold "
    "xtc_probability adaptive_target adaptive_decay mirostat mirostat_tau mirostat_eta presence_penalty "
    "frequency_penalty dry_multiplier dry_base dry_allowed_length dry_sequence_breakers seed",
    {
        "repetition_penalty": "repeat_penalty",
        "repetition_range": "repeat_last_n",
        "dry_range": "dry_penalty_last_n",
        "ban_end_token": "ignore_eos",
    },
)
SAMPLING = frozenset(NAMES) | {"stop", "logit_bias", "banned_token_ids", "sampler_order"}
SAMPLERS = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")
"""The engine's own order."""
_SAMPLERS_OF = {
    "repetition_penalty": ("penalties",),
    "top_k": ("top_k",),
    "top_p": ("top_p", "min_p"),
    "typical_p": ("typ_p",),
    "temperature": ("temperature",),
}
"""What a name in a request's order stands for here; min_p goes with top_p, as KoboldCpp has it."""

_CHANNEL = re.compile(
    r"[<\[◁](?!/?(?:think|tool_response)>)[^\s<>\[\]'\"]*(?:think|thought|channel|reason|inner|response>|answer>)",
    re.IGNORECASE,
)
"""A tag of reasoning other than `<think>`, in a chat template; results of tools have tags that look alike."""


def abilities_of(properties: Json) -> frozenset[Ability]:
    """What the server's own account of the loaded model says that it can do."""
    abilities: set[Ability] = {"completion", "chat", "json_schema", "grammar", "logprobs", "prefill", "tokenize"}
    template = properties.get("chat_template", "")
    if replies_in_plain_text(template) or (properties.get("chat_template_caps") or {}).get("supports_tools"):
        abilities.add("tools")
    if "enable_thinking" in template:
        abilities.add("thinking")
    if (properties.get("modalities") or {}).get("vision"):
        abilities.add("images")
    return frozenset(abilities)


def replies_in_plain_text(template: str) -> bool:
    """Whether the replies of a chat template have no other parts than text and `<think>`, leaving tool calls aside."""
    return _CHANNEL.search(template) is None


def request_body(request: ChatRequest, continuation: Continuation | None, context_tokens: int) -> Json:
    """The body of a streamed request, but for the grammar of its reply."""
    body = openai_wire.request_body(request, continuation, _sampling(request.sampling, context_tokens))
    body.pop("response_format", None)
    thinking = request.thinking
    for tool in body.get("tools", ()):
        tool["function"]["parameters"] = bounded_parameters(tool["function"]["parameters"])
    if request.top_logprobs == 0:
        # It takes none for no log probabilities at all.
        body["logprobs" if request.mode == "completion" else "top_logprobs"] = 1
    if "tools" in body:
        # With tools it streams none, and refuses those who ask.
        body = {name: value for name, value in body.items() if name not in {"logprobs", "top_logprobs"}}
    enabled = False if thinking.budget_tokens == 0 else thinking.enabled
    if enabled is not None:
        body["chat_template_kwargs"] = {"enable_thinking": enabled}
    if thinking.effort is not None:
        body["reasoning_effort"] = thinking.effort
    if thinking.budget_tokens:
        # The engine refuses numbers that it cannot hold, and no thoughts are longer than the reply.
        body["thinking_budget_tokens"] = min(thinking.budget_tokens, request.max_output_tokens)
    return body | {"return_progress": True, "timings_per_token": True}


def tokens_body(body: Json, tokens: list[int]) -> Json:
    """The body of a chat request as one whose prompt is rendered and tokenised already."""
    left_out = {*TEMPLATE_FIELDS, "logprobs", "top_logprobs"}
    rendered = {name: value for name, value in body.items() if name not in left_out}
    if "top_logprobs" in body:
        rendered["logprobs"] = body["top_logprobs"]
    return rendered | {"prompt": tokens}


def _sampling(sampling: Sampling, context_tokens: int) -> Json:
    sampling = within_context(sampling, context_tokens)
    body = given(sampling, NAMES)
    for name in ("repeat_last_n", "dry_penalty_last_n"):
        if body.get(name) == WHOLE_CONTEXT:
            body[name] = context_tokens
    if breakers := _breakers(body.pop("dry_sequence_breakers", ())):
        body["dry_sequence_breakers"] = breakers
    if "seed" in body:
        body["seed"] &= SEED_MASK
    biases = [[int(token), bias] for token, bias in (sampling.logit_bias or {}).items() if token.isdecimal()]
    biases += [[token, False] for token in sampling.banned_token_ids]
    if biases:
        body["logit_bias"] = biases
    samplers = SAMPLERS
    if sampling.sampler_order is not None:
        asked = [name for field in sampling.sampler_order for name in _SAMPLERS_OF.get(field, ())]
        samplers = (*dict.fromkeys(("dry", "top_n_sigma", *asked, "xtc", *SAMPLERS)),)
    if "adaptive_target" in body:
        samplers = (*samplers, "adaptive_p")
    return body if samplers == SAMPLERS else body | {"samplers": samplers}


def _breakers(asked: Sequence[str]) -> list[str]:
    kept: list[str] = []
    long = 0
    for breaker in dict.fromkeys(asked):
        if not 0 < len(breaker) <= MAX_BREAKER_CHARACTERS or len(kept) == MAX_BREAKERS:
            continue
        if len(breaker) > 1:
            if breaker[0].islower() or long == MAX_LONG_BREAKERS:
                continue
            long += 1
        kept.append(breaker)
    return kept

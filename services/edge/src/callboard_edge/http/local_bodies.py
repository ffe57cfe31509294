"""Fields that KoboldCpp, text-generation-webui, llama.cpp and vLLM added to requests, as their clients write them.

These clients are many and write their numbers as they like, so that much is taken that is not quite right: numbers in
text, `null` for whatever is left out, and values out of range, which are brought into it.
"""

import json
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from callboard_edge.http.lenient import Flag, LenientBody, Number, Texts, Whole

MAX_BANNED_IDS = 4096
BANNED = -100.0
"""The bias of a token that may not come."""


def _biases(value: Any) -> Any:
    """Biases by token id; llama.cpp takes them as pairs, with `false` for a token that may not come."""
    if isinstance(value, list):
        pairs = [pair for pair in value if isinstance(pair, list) and len(pair) == 2]
        return {str(token): BANNED if bias is False else bias for token, bias in pairs if bias is not None}
    if not isinstance(value, dict):
        return value
    return {key: one for key, one in value.items() if one is not None}


def _ids(value: Any) -> Any:
    """Token ids in a list, or in a text between commas."""
    if isinstance(value, list):
        return ",".join(str(one) for one in value[:MAX_BANNED_IDS] if isinstance(one, int))
    return value


def _schema(value: Any) -> Any:
    """A JSON schema, or its text."""
    if isinstance(value, str):
        try:
            return json.loads(value) if value.strip() else None
        except RecursionError:
            raise ValueError("nested too deeply") from None
    return value


Biases = Annotated[dict[str, float] | None, BeforeValidator(_biases)]
_IDS_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer"}}, {"type": "null"}]}
Ids = Annotated[str | None, BeforeValidator(_ids), WithJsonSchema(_IDS_SCHEMA)]
_SCHEMA_SCHEMA = {"anyOf": [{"type": "object"}, {"type": "string"}, {"type": "null"}]}
Schema = Annotated[dict[str, Any] | None, BeforeValidator(_schema), WithJsonSchema(_SCHEMA_SCHEMA)]


class LocalSamplingBody(LenientBody):
    """How the next token is chosen and how much is written, by the names of all these servers."""

    max_length: Whole = None
    max_new_tokens: Whole = None
    max_context_length: Whole = None
    truncation_length: Whole = None
    temperature: Number = None
    dynatemp_range: Number = None
    dynatemp_min: Number = None
    dynatemp_max: Number = None
    dynatemp_low: Number = None
    dynatemp_high: Number = None
    dynatemp_exponent: Number = None
    smoothing_factor: Number = None
    smoothing_curve: Number = None
    top_k: Whole = None
    top_p: Number = None
    min_p: Number = None
    top_a: Number = None
    typical: Number = None
    typical_p: Number = None
    tfs: Number = None
    tfs_z: Number = None
    nsigma: Number = None
    top_n_sigma: Number = None
    epsilon_cutoff: Number = None
    eta_cutoff: Number = None
    xtc_threshold: Number = None
    xtc_probability: Number = None
    adaptive_target: Number = None
    adaptive_decay: Number = None
    mirostat: Whole = None
    mirostat_mode: Whole = None
    mirostat_tau: Number = None
    mirostat_eta: Number = None
    presence_penalty: Number = None
    frequency_penalty: Number = None
    rep_pen: Number = None
    repetition_penalty: Number = None
    repeat_penalty: Number = None
    rep_pen_range: Whole = None
    repetition_penalty_range: Whole = None
    repeat_last_n: Whole = None
    rep_pen_slope: Number = None
    no_repeat_ngram_size: Whole = None
    dry_multiplier: Number = None
    dry_base: Number = None
    dry_allowed_length: Whole = None
    dry_penalty_last_n: Whole = None
    dry_sequence_breakers: Texts = None
    sampler_order: list[Whole] | None = None
    sampler_seed: Whole = None
    seed: Whole = None
    stop: Texts = None
    stop_sequence: Texts = None
    stopping_strings: Texts = None
    banned_tokens: Texts = None
    banned_strings: Texts = None
    custom_token_bans: Ids = None
    logit_bias: Biases = None
    ban_eos_token: Flag = None
    ignore_eos: Flag = None
    use_default_badwordsids: Flag = None
    min_length: Whole = None
    min_tokens: Whole = None
    do_sample: Flag = None
    genkey: str | None = None

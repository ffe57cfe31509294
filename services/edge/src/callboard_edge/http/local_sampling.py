"""What clients of local servers ask for in the neutral form: renamed, and brought into its range."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from callboard_contracts.chat import KOBOLD_SAMPLERS, OutputFormat, SamplerName, Sampling
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.http.lenient import within
from callboard_edge.http.local_bodies import LocalSamplingBody

MAX_STOPS = 256
MAX_BANNED_TEXTS = 768
MAX_BIASES = 512
MAX_BREAKERS = 128
MAX_IDS = 1024
GREATEST_BIAS = 100.0
LEAST_CONTEXT_TOKENS = 128
TURN_TAG = "{{["
"""The beginning of each of KoboldCpp's tags."""

SOURCES: dict[str, tuple[str, ...]] = {
    "temperature": ("temperature",),
    "dynatemp_range": ("dynatemp_range",),
    "dynatemp_exponent": ("dynatemp_exponent",),
    "smoothing_factor": ("smoothing_factor",),
    "smoothing_curve": ("smoothing_curve",),
    "top_k": ("top_k",),
    "top_p": ("top_p",),
    "min_p": ("min_p",),
    "top_a": ("top_a",),
    "typical_p": ("typical", "typical_p"),
    "tfs": ("tfs", "tfs_z"),
    "top_n_sigma": ("nsigma", "top_n_sigma"),
    "epsilon_cutoff": ("epsilon_cutoff",),
    "eta_cutoff": ("eta_cutoff",),
    "xtc_threshold": ("xtc_threshold",),
    "xtc_probability": ("xtc_probability",),
    "adaptive_target": ("adaptive_target",),
    "adaptive_decay": ("adaptive_decay",),
    "mirostat": ("mirostat", "mirostat_mode"),
    "mirostat_tau": ("mirostat_tau",),
    "mirostat_eta": ("mirostat_eta",),
    "presence_penalty": ("presence_penalty",),
    "frequency_penalty": ("frequency_penalty",),
    "repetition_range": ("rep_pen_range", "repetition_penalty_range", "repeat_last_n"),
    "repetition_slope": ("rep_pen_slope",),
    "no_repeat_ngram_size": ("no_repeat_ngram_size",),
    "dry_multiplier": ("dry_multiplier",),
    "dry_base": ("dry_base",),
    "dry_allowed_length": ("dry_allowed_length",),
    "dry_range": ("dry_penalty_last_n",),
    "min_output_tokens": ("min_length", "min_tokens"),
}
"""Numbers that are only renamed: the neutral name, and those of clients, of which the first that is given counts."""


def local_sampling(body: LocalSamplingBody) -> Sampling:
    """The sampling fields of a request."""
    fields: dict[str, Any] = {}
    for name, sources in SOURCES.items():
        value = next((found for source in sources if (found := getattr(body, source)) is not None), None)
        if value is not None:
            fields[name] = within(name, value)
    fields |= _dynamic_temperature(body)
    penalties = [one for one in (body.rep_pen, body.repetition_penalty, body.repeat_penalty) if one is not None]
    if penalties:
        # KoboldCpp takes the highest of the three.
        fields["repetition_penalty"] = within("repetition_penalty", max(penalties))
    if body.do_sample is False:
        fields["temperature"] = 0.0
    seed = body.sampler_seed if body.sampler_seed is not None else body.seed
    if seed is not None and seed >= 0:
        fields["seed"] = seed
    if body.logit_bias:
        fields["logit_bias"] = {
            key: max(-GREATEST_BIAS, min(GREATEST_BIAS, value))
            for key, value in list(body.logit_bias.items())[:MAX_BIASES]
        }
    # The same texts come by several names.
    stops = dict.fromkeys((*(body.stop_sequence or ()), *(body.stopping_strings or ()), *(body.stop or ())))
    return Sampling(
        **fields,
        dry_sequence_breakers=tuple((body.dry_sequence_breakers or ())[:MAX_BREAKERS]) or None,
        sampler_order=_order(body.sampler_order),
        stop=tuple(stops)[:MAX_STOPS],
        banned_token_ids=_ids(body.custom_token_bans),
        banned_texts=tuple((*(body.banned_tokens or ()), *(body.banned_strings or ()))[:MAX_BANNED_TEXTS]),
        ban_end_token=bool(body.ban_eos_token or body.ignore_eos or body.use_default_badwordsids),
    )


def context_and_reply(
    model: ChatModel, contexts: Sequence[int | None], lengths: Sequence[int | None], default: int | None = None
) -> tuple[int | None, int]:
    """How long memory, prompt and reply may be together, None for the model's own, and how long the reply may be.

    The first of `contexts` and of `lengths` that is a number above 0 counts. A quarter of the context is left to the
    prompt.
    """
    context = _first(contexts)
    if context is not None:
        context = min(model.context_tokens, max(LEAST_CONTEXT_TOKENS, context))
    limit = model.output_limit(_first(lengths), default)
    return context, min(limit, max(1, (context or model.context_tokens) * 3 // 4))


def grammar_format(grammar: str | None) -> OutputFormat:
    """The form of a reply: a grammar in GBNF, or a JSON schema in its place."""
    if not grammar or not grammar.strip():
        return OutputFormat()
    if grammar.lstrip().startswith("{"):
        try:
            schema: Any = json.loads(grammar)
        except (ValueError, RecursionError):
            schema = None
        if isinstance(schema, dict):
            return OutputFormat(kind="json_schema", json_schema=schema)
    return OutputFormat(kind="grammar", grammar=grammar)


def has_turn_tags(texts: Iterable[str | None], stops: Iterable[str] | None) -> bool:
    """Whether there may be tags that stand for the model's template; a prompt without them is taken as it is."""
    return any(TURN_TAG in text for text in (*(text or "" for text in texts), *(stops or ())))


def _first(numbers: Sequence[int | None]) -> int | None:
    return next((one for one in numbers if one is not None and one > 0), None)


def _dynamic_temperature(body: LocalSamplingBody) -> dict[str, float]:
    """A range of temperatures that is given by its ends; one that is not open is none."""
    least = body.dynatemp_min if body.dynatemp_min is not None else body.dynatemp_low
    most = body.dynatemp_max if body.dynatemp_max is not None else body.dynatemp_high
    if body.dynatemp_range is not None or least is None or most is None or most <= least:
        return {}
    ends = {"temperature": (least + most) / 2, "dynatemp_range": (most - least) / 2}
    return {name: within(name, value) for name, value in ends.items()}


def _order(numbers: list[int | None] | None) -> tuple[SamplerName, ...] | None:
    """The samplers of KoboldCpp's numbers; None where they are not each of them once."""
    given = [one for one in numbers or () if one is not None]
    if sorted(given) != list(range(len(KOBOLD_SAMPLERS))):
        return None
    return tuple(KOBOLD_SAMPLERS[number] for number in given)


def _ids(text: str | None) -> tuple[int, ...]:
    """Token ids out of a list in a text; what is no number is left out."""
    words = (word.strip() for word in (text or "").split(","))
    return tuple(int(word) for word in words if word.isascii() and word.isdigit() and len(word) < 10)[:MAX_IDS]

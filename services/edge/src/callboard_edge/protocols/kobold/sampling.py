"""The sampling fields of these clients in the neutral form: renamed, and brought into their range."""

from typing import Any

from callboard_contracts.chat import SamplerName, Sampling
from callboard_edge.http.lenient import within
from callboard_edge.protocols.kobold.bodies import (
    MAX_BANNED_TEXTS,
    MAX_BIASES,
    MAX_BREAKERS,
    MAX_IDS,
    MAX_STOPS,
    SamplingBody,
)

GREATEST_BIAS = 100.0
SAMPLERS: tuple[SamplerName, ...] = (
    "top_k",
    "top_a",
    "top_p",
    "tfs",
    "typical_p",
    "temperature",
    "repetition_penalty",
)
"""By KoboldCpp's numbers."""

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
    "tfs": ("tfs",),
    "top_n_sigma": ("nsigma",),
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
    "repetition_range": ("rep_pen_range", "repetition_penalty_range"),
    "repetition_slope": ("rep_pen_slope",),
    "no_repeat_ngram_size": ("no_repeat_ngram_size",),
    "dry_multiplier": ("dry_multiplier",),
    "dry_base": ("dry_base",),
    "dry_allowed_length": ("dry_allowed_length",),
    "dry_range": ("dry_penalty_last_n",),
    "min_output_tokens": ("min_length",),
}
"""Numbers that are only renamed: the neutral name, and those of clients, of which the first that is given counts."""


def sampling(body: SamplingBody) -> Sampling:
    """The sampling fields of a request."""
    fields: dict[str, Any] = {}
    for name, sources in SOURCES.items():
        value = next((found for source in sources if (found := getattr(body, source)) is not None), None)
        if value is not None:
            fields[name] = within(name, value)
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
    return Sampling(
        **fields,
        dry_sequence_breakers=tuple((body.dry_sequence_breakers or ())[:MAX_BREAKERS]) or None,
        sampler_order=_order(body.sampler_order),
        stop=tuple((*(body.stop_sequence or ()), *(body.stopping_strings or ()))[:MAX_STOPS]),
        banned_token_ids=_ids(body.custom_token_bans),
        banned_texts=tuple((*(body.banned_tokens or ()), *(body.banned_strings or ()))[:MAX_BANNED_TEXTS]),
        ban_end_token=bool(body.ban_eos_token or body.use_default_badwordsids),
    )


def _order(numbers: list[int | None] | None) -> tuple[SamplerName, ...] | None:
    """The samplers of KoboldCpp's numbers; None where they are not each of them once."""
    given = [one for one in numbers or () if one is not None]
    if sorted(given) != list(range(len(SAMPLERS))):
        return None
    return tuple(SAMPLERS[number] for number in given)


def _ids(text: str | None) -> tuple[int, ...]:
    """Token ids out of a list in a text; what is no number is left out."""
    words = (word.strip() for word in (text or "").split(","))
    return tuple(int(word) for word in words if word.isascii() and word.isdigit() and len(word) < 10)[:MAX_IDS]

"""How a backend declares which sampling fields its engine honours, and under which name."""

from collections.abc import Mapping
from typing import Any

from callboard_contracts.chat import Sampling

LOOKS_BACK = ("repetition_range", "dry_range", "dry_allowed_length")
MOST_TOP_K = 2**31 - 1
"""Engines cut larger numbers off at their front."""


def names(same: str, other: Mapping[str, str]) -> dict[str, str]:
    """The engine's names of the fields that it honours: those in the words of `same` are alike, `other` are not."""
    return {name: name for name in same.split()} | dict(other)


def given(sampling: Sampling, names: Mapping[str, str]) -> dict[str, Any]:
    """The fields among `names` that a request sets, under the engine's names for them."""
    chosen = [field for field in sampling.model_fields_set if field in names]
    if not chosen:
        return {}
    values = sampling.model_dump(include=set(chosen), exclude_defaults=True)
    return {names[field]: value for field, value in values.items()}


def within_context(sampling: Sampling, context_tokens: int) -> Sampling:
    """The sampling with ranges no longer than a context, since engines set memory aside for all that they are asked."""
    capped = {name: context_tokens for name in LOOKS_BACK if (getattr(sampling, name) or 0) > context_tokens}
    if (sampling.top_k or 0) > MOST_TOP_K:
        capped["top_k"] = MOST_TOP_K
    return sampling.model_copy(update=capped) if capped else sampling

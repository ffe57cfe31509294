"""How a backend declares which sampling fields its engine honours, and under which name."""

from collections.abc import Mapping
from typing import Any

from callboard_contracts.chat import Sampling


def given(sampling: Sampling, names: Mapping[str, str]) -> dict[str, Any]:
    """The fields among `names` that a request sets, under the engine's names for them."""
    values = sampling.model_dump(include=set(names), exclude_defaults=True)
    return {names[field]: value for field, value in values.items()}

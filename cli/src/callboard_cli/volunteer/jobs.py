"""Jobs as servers of the Horde hand them out, read with what they may leave out."""

import math
from typing import Any

DEFAULT_TTL_S = 150.0
DEFAULT_LENGTH = 80
DEFAULT_CONTEXT_TOKENS = 2048


def read_payload(payload: Any) -> dict[str, Any]:
    """What a job asks for, with the lengths that the Horde's own servers may leave out; raises TypeError."""
    if not isinstance(payload, dict) or not isinstance(payload.get("prompt"), str):
        raise TypeError("no prompt")
    stops = payload.get("stop_sequence")
    known = {
        **payload,
        "max_length": _length(payload.get("max_length"), DEFAULT_LENGTH),
        "max_context_length": _length(payload.get("max_context_length"), DEFAULT_CONTEXT_TOKENS),
        "stop_sequence": [stop for stop in stops if isinstance(stop, str) and stop] if isinstance(stops, list) else [],
    }
    return {name: value for name, value in known.items() if value is not None}


def _length(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) and value > 0 else otherwise


def ttl_s(job: dict[str, Any]) -> float:
    """How long a job may take, from its pop on."""
    ttl = job.get("ttl")
    return float(ttl) if isinstance(ttl, int | float) and math.isfinite(ttl) and ttl > 0 else DEFAULT_TTL_S

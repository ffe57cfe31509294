"""The headers that tell a client where its limits stand."""

import math
from collections.abc import Iterable
from typing import Literal

from callboard_contracts.quota import LimitState


def rate_limit_headers(states: Iterable[LimitState]) -> dict[str, str]:
    """`x-ratelimit-*` for limits that each count something else."""
    headers: dict[str, str] = {}
    for state in states:
        kind = counted(state)
        headers[f"x-ratelimit-limit-{kind}"] = str(state.allowed)
        headers[f"x-ratelimit-remaining-{kind}"] = str(max(0, state.remaining))
        headers[f"x-ratelimit-reset-{kind}"] = _duration(state.resets_in_s)
    return headers


def counted(state: LimitState) -> Literal["requests", "jobs", "tokens", "heard-seconds"]:
    """What a limit counts."""
    if "heard" in state.limit:
        return "heard-seconds"
    if "request" in state.limit:
        return "requests"
    return "jobs" if "job" in state.limit else "tokens"


def _duration(seconds: float) -> str:
    """A duration as OpenAI writes it: `6m0s`, `1h2m3s`, `12s`."""
    total = max(0, math.ceil(seconds))
    hours, rest = divmod(total, 3600)
    minutes, seconds_left = divmod(rest, 60)
    text = f"{hours}h" if hours else ""
    if hours or minutes:
        text += f"{minutes}m"
    return f"{text}{seconds_left}s"

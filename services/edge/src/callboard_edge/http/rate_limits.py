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
    total = math.ceil(seconds) if seconds > 0 else 0
    if total < 60:
        return f"{total}s"
    minutes, rest = total // 60, total % 60
    return f"{minutes}m{rest}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60}m{rest}s"

"""The headers that tell a client where its limits stand."""

import math

from callboard_contracts.quota import LimitState


def rate_limit_headers(state: LimitState | None) -> dict[str, str]:
    """`x-ratelimit-*` for the tightest limit; empty where no limit applies."""
    if state is None:
        return {}
    if "request" in state.limit:
        kind = "requests"
    elif "job" in state.limit:
        kind = "jobs"
    else:
        kind = "tokens"
    return {
        f"x-ratelimit-limit-{kind}": str(state.allowed),
        f"x-ratelimit-remaining-{kind}": str(max(0, state.remaining)),
        f"x-ratelimit-reset-{kind}": _duration(state.resets_in_s),
    }


def _duration(seconds: float) -> str:
    """A duration as OpenAI writes it: `6m0s`, `1h2m3s`, `12s`."""
    total = max(0, math.ceil(seconds))
    hours, rest = divmod(total, 3600)
    minutes, seconds_left = divmod(rest, 60)
    text = f"{hours}h" if hours else ""
    if hours or minutes:
        text += f"{minutes}m"
    return f"{text}{seconds_left}s"

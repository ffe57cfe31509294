"""Where a caller's limits stand, in the headers that Anthropic's clients read."""

import math
from collections.abc import Iterable
from datetime import UTC, datetime

from callboard_contracts.quota import LimitState
from callboard_edge.http.rate_limits import counted


def limit_headers(states: Iterable[LimitState], now: float) -> dict[str, str]:
    """`anthropic-ratelimit-*` for the limits of requests and tokens; clients know no others."""
    headers: dict[str, str] = {}
    for state in states:
        if (kind := counted(state)) not in {"requests", "tokens"}:
            continue
        resets_at = datetime.fromtimestamp(math.ceil(now + max(0.0, state.resets_in_s)), UTC)
        head = f"anthropic-ratelimit-{kind}"
        headers[f"{head}-limit"] = str(state.allowed)
        headers[f"{head}-remaining"] = str(max(0, state.remaining))
        headers[f"{head}-reset"] = f"{resets_at:%Y-%m-%dT%H:%M:%SZ}"
    return headers

"""Lets web pages of the configured origins call the edge."""

import re
from collections.abc import Mapping

EXPOSED = (
    "x-request-id, request-id, retry-after, retry-after-ms, x-should-retry, "
    "x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
    "x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens, "
    "x-ratelimit-limit-jobs, x-ratelimit-remaining-jobs, x-ratelimit-reset-jobs"
)
USUAL_HEADERS = "Authorization, Content-Type, Accept, x-api-key, apikey, x-request-id, Client-Agent, genkey"
METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
PREFLIGHT_LIFE_S = 86_400
_NAMES = re.compile(r"[A-Za-z0-9_,\s-]{1,2000}")


class Cors:
    """The answers to a browser's questions about other origins."""

    def __init__(self, origins: tuple[str, ...]) -> None:
        self._any = "*" in origins
        self._origins = frozenset(origins)

    def headers(self, origin: str | None) -> dict[str, str]:
        """What every answer carries."""
        if self._any:
            return {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": EXPOSED}
        if origin is not None and origin in self._origins:
            return {
                "Access-Control-Allow-Origin": origin,
                "Access-Control-Expose-Headers": EXPOSED,
                "Vary": "Origin",
            }
        return {"Vary": "Origin"}

    def allows(self, origin: str | None, host: str | None) -> bool:
        """Whether a page of an origin may open a WebSocket, for which browsers ask nobody; pages of this host may."""
        if origin is None or self._any or origin in self._origins:
            return True
        return origin.partition("://")[2] == host

    def preflight(self, asked: Mapping[str, str]) -> dict[str, str]:
        """What the answer to a preflight carries: the header names that the page asked for are all allowed."""
        headers = self.headers(asked.get("Origin"))
        if "Access-Control-Allow-Origin" not in headers:
            return headers
        wanted = asked.get("Access-Control-Request-Headers", "")
        headers["Access-Control-Allow-Methods"] = METHODS
        headers["Access-Control-Allow-Headers"] = wanted if _NAMES.fullmatch(wanted) else USUAL_HEADERS
        headers["Access-Control-Max-Age"] = str(PREFLIGHT_LIFE_S)
        if asked.get("Access-Control-Request-Private-Network") == "true":
            headers["Access-Control-Allow-Private-Network"] = "true"
        return headers

"""The jobs of each pool that have been posted and have not shown any output yet."""

import time
from collections import defaultdict

from callboard_contracts.jobs import Service


class WaitingJobs:
    """Since when each waiting job waits, the oldest first."""

    def __init__(self) -> None:
        self._since: dict[tuple[Service, str], dict[str, float]] = defaultdict(dict)

    def begin(self, service: Service, pool: str, request_id: str) -> None:
        """Notes that a job waits from now on."""
        self._since[service, pool][request_id] = time.monotonic()

    def end(self, service: Service, pool: str, request_id: str) -> None:
        """Notes that a job waits no longer; safe to repeat."""
        self._since[service, pool].pop(request_id, None)

    def oldest_s(self, service: Service, pool: str) -> float:
        """How long the oldest job of a pool has waited, or 0."""
        since = next(iter(self._since.get((service, pool), {}).values()), None)
        return 0.0 if since is None else time.monotonic() - since

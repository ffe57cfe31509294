"""How many volunteers are there from each address, as one edge has seen them."""

from collections.abc import Callable

from cachetools import LRUCache

from callboard_contracts.volunteers import ONLINE_S

MAX_ADDRESSES = 50_000
"""So many addresses are known; beyond that those that have rested longest are forgotten."""


class VolunteerAddresses:
    """Counts the volunteers of each address; `most` is how many may be there at once, 0 for any number."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._most = most
        self._clock = clock
        self._seen: LRUCache[str, dict[str, float]] = LRUCache(MAX_ADDRESSES)

    def admits(self, address: str, worker_id: str) -> bool:
        """Takes in that a volunteer asks for work; returns whether its address may have it."""
        if not self._most:
            return True
        now = self._clock()
        seen = {one: at for one, at in self._seen.get(address, {}).items() if now - at < ONLINE_S}
        if worker_id not in seen and len(seen) >= self._most:
            return False
        self._seen[address] = {**seen, worker_id: now}
        return True

"""Wrong tokens and passwords, and the addresses that are no longer listened to because of them."""

import asyncio

from cachetools import LRUCache

MAX_ADDRESSES = 10_000
FREE_FAILURES = 6
"""So many wrong tokens of an address do not block it."""
FIRST_BLOCK_S = 1.0
LONGEST_BLOCK_S = 300.0


class Attempts:
    """The wrong tokens or passwords of each address, which block it for ever longer; a right one clears it.

    Of very many addresses the least recent are forgotten.
    """

    def __init__(self) -> None:
        self._failures: LRUCache[str, tuple[int, float]] = LRUCache(MAX_ADDRESSES)

    def blocked_s(self, address: str) -> float:
        """How long no token of an address is looked at, in seconds; 0 for now."""
        _count, until = self._failures.get(address, (0, 0.0))
        return max(0.0, until - asyncio.get_running_loop().time())

    def fail(self, address: str) -> None:
        """Counts a wrong token."""
        count = self._failures.get(address, (0, 0.0))[0] + 1
        block_s = (
            min(LONGEST_BLOCK_S, FIRST_BLOCK_S * 2.0 ** (count - FREE_FAILURES)) if count >= FREE_FAILURES else 0.0
        )
        self._failures[address] = (count, asyncio.get_running_loop().time() + block_s)

    def clear(self, address: str) -> None:
        """Forgets an address's wrong tokens."""
        self._failures.pop(address, None)

"""Whose keys volunteers use, kept for a moment: they call many times a minute, and seldom with a new key."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cachetools import LRUCache

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.ports import Background

FRESH_S = 10.0
"""How long an account is taken for a key's without asking; a revoked key works so long, and for one last call."""
KEPT_S = 300.0
"""How long the same while quota does not answer."""
MAX_KNOWN = 10_000


@dataclass(slots=True)
class _Known:
    account: str | None
    at: float


class KnownAccounts:
    """The accounts of keys, by their digests.

    Quota is asked once for all that come with a key at the same time. An answer that is no longer fresh is used once
    more while quota is asked again, so that nobody waits for it.
    """

    def __init__(self, background: Background, clock: Callable[[], float] | None = None) -> None:
        self._background = background
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._known: LRUCache[str, _Known] = LRUCache(MAX_KNOWN)
        self._asking: dict[str, asyncio.Task[str | None]] = {}

    async def account(self, key_digest: str, ask: Callable[[], Awaitable[str | None]]) -> str | None:
        """The account of a key, None for one that is no account's; raises what `ask` does."""
        known = self._known.get(key_digest)
        age_s = self._clock() - known.at if known is not None else KEPT_S
        if known is None or age_s >= KEPT_S:
            return await asyncio.shield(self._ask(key_digest, ask))
        if age_s >= FRESH_S:
            self._ask(key_digest, ask)
        return known.account

    def _ask(self, key_digest: str, ask: Callable[[], Awaitable[str | None]]) -> "asyncio.Task[str | None]":
        task = self._asking.get(key_digest)
        if task is None:
            task = self._background.start(self._learn(key_digest, ask), "identify")
            self._asking[key_digest] = task
            task.add_done_callback(lambda _task: self._asking.pop(key_digest, None))
        return task

    async def _learn(self, key_digest: str, ask: Callable[[], Awaitable[str | None]]) -> str | None:
        try:
            account = await ask()
        except CallboardError as error:
            known = self._known.get(key_digest)
            if error.info.code is not ErrorCode.QUOTA_UNAVAILABLE:
                self._known.pop(key_digest, None)
            elif known is not None and self._clock() - known.at < KEPT_S:
                return known.account
            raise
        self._known[key_digest] = _Known(account, self._clock())
        return account

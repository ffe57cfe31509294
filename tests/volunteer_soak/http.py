"""HTTP as patient programs use it: whichever edge answers, again and again for a while."""

import asyncio
import json
import random
from typing import Any

import aiohttp

PATIENCE_S = 45.0
PAUSE_S = 0.5
CALL_TIMEOUT_S = 40.0


class NoAnswer(Exception):  # noqa: N818 - a state: nobody knows what became of the call
    """The edge went away in the middle of a call, or has not answered in time."""


class Edges:
    """The addresses of a site's edges; every call goes to one of them by chance."""

    def __init__(self, urls: list[str], session: aiohttp.ClientSession, dice: random.Random) -> None:
        self._urls = urls
        self._session = session
        self._dice = dice

    async def once(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """The status and the JSON of one call; raises NoAnswer."""
        url = self._dice.choice(self._urls) + path
        try:
            async with (
                asyncio.timeout(CALL_TIMEOUT_S),
                self._session.request(method, url, json=body, headers=headers) as answer,
            ):
                return answer.status, json.loads(await answer.read())
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise NoAnswer(repr(error)) from error

    async def surely(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, int]:
        """The same, tried again while edges are away or busy; the last figure says how many tries got no answer."""
        clock = asyncio.get_running_loop().time
        until, unknown = clock() + PATIENCE_S, 0
        while True:
            try:
                status, told = await self.once(method, path, body, headers)
                if status < 500 and status != 429:
                    return status, told, unknown
                error = NoAnswer(f"{status}: {told}")
            except NoAnswer as failed:
                unknown += 1
                error = failed
            if clock() > until:
                raise error
            await asyncio.sleep(PAUSE_S * self._dice.uniform(0.5, 1.5))

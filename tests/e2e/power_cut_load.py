"""Callers who go on until the power is cut, and what each of them was told before."""

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from callboard_admin.accounts import Accounts
from callboard_kit.bus import Bus, BusError

WORDS = 24
ANSWER_TIMEOUT_S = 30.0
POLL_INTERVAL_S = 0.05
PAUSE_AFTER_REFUSAL_S = 0.1
GONE = (aiohttp.ClientError, TimeoutError)


@dataclass(slots=True)
class Streamed:
    """What a client has of a streamed reply."""

    key: str
    request_id: str
    text: str = ""
    ended_at: float | None = None
    """When its end came, by `time.monotonic`."""

    @property
    def words(self) -> int:
        """How many whole words have arrived."""
        return self.text.count(" ")


@dataclass(slots=True)
class Kept:
    """What a client knows of a reply that it polls for."""

    key: str
    job_id: str
    text: str | None = None
    """Its text, once its end was told."""


@dataclass(slots=True)
class Told:
    """All that clients were told: what begun streams brought, which jobs were accepted, and which keys were made."""

    streamed: list[Streamed] = field(default_factory=list[Streamed])
    kept: list[Kept] = field(default_factory=list[Kept])
    keys: list[str] = field(default_factory=list[str])
    refused: int = 0


class Callers:
    """Clients of one edge; every method ends with the edge or with the limit on its answers."""

    def __init__(self, session: aiohttp.ClientSession, root_url: str, chance: random.Random) -> None:
        self.told = Told()
        self._session = session
        self._root_url = root_url
        self._chance = chance

    async def stream(self, key: str) -> Streamed | None:
        """Asks for a streamed reply and follows it; None where it was refused."""
        body = {
            "model": "owl",
            "messages": [{"role": "user", "content": "Hello."}],
            "stream": True,
            "max_tokens": self._chance.randint(1, WORDS + 8),
        }
        headers = {"Authorization": f"Bearer {key}"}
        async with self._session.post(f"{self._root_url}/v1/chat/completions", json=body, headers=headers) as answer:
            if answer.status != 200:
                self.told.refused += 1
                return None
            reply: Streamed | None = None
            async for line in answer.content:
                if not line.startswith(b"data: "):
                    continue
                if reply is None:
                    reply = Streamed(key, answer.headers["x-request-id"].removeprefix("req_"))
                    self.told.streamed.append(reply)
                if line.startswith(b"data: [DONE]"):
                    reply.ended_at = time.monotonic()
                    break
                chunk = json.loads(line.removeprefix(b"data: "))
                if "error" in chunk:
                    break
                for choice in chunk["choices"]:
                    reply.text += choice["delta"].get("content") or ""
            return reply

    async def keep_streaming(self, key: str) -> None:
        """One reply after another."""
        while True:
            try:
                if await self.stream(key) is None:
                    await asyncio.sleep(PAUSE_AFTER_REFUSAL_S)
            except GONE:
                return

    async def submit(self, key: str) -> Kept | None:
        """Has a reply written that is polled for; None where it was refused."""
        body = {"prompt": "Hello.", "models": ["owl"], "params": {"max_length": 80, "max_context_length": 1024}}
        url = f"{self._root_url}/api/v2/generate/text/async"
        async with self._session.post(url, json=body, headers={"apikey": key}) as answer:
            if answer.status != 202:
                self.told.refused += 1
                return None
            kept = Kept(key, (await answer.json())["id"])
            self.told.kept.append(kept)
            return kept

    async def poll(self, job_id: str) -> str | None:
        """The text of a reply that has ended, None while it has not; raises LookupError where there is none."""
        async with self._session.get(f"{self._root_url}/api/v2/generate/text/status/{job_id}") as answer:
            state = await answer.json()
            if answer.status != 200 or state["faulted"]:
                raise LookupError(f"{answer.status}: {state}")
            return "".join(one["text"] for one in state["generations"]) if state["done"] else None

    async def keep_polling(self, key: str) -> None:
        """One kept reply after another."""
        while True:
            try:
                kept = await self.submit(key)
                if kept is None:
                    await asyncio.sleep(PAUSE_AFTER_REFUSAL_S)
                    continue
                while kept.text is None:
                    await asyncio.sleep(POLL_INTERVAL_S)
                    kept.text = await self.poll(kept.job_id)
            except GONE:
                return
            except LookupError:
                # The edge that is about to go knows no more.
                await asyncio.sleep(PAUSE_AFTER_REFUSAL_S)

    async def keep_making_keys(self, bus: Bus) -> None:
        """One account with a key after another, as `callboard keys create` makes them."""
        accounts = Accounts.on(bus)
        while True:
            try:
                _, key = await accounts.create("made before the cut", "standard", None)
            except BusError:
                return
            self.told.keys.append(key)
            await asyncio.sleep(self._chance.uniform(0.0, 0.2))


def session() -> aiohttp.ClientSession:
    """A session for all callers."""
    connector: Any = aiohttp.TCPConnector(limit=200)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(ANSWER_TIMEOUT_S))

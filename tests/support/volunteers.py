"""Volunteers as their real programs behave: what they send, in which order, and how they react to answers."""

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp

POP = "/api/v2/generate/text/pop"
SUBMIT = "/api/v2/generate/text/submit"
PROGRESS = "/api/v2/generate/text/progress"
IDLE_S = 1.0
"""How long both programs sleep after a pop without a job, at first."""

Write = Callable[[dict[str, Any]], str | None]


class Volunteer:
    """One loop of a worker with a key; `write` makes a text of a payload, None for a failure."""

    def __init__(self, url: str, key: str, session: aiohttp.ClientSession, name: str, **offer: Any) -> None:
        self.url = url
        self.headers = {"apikey": key}
        self.session = session
        self.offer: dict[str, Any] = {"name": name, "models": ["owl-7b"], "max_length": 80, "max_context_length": 1024}
        self.offer |= offer
        self.rewards: list[float] = []

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        """Posts JSON, and returns the status and the JSON of the answer."""
        given = {**self.headers, **headers}
        async with self.session.post(self.url + path, json=body, headers=given) as answer:
            return answer.status, await answer.json()

    async def pop(self, wait_s: float = 0.0, **over: Any) -> dict[str, Any]:
        """The answer to one pop."""
        status, answer = await self.post(POP, {**self.offer, **over}, **({"X-Wait": str(wait_s)} if wait_s else {}))
        assert status == 200, answer
        return answer

    async def job(self, wait_s: float = 20.0) -> dict[str, Any]:
        """The next job, for which it waits."""
        answer = await self.pop(wait_s)
        assert answer["id"] is not None, answer
        return answer

    async def submit(self, job_id: str, text: str | None, **over: Any) -> tuple[int, Any]:
        """The answer to one submit."""
        return await self.post(SUBMIT, {"id": job_id, "generation": text, **over})

    async def progress(self, job_id: str, **piece: str) -> tuple[int, Any]:
        """The answer to one piece of a text."""
        return await self.post(PROGRESS, {"id": job_id, **piece})


async def horde_worker(volunteer: Volunteer, write: Write, texts: int) -> None:
    """`bridge_scribe.py` of AI-Horde-Worker, until it has submitted so many texts."""
    async with volunteer.session.get(volunteer.url + "/api/v2/find_user", headers=volunteer.headers) as answer:
        assert "#" in (await answer.json())["username"]
    offer = {"priority_usernames": [], "softprompts": [], "threads": 1, "bridge_agent": "AI Horde Worker:24:test"}
    while len(volunteer.rewards) < texts:
        status, answer = await volunteer.post(POP, {**volunteer.offer, **offer})
        if status >= 400:
            # Without a message the program ends.
            assert isinstance(answer["message"], str)
            await asyncio.sleep(2)
            continue
        if not answer["id"]:
            assert isinstance(answer["skipped"], dict)
            await asyncio.sleep(IDLE_S)
            continue
        payload = answer["payload"]
        assert payload["max_length"] <= volunteer.offer["max_length"]
        assert payload["max_context_length"] <= volunteer.offer["max_context_length"]
        text = write({**payload, "quiet": True})
        body = {"id": answer["id"], "generation": text, "seed": 0}
        if text is None:
            body = {"id": answer["id"], "generation": "faulted", "state": "faulted", "seed": -1}
        status, answer = await volunteer.post(SUBMIT, body)
        assert status == 200, answer
        volunteer.rewards.append(answer["reward"] + 0)


async def koboldcpp_worker(volunteer: Volunteer, write: Write, texts: int) -> None:
    """The worker that is built into KoboldCpp, until it has submitted so many texts; every error ends it here."""
    agent = {"Client-Agent": "KoboldCppEmbedWorker:2", "User-Agent": "KoboldCppEmbeddedWorkerV2"}
    offer = {"priority_usernames": [], "softprompts": [], "bridge_agent": "KoboldCppEmbedWorker:2:https://example.org"}
    while len(volunteer.rewards) < texts:
        status, answer = await volunteer.post(POP, {**volunteer.offer, **offer}, **agent)
        assert status == 200, answer
        # The program indexes the key whether there is a job or not.
        if not answer["id"]:
            await asyncio.sleep(IDLE_S)
            continue
        text = write(answer["payload"])
        if text is None:
            # It gives the job up and tells nobody.
            continue
        body = {"id": answer["id"], "generation": text, "state": "ok"}
        status, answer = await volunteer.post(SUBMIT, body, **agent)
        assert status == 200, answer
        volunteer.rewards.append(answer["reward"] + 0)

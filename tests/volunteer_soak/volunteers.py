"""Volunteers of all manners."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.support.volunteers import POP, PROGRESS, SUBMIT
from tests.volunteer_soak.http import Edges, NoAnswer
from tests.volunteer_soak.texts import LIE, Asked, asked

Manner = Literal["honest", "slow", "faulting", "silent", "dying", "twice", "empty", "repeated", "hasty"]
MANNERS: dict[Manner, int] = {
    "honest": 148,
    "slow": 14,
    "faulting": 8,
    "silent": 5,
    "dying": 8,
    "twice": 8,
    "empty": 3,
    "repeated": 3,
    "hasty": 3,
}
"""How many of two hundred have each; honest ones and those that submit twice earn, and the others annoy."""
WRITING_S = {"slow": (7.0, 12.0)}
USUAL_WRITING_S = (1.5, 7.5)
PROGRESS_PIECES = 4
LONG_POLL_S = 20.0
IDLE_S = 2.0
REFUSED_S = 5.0
DEAD_S = 12.0
SUBMIT_TRIES = 10


@dataclass(frozen=True, slots=True)
class Offer:
    """One loop of a volunteer's program; several loops may have one name."""

    name: str
    key: str
    manner: Manner
    models: tuple[str, ...]
    long_polling: bool
    tells: bool
    amount: int = 1


@dataclass
class Told:
    """What volunteers were told, all together."""

    pops: int = 0
    jobs: int = 0
    rewards: dict[str, float] = field(default_factory=dict[str, float])
    """By job, in kudos; told once for each."""
    twice: list[str] = field(default_factory=list[str])
    """Jobs whose text was taken twice."""
    answers: Counter[str] = field(default_factory=Counter[str])
    finished_at: dict[int, float] = field(default_factory=dict[int, float])
    """When the last text of a request was taken, by its number."""
    faults: list[str] = field(default_factory=list[str])


class Volunteer:
    """One loop: pops, writes, submits, as its manner is."""

    def __init__(self, offer: Offer, edges: Edges, told: Told, dice: random.Random) -> None:
        self._offer = offer
        self._edges = edges
        self._told = told
        self._dice = dice
        self._headers = {"apikey": offer.key}
        self._body: dict[str, Any] = {
            "name": offer.name,
            "models": list(offer.models),
            "max_length": 80,
            "max_context_length": 2048,
            "amount": offer.amount,
            "bridge_agent": "AI Horde Worker:24:soak",
        }

    async def run(self) -> None:
        """Goes on until it is cancelled."""
        headers = self._headers | ({"X-Wait": f"{LONG_POLL_S:g}"} if self._offer.long_polling else {})
        while True:
            try:
                status, answer = await self._edges.once("POST", POP, self._body, headers)
            except NoAnswer:
                await asyncio.sleep(self._dice.uniform(0.5, 1.5))
                continue
            self._told.pops += 1
            if status != 200:
                self._told.answers[f"pop {status} {answer.get('rc')}"] += 1
                await asyncio.sleep(REFUSED_S * self._dice.uniform(0.5, 1.5))
                continue
            if answer["id"] is None:
                await asyncio.sleep(0.05 if self._offer.long_polling else IDLE_S * self._dice.uniform(0.7, 1.3))
                continue
            self._told.jobs += len(answer["ids"])
            for job_id in answer["ids"]:
                await self._work(job_id, asked(answer["payload"]["prompt"]))

    async def _work(self, job_id: str, job: Asked) -> None:
        manner = self._offer.manner
        writing_s = self._dice.uniform(*WRITING_S.get(manner, USUAL_WRITING_S))
        match manner:
            case "honest" | "slow" | "twice":
                if await self._write(job_id, job, writing_s):
                    await self._submit(job_id, job.number, job.rest)
                    if manner == "twice":
                        await self._submit(job_id, job.number, job.rest)
            case "faulting":
                await asyncio.sleep(writing_s)
                body = {"id": job_id, "generation": self._dice.choice(("faulted", None)), "state": "faulted"}
                await self._post_submit(body)
            case "silent":
                await asyncio.sleep(writing_s)
            case "dying":
                if self._offer.tells:
                    await self._progress(job_id, job.rest[: len(job.rest) // 2])
                await asyncio.sleep(DEAD_S)
            case "empty":
                await asyncio.sleep(writing_s)
                await self._submit(job_id, job.number, "")
            case "repeated":
                await asyncio.sleep(writing_s)
                await self._submit(job_id, job.number, LIE)
            case "hasty":
                await self._submit(job_id, job.number, LIE * 6)

    async def _write(self, job_id: str, job: Asked, writing_s: float) -> bool:
        """Takes its time, and tells of it where the program does; False where the job is no longer its own."""
        if not self._offer.tells:
            await asyncio.sleep(writing_s)
            return True
        for piece in range(1, PROGRESS_PIECES):
            await asyncio.sleep(writing_s / PROGRESS_PIECES)
            if await self._progress(job_id, job.rest[: len(job.rest) * piece // PROGRESS_PIECES]) == 400:
                return False
        await asyncio.sleep(writing_s / PROGRESS_PIECES)
        return True

    async def _progress(self, job_id: str, text: str) -> int:
        try:
            status, answer = await self._edges.once("POST", PROGRESS, {"id": job_id, "text": text}, self._headers)
        except NoAnswer:
            return 0
        self._told.answers[f"progress {status} {answer.get('rc', '')}"] += 1
        return status

    async def _submit(self, job_id: str, number: int, text: str) -> None:
        answer = await self._post_submit({"id": job_id, "generation": text, "state": "ok"})
        if answer is None:
            return
        if job_id in self._told.rewards:
            self._told.twice.append(job_id)
        self._told.rewards[job_id] = answer["reward"]
        self._told.finished_at[number] = asyncio.get_running_loop().time()

    async def _post_submit(self, body: dict[str, Any]) -> Any:
        """What a text was answered with once it was taken; None where it was refused, or nobody answered."""
        for _ in range(SUBMIT_TRIES):
            try:
                status, answer = await self._edges.once("POST", SUBMIT, body, self._headers)
            except NoAnswer:
                await asyncio.sleep(self._dice.uniform(0.5, 1.5))
                continue
            self._told.answers[f"submit {status} {answer.get('rc', '')}"] += 1
            if status == 200:
                return answer
            if status < 500:
                return None
            await asyncio.sleep(self._dice.uniform(1.0, 2.0))
        self._told.answers["submit given up"] += 1
        return None

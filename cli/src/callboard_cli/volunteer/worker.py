"""A volunteer at work: pops a job, has the engine write it, tells how far it is, submits, and pops the next.

It reacts to what goes wrong as the Horde's own worker does. A Callboard, which names itself in every answer, is asked
with a long wait and is told the text while it is written.
"""

import asyncio
import math
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from callboard_cli.volunteer.engines import Engine, until_stop, without_tags
from callboard_cli.volunteer.errors import EngineAway, EngineFailed
from callboard_cli.volunteer.server import Answer, HordeServer, NoJson, ServerAway, ServerSilent

ENGINE_TRIES = 5
SUBMIT_TRIES = 10
FAULTS_IN_A_ROW = 5
"""After so many failed jobs no more are asked for until the engine answers again."""
DEFAULT_TTL_S = 150.0
HAND_BACK_S = 2.0
"""How long a volunteer that ends at once takes to hand its jobs back."""
SUBMIT_MARGIN_S = 5.0
"""So much before its time is over a job is handed in as it is, or given up."""
DEFAULT_LENGTH = 80
DEFAULT_CONTEXT_TOKENS = 2048
CHARACTERS_PER_TOKEN = 16
"""No text of so many tokens is longer."""
FATAL = {"InvalidAPIKey", "AnonForbiddenWorker", "WrongCredentials", "PolymorphicNameConflict"}
"""Refusals that no waiting changes."""
MAINTENANCE = {"WorkerMaintenance", "WorkerFlaggedMaintenance", "MaintenanceMode"}
GONE = {400, 401, 403, 404, 410}
"""The answers to progress that say that the job is no longer this worker's."""

Say = Callable[[str], None]


class Refused(Exception):  # noqa: N818 - the server's decision
    """The server takes no work from this volunteer; the message says why."""


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How long is waited, in seconds, by the reactions of the Horde's own worker."""

    no_job_s: float = 1.0
    server_away_s: float = 10.0
    server_error_s: float = 2.0
    maintenance_s: float = 60.0
    engine_away_s: float = 3.0
    engine_check_s: float = 10.0
    submit_away_s: float = 10.0
    submit_error_s: float = 2.0
    submit_no_json_s: float = 1.0
    progress_s: float = 0.1


@dataclass(frozen=True, slots=True)
class Offer:
    """What a volunteer offers; `models` are the engine's by the names that the server is told."""

    name: str
    models: dict[str, str]
    max_length: int
    max_context_length: int
    threads: int
    agent: str
    nsfw: bool = True
    priority_usernames: tuple[str, ...] = ()

    def engine_model(self, model: Any) -> str:
        """The engine's model for a job; where there is but one, a job need not name it. Raises KeyError."""
        if model is None and len(self.models) == 1:
            return next(iter(self.models.values()))
        return self.models[str(model)]

    def body(self) -> dict[str, Any]:
        """The offer as a pop says it."""
        return {
            "name": self.name,
            "models": list(self.models),
            "max_length": self.max_length,
            "max_context_length": self.max_context_length,
            "priority_usernames": list(self.priority_usernames),
            "softprompts": [],
            "nsfw": self.nsfw,
            "threads": self.threads,
            "amount": 1,
            "bridge_agent": self.agent,
        }


@dataclass(slots=True)
class Tally:
    """What a volunteer has done so far."""

    done: int = 0
    faulted: int = 0
    dropped: int = 0
    kudos: float = 0.0
    faults_in_a_row: int = 0
    told: set[str] = field(default_factory=set[str])
    """The notes of the server's operators that were shown already."""


@dataclass(slots=True)
class _Text:
    """A text that grows; `lost` says that the job went to somebody else."""

    said: str = ""
    grown: asyncio.Event = field(default_factory=asyncio.Event)
    lost: bool = False

    def add(self, piece: str) -> None:
        self.said += piece
        self.grown.set()


class Volunteer:
    """Works in several loops under one name until `stop` is set; jobs that run are then finished.

    Cancelled, it hands them back.
    """

    def __init__(
        self, server: HordeServer, engine: Engine, offer: Offer, say: Say, rhythm: Rhythm | None = None
    ) -> None:
        self._server = server
        self._engine = engine
        self._offer = offer
        self._say = say
        self._rhythm = rhythm or Rhythm()
        self._stop = asyncio.Event()
        self.tally = Tally()

    def stop(self) -> None:
        """Asks for no more jobs, and ends once those that run are handed in."""
        self._stop.set()

    async def run(self) -> None:
        """Works until stopped; raises Refused where the server takes no work from this volunteer at all."""
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self._offer.threads):
                    group.create_task(self._loop(), name=f"volunteer-{number}")
        except ExceptionGroup as failures:
            refused, others = failures.split(Refused)
            if others is not None or refused is None:
                raise
            error: BaseException = refused
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            raise error from None

    async def _loop(self) -> None:
        while not self._stop.is_set():
            if self.tally.faults_in_a_row >= FAULTS_IN_A_ROW and not await self._engine_answers():
                await self._pause(self._rhythm.engine_check_s)
                continue
            popped = await self._unless_stopped(self._pop())
            if popped is not None:
                await self._work(popped)

    async def _engine_answers(self) -> bool:
        try:
            await self._engine.models()
        except EngineFailed as error:
            self._say(f"no jobs are asked for: {error}")
            return False
        self.tally.faults_in_a_row = 0
        return True

    async def _pop(self) -> dict[str, Any] | None:
        """A job, or None after the wait that is due."""
        rhythm, clock = self._rhythm, asyncio.get_running_loop().time
        asked_at, waits = clock(), self._server.is_callboard
        try:
            answer = await self._server.pop(self._offer.body())
        except ServerAway:
            self._say("the server cannot be reached")
            await self._pause(rhythm.server_away_s)
            return None
        except (ServerSilent, NoJson):
            self._say("the server gave no answer to a pop")
            await self._pause(rhythm.server_error_s)
            return None
        if not answer.ok:
            await self._refused(answer)
            return None
        for note in answer.body.get("messages") or ():
            self._tell(note)
        if isinstance(answer.body.get("id"), str):
            return answer.body
        # A server that waited itself is asked again at once.
        if not waits or clock() - asked_at < rhythm.no_job_s:
            await self._pause(rhythm.no_job_s)
        return None

    async def _refused(self, answer: Answer) -> None:
        if answer.rc in FATAL:
            raise Refused(answer.message)
        if answer.rc in MAINTENANCE:
            self._say(f"in maintenance: {answer.message}")
            await self._pause(self._rhythm.maintenance_s)
            return
        self._say(f"pop refused: {answer.message}")
        await self._pause(max(self._rhythm.server_error_s, answer.retry_after_s or 0.0))

    def _tell(self, note: Any) -> None:
        text = " ".join(str(note.get("message", "") if isinstance(note, dict) else note).split())[:500]
        if text and text not in self.tally.told and len(self.tally.told) < 100:
            self.tally.told.add(text)
            self._say(f"note of the server: {text}")

    async def _work(self, job: dict[str, Any]) -> None:
        """Does a job and hands it in; what fails is handed in as a fault, so that it goes to somebody else at once."""
        job_id, began_at = str(job["id"]), asyncio.get_running_loop().time()
        text = _Text()
        try:
            model = self._offer.engine_model(job.get("model"))
            payload = _payload(job.get("payload"))
            payload = payload if self._engine.replaces_tags else without_tags(payload)
        except (KeyError, TypeError):
            self._say(f"job {job_id}: it cannot be done here")
            await self._submit(job_id, None)
            return
        try:
            async with asyncio.timeout(max(1.0, _ttl_s(job) - SUBMIT_MARGIN_S)):
                await self._written(job_id, model, payload, text)
        except asyncio.CancelledError:
            await self._hand_back(job_id)
            raise
        except TimeoutError:
            self._say(f"job {job_id}: its time is over")
            await self._submit(job_id, None)
            return
        except EngineFailed as error:
            self._say(f"job {job_id}: {error}")
            await self._submit(job_id, None)
            return
        if text.lost:
            self.tally.dropped += 1
            self._say(f"job {job_id}: it is no longer ours")
            return
        seconds = asyncio.get_running_loop().time() - began_at
        if await self._submit(job_id, text.said):
            self._say(
                f"job {job_id}: {len(text.said)} characters in {seconds:.1f} s, {self.tally.kudos:g} kudos in all"
            )

    async def _written(self, job_id: str, model: str, payload: dict[str, Any], text: _Text) -> None:
        """Has the engine write a text, and tells a Callboard how far it is; raises EngineFailed."""
        reporting: asyncio.Task[None] | None = None
        if self._server.is_callboard:
            reporting = asyncio.create_task(self._report(job_id, text), name=f"progress-{job_id}")
        try:
            for tried in range(1, ENGINE_TRIES + 1):
                try:
                    await self._stream(model, payload, text)
                except EngineAway:
                    if text.said or tried == ENGINE_TRIES:
                        raise
                    await asyncio.sleep(self._rhythm.engine_away_s)
                else:
                    return
        finally:
            if reporting is not None:
                reporting.cancel()
                await asyncio.gather(reporting, return_exceptions=True)

    async def _stream(self, model: str, payload: dict[str, Any], text: _Text) -> None:
        most = payload["max_length"] * CHARACTERS_PER_TOKEN
        pieces = until_stop(self._engine.stream(model, payload), payload["stop_sequence"], most)
        async with aclosing(pieces) as found:
            async for piece in found:
                if text.lost:
                    return
                text.add(piece)

    async def _report(self, job_id: str, text: _Text) -> None:
        """Tells the text as it grows, the first of it at once; what goes wrong only makes the client wait longer."""
        while True:
            await text.grown.wait()
            text.grown.clear()
            try:
                answer = await self._server.progress(job_id, text.said)
            except (ServerAway, ServerSilent, NoJson):
                await asyncio.sleep(self._rhythm.server_error_s)
                continue
            if answer.status in GONE:
                text.lost = True
                return
            await asyncio.sleep(max(self._rhythm.progress_s, answer.retry_after_s or 0.0))

    async def _hand_back(self, job_id: str) -> None:
        """Gives a job up in the short time that is left, so that nobody waits until its own is over."""
        try:
            async with asyncio.timeout(HAND_BACK_S):
                await self._submit(job_id, None)
        except TimeoutError:
            self._say(f"job {job_id}: it could not be handed back")
        else:
            self._say(f"job {job_id}: handed back")

    async def _submit(self, job_id: str, said: str | None) -> bool:
        """Hands a text in, or a fault where there is none; returns whether a text was taken."""
        body: dict[str, Any] = {"id": job_id, "generation": said, "state": "ok", "seed": 0}
        if said is None:
            self._faulted()
            body |= {"generation": "faulted", "state": "faulted", "seed": -1}
        rhythm = self._rhythm
        for _ in range(SUBMIT_TRIES):
            try:
                answer = await self._server.submit(body)
            except NoJson:
                await asyncio.sleep(rhythm.submit_no_json_s)
                continue
            except (ServerAway, ServerSilent):
                await asyncio.sleep(rhythm.submit_away_s)
                continue
            if answer.ok:
                reward = answer.body.get("reward")
                if said is None:
                    return False
                self.tally.done += 1
                self.tally.faults_in_a_row = 0
                is_number = isinstance(reward, int | float) and math.isfinite(reward)
                self.tally.kudos += float(reward) if is_number and reward is not None else 0.0
                return True
            if answer.status in {400, 401, 403, 404}:
                self._say(f"job {job_id}: {answer.message}")
                if said is not None:
                    self._faulted()
                return False
            await asyncio.sleep(max(rhythm.submit_error_s, answer.retry_after_s or 0.0))
        self._say(f"job {job_id}: the server took it in {SUBMIT_TRIES} tries not once")
        self.tally.dropped += 1
        return False

    def _faulted(self) -> None:
        self.tally.faulted += 1
        self.tally.faults_in_a_row += 1

    async def _pause(self, seconds: float) -> None:
        await self._unless_stopped(asyncio.sleep(seconds))

    async def _unless_stopped(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What the work returns, or None once the volunteer is told to stop, which ends the work."""
        task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            for one in (task, stopped):
                one.cancel()
            await asyncio.gather(task, stopped, return_exceptions=True)


def _payload(payload: Any) -> dict[str, Any]:
    """What a job asks for, with the lengths that the Horde's own servers may leave out; raises TypeError."""
    if not isinstance(payload, dict) or not isinstance(payload.get("prompt"), str):
        raise TypeError("no prompt")
    stops = payload.get("stop_sequence")
    known = {
        **payload,
        "max_length": _length(payload.get("max_length"), DEFAULT_LENGTH),
        "max_context_length": _length(payload.get("max_context_length"), DEFAULT_CONTEXT_TOKENS),
        "stop_sequence": [stop for stop in stops if isinstance(stop, str) and stop] if isinstance(stops, list) else [],
    }
    return {name: value for name, value in known.items() if value is not None}


def _length(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) and value > 0 else otherwise


def _ttl_s(job: dict[str, Any]) -> float:
    ttl = job.get("ttl")
    return float(ttl) if isinstance(ttl, int | float) and math.isfinite(ttl) and ttl > 0 else DEFAULT_TTL_S

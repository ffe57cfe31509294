"""Ordinary clients as a process of their own: one for each way to ask, one request after the other, for ever.

Each request and each tick of a clock is a line of JSON. The clock shows how slow the machine itself is.
"""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import aiohttp

from tests.hostile.schemas import of_property
from tests.hostile.site import Reply, problem_of
from tests.hostile.targets import SCHEMA_CARRIERS, ordinary, ordinary_dialects
from tests.protocols.client import Client
from tests.protocols.dialect import Dialect, Request

PAUSE_S = 0.2
TICK_S = 0.1
TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True)
class Wait:
    """One request: when it began, how long it took, and what was wrong with its answer."""

    kind: str
    began_s: float
    took_s: float
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """How long a piece of work took the machine, and how late it woke a sleeper, in seconds."""

    at_s: float
    work_s: float
    late_s: float


async def ask(session: aiohttp.ClientSession, url: str, key: str, dialect: Dialect, request: Request) -> str | None:
    """Asks once, and returns what was wrong."""
    try:
        answer = await Client(session, url, dialect, key).ask(request)
    except (aiohttp.ClientError, TimeoutError) as error:
        return repr(error)
    problem = problem_of(dialect, Reply(answer.status, answer.headers, answer.body), busy_allowed=False)
    if problem or (answer.status == 200 and not answer.cut):
        return problem
    return f"{answer.status} {answer.body[:300]!r}"


async def go_on(
    session: aiohttp.ClientSession, url: str, key: str, kind: str, dialect: Dialect, requests: Iterator[Request]
) -> None:
    """Asks one request after the other."""
    for request in requests:
        began_s = time.monotonic()
        problem = await ask(session, url, key, dialect, request)
        show(Wait(kind, began_s, time.monotonic() - began_s, problem))
        await asyncio.sleep(PAUSE_S)


async def tick() -> None:
    """Measures the machine."""
    while True:
        begun_s = time.monotonic()
        sum(range(200_000))
        worked_s = time.monotonic()
        await asyncio.sleep(TICK_S)
        show(Tick(begun_s, worked_s - begun_s, time.monotonic() - worked_s - TICK_S))


def show(row: Wait | Tick) -> None:
    """Writes a line."""
    sys.stdout.write(json.dumps(asdict(row)) + "\n")
    sys.stdout.flush()


def kind_of(dialect: Dialect) -> str:
    """The name of a way to ask; one dialect may be spoken on several paths."""
    return f"{type(dialect).__name__} {dialect.path}"


async def main(url: str, key: str, speech: str) -> None:
    """Runs until the process is killed."""
    timeout = aiohttp.ClientTimeout(TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
        group.create_task(tick())
        for dialect in ordinary_dialects(speech=bool(speech)):
            requests = itertools.repeat(ordinary(dialect, stream=True))
            group.create_task(go_on(session, url, key, kind_of(dialect), dialect, requests))
        for carrier in SCHEMA_CARRIERS[:1]:
            # A schema that was not seen before is checked anew.
            fresh = (carrier.request(of_property({"const": f"{time.time_ns()}"[-6:]})) for _ in itertools.count())
            kind = f"schema {kind_of(carrier.dialect)}"
            group.create_task(go_on(session, url, key, kind, carrier.dialect, fresh))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

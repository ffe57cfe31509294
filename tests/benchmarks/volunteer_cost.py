"""What volunteers cost: pops a second, matching among many waiting jobs, and the way of a first token."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import openai

from callboard_chat.domain.volunteer_matching import WaitingJob, WaitingJobs
from callboard_contracts.volunteer_conditions import Conditions
from callboard_contracts.volunteers import VolunteerOffer
from tests.benchmarks.figures import Figure, percentile
from tests.benchmarks.pop_load import PopPlan, PopSamples
from tests.support.deployment import Deployment
from tests.support.processes import Table
from tests.support.volunteers import Volunteer

MODEL, FIRST_MODEL = "owl-7b", "wren-1b"
"""What the many offer, and the volunteer of the first tokens, which so gets no job that the many have left."""
POPS_PER_S = 500.0
JOBS_PER_S = 20.0
KEYS = 10
VOLUNTEERS = 200
RUN_TIMEOUT_S = 120.0
POP_P99_MS = 100.0
MATCHING_RATIO = 3.0
FIRST_TOKEN_MS = 50.0
POLL_S = 0.2
FEW, MANY = 100, 10_000
NOTES = f"""\
{VOLUNTEERS} volunteers pop at one edge, evenly and {POPS_PER_S:g} times a second together; each pop is timed from when
it was due. With jobs, {JOBS_PER_S:g} requests a second come as well, whose texts are submitted at once. There are one
edge, one chat worker and one quota process, and kudos are counted. The processor time is that of each process for one
pop, with all that belongs to it.
Matching is one take among {FEW} and among {MANY:,} waiting requests of all lengths, and the bar is a ratio that leaves
room for a busy machine. The first token is that of `/v1/chat/completions`: from the request on where the volunteer
waits with `X-Wait`, and from the poll that fetched the job on where it polls every {POLL_S:g} s. The volunteer tells
its first word at once.
"""
_CONFIG: Table = {
    "chat": {"pools": {"volunteers": {"backend": "volunteers"}}},
    "horde": {
        "submits_per_s": 0,
        "submits_per_minute": 0,
        "polls_per_minute": 0,
        "others_per_minute": 0,
        "worker_calls_per_s": 0,
    },
    "kudos": {"enabled": True},
    "quota": {"tiers": {"anonymous": {}, "standard": {}}},
}


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured."""

    duration_s: float = 20.0
    tokens: int = 60


QUICK = Effort(duration_s=5.0, tokens=15)


def measure(folder: Path, *, quick: bool) -> list[Figure]:
    """Starts a set of one edge, one chat worker and one quota process, measures it, and stops it."""
    effort = QUICK if quick else Effort()
    deployment = Deployment(folder / "volunteers", _CONFIG, log_level="info")
    try:
        deployment.start(speakers=0)
        # The volunteer of the first tokens has an owner of its own, as the others have as many as they may.
        owner, *keys = [deployment.create_key("standard") for _ in range(KEYS + 1)]
        figures = _pops(deployment, keys, effort, "idle volunteers", 0.0)
        figures += _pops(deployment, keys, effort, f"{JOBS_PER_S:g} jobs a second", JOBS_PER_S)
        figures += _matching()
        figures += asyncio.run(_first_tokens(deployment, owner, effort.tokens))
        deployment.stop()
        return figures
    finally:
        deployment.abandon()


def _pops(deployment: Deployment, keys: Sequence[str], effort: Effort, what: str, jobs_per_s: float) -> list[Figure]:
    plan = PopPlan(
        port=deployment.edges[0].config["edge"]["port"],
        keys=list(keys),
        volunteers=VOLUNTEERS,
        pops_per_s=POPS_PER_S,
        jobs_per_s=jobs_per_s,
        duration_s=effort.duration_s,
        model=MODEL,
        samples_file=deployment.folder / "pops.json",
    )
    # The first pop of each volunteer writes its record.
    _run(plan.model_copy(update={"duration_s": 2.0, "jobs_per_s": 0.0}))
    nats = deployment.nats.child
    processes = {
        "the edge": deployment.edges[0].running,
        "the chat worker": deployment.chats[0].running,
        "quota": deployment.quotas[0].running,
        **({"nats-server": nats} if nats is not None else {}),
    }
    before = {name: process.cpu_s for name, process in processes.items()}
    samples = _run(plan)
    for bad in samples.bad[:3]:
        sys.stderr.write(f"{bad}\n")
    if jobs_per_s and samples.jobs < samples.asked * 0.9:
        raise RuntimeError(f"{samples.jobs} of {samples.asked} jobs were popped")
    pops = len(samples.pops_ms)
    figures = [
        Figure(f"pops, {what}: p50", percentile(samples.pops_ms, 0.5), "ms"),
        Figure(f"pops, {what}: p99", percentile(samples.pops_ms, 0.99), "ms", POP_P99_MS),
        Figure(f"pops, {what}: refused or not answered", len(samples.bad), "", 0),
    ]
    if samples.submits_ms:
        figures.append(Figure(f"submits, {what}: p99", percentile(samples.submits_ms, 0.99), "ms"))
    return figures + [
        Figure(f"pops, {what}: processor time of {name}", (process.cpu_s - before[name]) / pops * 1e6, "us")
        for name, process in processes.items()
    ]


def _run(plan: PopPlan) -> PopSamples:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.pop_load", plan.model_dump_json()],
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the load generator failed: {done.stderr[-2000:]}")
    return PopSamples.model_validate_json(plan.samples_file.read_text(encoding="utf-8"))


def _matching() -> list[Figure]:
    few, many = _take_us(FEW), _take_us(MANY)
    return [
        Figure(f"matching among {FEW} waiting jobs", few, "us"),
        Figure(f"matching among {MANY:,} waiting jobs", many, "us", few * MATCHING_RATIO),
    ]


def _take_us(count: int) -> float:
    jobs = WaitingJobs()
    for n in range(count):
        lengths = Conditions(16 + 7 * n % 480, 80 + 37 * n % 8000)
        jobs.add(WaitingJob(lengths, (f"m{n % 4}",), "An owl", float(n), f"k_{n % 500}"))
    offer = VolunteerOffer(
        worker_id="w", worker_name="barn", account="k_own", models=("m1",), max_length=400, max_context_length=4096
    )
    best = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(50):
            taken = jobs.take(offer, 1e6)
            assert taken is not None
            jobs.add(taken)
        best = min(best, (time.perf_counter() - began) / 50)
    return best * 1e6


async def _first_tokens(deployment: Deployment, key: str, count: int) -> list[Figure]:
    waiting: list[float] = []
    polling: list[float] = []
    async with (
        aiohttp.ClientSession() as session,
        openai.AsyncOpenAI(base_url=deployment.base_url, api_key=key, max_retries=0) as client,
    ):
        volunteer = Volunteer(deployment.root_url(), key, session, "first", max_length=512, max_context_length=4096)
        volunteer.offer["models"] = [FIRST_MODEL]
        async with asyncio.timeout(30):
            while FIRST_MODEL not in [one.id async for one in client.models.list()]:
                await volunteer.pop()
                await asyncio.sleep(POLL_S)
        for number in range(count):
            # Both kinds in turn, so that they see the same machine.
            for long, kept in ((True, waiting), (False, polling)):
                wrote = asyncio.create_task(_write(volunteer, long=long))
                await asyncio.sleep(0.02)
                sent, first = await _ask(client, f"Tell me of owl {number}.")
                polled = await wrote
                kept.append((first - (sent if long else max(sent, polled))) * 1000)
    return [
        Figure("first token, a volunteer that waits: p50", percentile(waiting, 0.5), "ms", FIRST_TOKEN_MS),
        Figure("first token, a volunteer that waits: p95", percentile(waiting, 0.95), "ms"),
        Figure("first token after the poll that fetched the job: p50", percentile(polling, 0.5), "ms", FIRST_TOKEN_MS),
        Figure("first token after the poll that fetched the job: p95", percentile(polling, 0.95), "ms"),
    ]


async def _write(volunteer: Volunteer, *, long: bool) -> float:
    """Fetches one job, tells a word and submits; returns when the poll that fetched it was sent."""
    clock = time.perf_counter
    async with asyncio.timeout(30):
        while True:
            polled = clock()
            answer = await volunteer.pop(20.0 if long else 0.0)
            if answer["id"] is not None:
                break
            await asyncio.sleep(0 if long else POLL_S)
        assert (await volunteer.progress(answer["id"], text="Once"))[0] == 200
        assert (await volunteer.submit(answer["id"], f"Once upon a time, {polled}."))[0] == 200
    return polled


async def _ask(client: openai.AsyncOpenAI, prompt: str) -> tuple[float, float]:
    """When a streamed request was sent, and when its first text came."""
    messages: Any = [{"role": "user", "content": prompt}]
    sent, first = time.perf_counter(), 0.0
    async with asyncio.timeout(30):
        stream = await client.chat.completions.create(model=FIRST_MODEL, messages=messages, stream=True, max_tokens=60)
        async for chunk in stream:
            if not first and chunk.choices and chunk.choices[0].delta.content:
                first = time.perf_counter()
    assert first
    return sent, first

"""What Callboard adds to a chat engine: time to the first token, streams a second, memory, and where the time goes."""

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from tests.benchmarks.figures import Figure, percentile, table_of
from tests.benchmarks.load import Plan, Target, Timing, plan_text
from tests.benchmarks.mock_engine import MODEL
from tests.benchmarks.round_trip import round_trips_us
from tests.benchmarks.stages import Taps, stage_rows
from tests.support.children import Child, wait_until
from tests.support.deployment import Deployment
from tests.support.nats_server import Sync
from tests.support.ports import free_port
from tests.support.processes import Table

NS_PER_MS = 1_000_000
RUN_TIMEOUT_S = 300.0
TURNS = 10
ADDED_P50_MS = 2.0
ADDED_P99_MS = 6.0
ADDED_ROUND_TRIPS = 5.0
ADDED_P99_TIMES_P50 = 3.0
STREAMS_A_SECOND = 400.0
EDGE_MIB = 120.0
CHAT_MIB = 120.0
QUOTA_MIB = 90.0


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured."""

    pairs: int = 1_000
    warm_up: int = 60
    flood_s: float = 8.0
    staged: int = 300


@dataclass(frozen=True, slots=True)
class ChatCost:
    """What was measured."""

    figures: list[Figure]
    stages: list[str]
    shares: list[str]


def bench_config(engine_port: int) -> Table:
    """One pool over the mock engine, with daily limits for the key and for the address."""
    ample = {"tokens_per_day": 10**12}
    return {
        "chat": {
            "pools": {"main": {"backend": "openai", "url": f"http://127.0.0.1:{engine_port}/v1", "slots": 32}},
            "models": {MODEL: {"pool": "main"}},
        },
        "quota": {
            "address_tier": "address",
            "tiers": {"anonymous": {}, "standard": ample, "address": ample},
        },
    }


def measure(folder: Path, effort: Effort, sync: Sync) -> ChatCost:
    """Starts a set of one edge, one chat worker and one quota process, measures it, and stops it."""
    with _mock_engine(folder) as direct, _deployment(folder / "deployment", direct, sync) as (deployment, through):
        return _measure(deployment, direct, through, effort)


def synced_times_default(folder: Path, effort: Effort) -> float:
    """How many times as long the added time to the first token is, at the median, where each process syncs the store.

    Both sets run side by side and are measured in turn, since the machine's speed changes within minutes.
    """
    with (
        _mock_engine(folder) as direct,
        _deployment(folder / "default", direct, "default") as (_, default),
        _deployment(folder / "processes", direct, "processes") as (_, synced),
    ):
        alone: dict[Target, list[Timing]] = {default: [], synced: []}
        through: dict[Target, list[Timing]] = {default: [], synced: []}
        for _turn in range(TURNS):
            for target in alone:
                plan = Plan("pairs", (direct, target), samples=effort.pairs // TURNS, warm_up=effort.warm_up // 4)
                for kept, timed in zip((alone[target], through[target]), run(plan), strict=True):
                    kept += timed
    added = {target: _first_token_p50_ms(through[target]) - _first_token_p50_ms(alone[target]) for target in alone}
    return added[synced] / added[default]


@contextmanager
def _mock_engine(folder: Path) -> Generator[Target]:
    """A mock engine, as a target that is asked without Callboard."""
    port = free_port()
    engine = Child([sys.executable, "-m", "tests.benchmarks.mock_engine", str(port)], folder / "engine.log")
    try:
        wait_until(lambda: arrivals_at(port) is not None, 10, "the mock engine listens")
        yield Target(port, MODEL, "none")
    finally:
        engine.kill()


@contextmanager
def _deployment(folder: Path, engine: Target, sync: Sync) -> Generator[tuple[Deployment, Target]]:
    """A set of processes over an engine, and its edge as a target."""
    deployment = Deployment(folder, bench_config(engine.port), sync=sync, log_level="info")
    try:
        deployment.start(speakers=0)
        key = deployment.create_key("standard")
        yield deployment, Target(int(deployment.edges[0].config["edge"]["port"]), MODEL, key)
        deployment.stop()
    finally:
        deployment.abandon()


def _measure(deployment: Deployment, direct: Target, through: Target, effort: Effort) -> ChatCost:
    alone: list[Timing] = []
    added: list[Timing] = []
    bus_us: list[float] = []
    figures: list[Figure] = []
    for concurrency in (1, 4, 16):
        processes = {
            "edge": deployment.edges[0].running,
            "chat": deployment.chats[0].running,
            "quota": deployment.quotas[0].running,
            "nats-server": deployment.nats.child,
        }
        # A shared machine is faster or slower for half a minute at a time, so the pairs are spread over the run.
        for kept, timed in zip(
            (alone, added),
            run(Plan("pairs", (direct, through), samples=effort.pairs, warm_up=effort.warm_up)),
            strict=True,
        ):
            kept += timed
        bus_us += round_trips_us(deployment.nats.url)
        before = {name: child.cpu_s for name, child in processes.items() if child}
        (timings,) = run(Plan("flood", (through,), warm_up=3, concurrency=concurrency, duration_s=effort.flood_s))
        elapsed_s = (max(t.end_ns for t in timings) - min(t.sent_ns for t in timings)) / 1e9
        rate = len(timings) / elapsed_s
        bar = STREAMS_A_SECOND if concurrency == 16 else None
        figures.append(Figure(f"streamed replies a second, {concurrency} at once", rate, "/s", bar, "higher"))
        used = {name: child.cpu_s - before[name] for name, child in processes.items() if child}
    (alone_flood,) = run(Plan("flood", (direct,), warm_up=3, concurrency=16, duration_s=2))
    figures.append(Figure("the mock engine alone, 16 at once", len(alone_flood) / 2, "/s"))
    figures += [
        Figure("resident memory of the edge", deployment.edges[0].running.resident_mb, "MB", EDGE_MIB),
        Figure("resident memory of the chat worker", deployment.chats[0].running.resident_mb, "MB", CHAT_MIB),
        Figure("resident memory of quota", deployment.quotas[0].running.resident_mb, "MB", QUOTA_MIB),
    ]
    figures[:0] = [
        Figure("request and answer over the bus alone, p50", percentile(bus_us, 0.5), "us"),
        *_first_token_figures(alone, added, percentile(bus_us, 0.5) / 1000),
    ]
    return ChatCost(figures, asyncio.run(_stages(deployment, direct, through, effort)), _share_rows(used, len(timings)))


def run(plan: Plan) -> list[list[Timing]]:
    """Runs the load generator as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.load", plan_text(plan)],
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the load generator failed: {done.stderr[-2000:]}")
    found = TypeAdapter(list[list[tuple[int, int, int]]]).validate_json(done.stdout)
    return [[Timing(*timing) for timing in kept] for kept in found]


def _first_token_figures(alone: Sequence[Timing], through: Sequence[Timing], round_trip_ms: float) -> list[Figure]:
    direct_ms, through_ms = _first_tokens_ms(alone), _first_tokens_ms(through)
    added_p50_ms, added_p99_ms = (
        percentile(through_ms, fraction) - percentile(direct_ms, fraction) for fraction in (0.5, 0.99)
    )
    return [
        Figure("first token from the engine alone, p50", percentile(direct_ms, 0.5), "ms"),
        Figure("first token through Callboard, p50", percentile(through_ms, 0.5), "ms"),
        Figure("added time to the first token, p50", added_p50_ms, "ms", ADDED_P50_MS),
        Figure("added time to the first token, p99", added_p99_ms, "ms", ADDED_P99_MS),
        Figure("the p50 in round trips over the bus alone", added_p50_ms / round_trip_ms, "x", ADDED_ROUND_TRIPS),
        Figure("the p99, times the p50", added_p99_ms / added_p50_ms, "x", ADDED_P99_TIMES_P50),
    ]


def _first_tokens_ms(timings: Sequence[Timing]) -> list[float]:
    return [(timing.first_ns - timing.sent_ns) / NS_PER_MS for timing in timings]


def _first_token_p50_ms(timings: Sequence[Timing]) -> float:
    return percentile(_first_tokens_ms(timings), 0.5)


async def _stages(deployment: Deployment, direct: Target, through: Target, effort: Effort) -> list[str]:
    async with Taps(deployment.nats.url) as taps:
        (timings,) = await asyncio.to_thread(
            run, Plan("pairs", (through,), samples=effort.staged, warm_up=effort.warm_up)
        )
    arrivals = arrivals_at(direct.port) or []
    return stage_rows(timings, taps.seen, arrivals)


def _share_rows(used_s: dict[str, float], replies: int) -> list[str]:
    rows = [("process", "processor time a reply")]
    rows += [(name, f"{spent / replies * 1e6:,.0f} us") for name, spent in used_s.items()]
    return table_of(rows)


def arrivals_at(port: int) -> list[int] | None:
    """When requests arrived at the mock engine, in monotonic nanoseconds; None while it does not listen."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/arrivals", timeout=5) as reply:
            return TypeAdapter(list[int]).validate_python(json.load(reply))
    except OSError:
        return None

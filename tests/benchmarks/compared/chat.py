"""Callboard's text path and other gateways over the same mock engine, in turn."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks.chat_cost import NS_PER_MS, arrivals_at, bench_config, run
from tests.benchmarks.compared.gateways import GATEWAYS, Gateway
from tests.benchmarks.compared.others import NotThereError, cpu_s, end, resident_mb, told
from tests.benchmarks.figures import percentile, table_of
from tests.benchmarks.load import Plan, Target, Timing
from tests.benchmarks.mock_engine import MODEL
from tests.support.children import Child, wait_until
from tests.support.deployment import Deployment
from tests.support.nats_server import Sync
from tests.support.ports import free_port

ENGINE = "the mock engine itself"
CALLBOARD, SYNCED = "Callboard", "Callboard, synced"
OWN: dict[str, Sync] = {CALLBOARD: "default", SYNCED: "processes"}
AT_ONCE = 16
NOTES = """\
The mock engine of the chat benchmark, which streams 32 tokens, asked in turn over kept-alive connections by the same
client: itself, through Callboard, and through gateways that others might choose. All of them run at once on this
machine and are asked one after the other, round by round. The added time is the difference to the engine itself, one
request at a time. Memory and processor time are those of all processes of each, nats-server included.

They do not do the same. Callboard takes and settles a hold of two counters for each request, keeps the job and its
usage, and may lose any process without losing a reply; "synced" also survives a power cut, as `callboard up` runs it:
what is relied on is on the disk first. LiteLLM and the gateway in Go check a key and count in memory, and lose a reply
with their process. Envoy is a plain proxy that checks nothing: the least that another hop costs.
"""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured."""

    rounds: int = 3
    pairs: int = 300
    flood_s: float = 3.0


QUICK = Effort(rounds=1, pairs=40, flood_s=2.0)


@dataclass(slots=True)
class Side:
    """What was measured of one way to the engine."""

    name: str
    target: Target
    processes: Sequence[Child] = ()
    first_ms: list[float] = field(default_factory=list[float])
    replies_per_s: list[float] = field(default_factory=list[float])
    cpu_ms: list[float] = field(default_factory=list[float])
    memory_mb: float = 0.0
    failed: bool = False

    def flooded(self, timings: Sequence[Timing], used_s: float) -> None:
        """Notes one flood and the processor time that it took."""
        elapsed_s = (max(one.end_ns for one in timings) - min(one.sent_ns for one in timings)) / 1e9
        self.replies_per_s.append(len(timings) / elapsed_s)
        self.cpu_ms.append(used_s / len(timings) * 1000)


@dataclass(frozen=True, slots=True)
class Summary:
    """One side's figures; the added times are those beyond the engine's own."""

    name: str
    added_p50_ms: float
    added_p99_ms: float
    replies_per_s: float
    cpu_ms: float
    memory_mb: float

    def row(self) -> list[str]:
        """Its row in the table."""
        times = f"{self.added_p50_ms:.2f}", f"{self.added_p99_ms:.2f}", f"{self.replies_per_s:,.0f}"
        return [self.name, *times, f"{self.cpu_ms:.2f}", f"{self.memory_mb:,.0f}"]


HEAD = (
    "way to the engine",
    "added to first token, p50 ms",
    "p99 ms",
    f"replies/s, {AT_ONCE} at once",
    "processor ms a reply",
    "memory MB",
)


def measure(folder: Path, packages: Path, *, quick: bool) -> list[str]:
    """The lines of the section; starts everything and stops it again."""
    engine_port = free_port()
    missing: list[str] = []
    with ExitStack() as stack:
        engine = Child([sys.executable, "-m", "tests.benchmarks.mock_engine", str(engine_port)], folder / "engine.log")
        stack.callback(engine.kill)
        wait_until(lambda: arrivals_at(engine_port) is not None, 10, "the mock engine listens")
        sides = [Side(ENGINE, Target(engine_port, MODEL, "none"), [engine])]
        for name, sync in OWN.items():
            sides.append(_callboard(stack, folder / name.replace(", ", "-"), name, engine_port, sync))
        for start in GATEWAYS:
            try:
                gateway = start(packages, folder, engine_port)
                stack.callback(end, gateway.process)
                _try(gateway)
            except NotThereError as error:
                missing.append(str(error))
                continue
            sides.append(Side(gateway.name, gateway.target, [gateway.process]))
        _measure(sides, QUICK if quick else Effort())
    missing += [f"{side.name} failed at {AT_ONCE} at once" for side in sides if side.failed]
    found = [summary_of(side, sides[0]) for side in sides if not side.failed]
    lines = [*table_of([HEAD, *(one.row() for one in found)]), "", *verdicts(found)]
    return [*lines, *(f"- Not measured: {text}." for text in missing)]


def _try(gateway: Gateway) -> None:
    """Asks a few times, so that one that does not work here spoils nobody's run; raises NotThereError."""
    try:
        run(Plan("pairs", (gateway.target,), samples=1, warm_up=3))
    except RuntimeError as error:
        sys.stderr.write(f"{gateway.name}: {error}\n{gateway.process.output()[-2000:]}\n")
        raise NotThereError(f"{gateway.name} gives no whole replies") from error


def _callboard(stack: ExitStack, folder: Path, name: str, engine_port: int, sync: Sync) -> Side:
    deployment = Deployment(folder, bench_config(engine_port), sync=sync, log_level="info")
    stack.callback(deployment.abandon)
    deployment.start(speakers=0)
    port = int(deployment.edges[0].config["edge"]["port"])
    key = deployment.create_key("standard")
    return Side(name, Target(port, MODEL, key), list(deployment.children.values()))


def _measure(sides: Sequence[Side], effort: Effort) -> None:
    for number in range(effort.rounds):
        told(f"chat, round {number + 1} of {effort.rounds}")
        plan = Plan("pairs", tuple(side.target for side in sides), effort.pairs, warm_up=20)
        for side, timed in zip(sides, run(plan), strict=True):
            side.first_ms += [(one.first_ns - one.sent_ns) / NS_PER_MS for one in timed]
        for side in sides:
            if side.failed:
                continue
            before_s = cpu_s(side.processes)
            try:
                # The pairs before were the warm-up.
                (timings,) = run(Plan("flood", (side.target,), concurrency=AT_ONCE, duration_s=effort.flood_s))
            except RuntimeError as error:
                told(f"{side.name}: {error}")
                side.failed = True
                continue
            side.flooded(timings, cpu_s(side.processes) - before_s)
            side.memory_mb = resident_mb(side.processes)


def summary_of(side: Side, engine: Side) -> Summary:
    """What a side came to, beside the engine itself."""
    added = [percentile(side.first_ms, share) - percentile(engine.first_ms, share) for share in (0.5, 0.99)]
    middle = percentile(side.replies_per_s, 0.5), percentile(side.cpu_ms, 0.5)
    return Summary(side.name, added[0], added[1], *middle, side.memory_mb)


def verdicts(found: Sequence[Summary]) -> list[str]:
    """For each other gateway a sentence of where Callboard is behind it and where ahead."""
    own = next(one for one in found if one.name == CALLBOARD)
    lines: list[str] = []
    for other in found:
        if other.name in {ENGINE, CALLBOARD, SYNCED}:
            continue
        ratios = {
            "the added time": own.added_p50_ms / max(other.added_p50_ms, 0.01),
            "its p99": own.added_p99_ms / max(other.added_p99_ms, 0.01),
            "replies a second": other.replies_per_s / own.replies_per_s,
            "processor time": own.cpu_ms / max(other.cpu_ms, 0.001),
            "memory": own.memory_mb / max(other.memory_mb, 0.1),
        }
        behind = [f"{name} ({ratio:.1f} times)" for name, ratio in ratios.items() if ratio > 1]
        ahead = [f"{name} ({1 / ratio:.1f} times)" for name, ratio in ratios.items() if ratio <= 1]
        told = [f"{word} in {', '.join(names)}" for word, names in (("behind", behind), ("ahead", ahead)) if names]
        lines.append(f"- Beside {other.name}, Callboard is {' and '.join(told)}.")
    return lines

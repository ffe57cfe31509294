"""Callboard's text path and LiteLLM's proxy over the same mock engine, in turn: `python -m tests.benchmarks compare`.

LiteLLM is no dependency. Its folder is made by `pip install --target FOLDER 'litellm[proxy]'`.
"""

import os
import sys
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks.chat_cost import NS_PER_MS, arrivals_at, bench_config, run
from tests.benchmarks.figures import percentile, table_of
from tests.benchmarks.load import Plan, Target, Timing
from tests.benchmarks.mock_engine import MODEL
from tests.support.children import Child, wait_until
from tests.support.deployment import Deployment
from tests.support.ports import free_port

START_TIMEOUT_S = 180.0
ROUNDS, QUICK_ROUNDS = 4, 1
PAIRS, QUICK_PAIRS = 200, 60
FLOOD_S, QUICK_FLOOD_S = 5.0, 3.0
AT_ONCE = (1, 4, 16)
KEY = "sk-bench"
LITELLM = """\
model_list:
  - model_name: {model}
    litellm_params: {{model: openai/{model}, api_base: "http://127.0.0.1:{engine}/v1", api_key: none}}
general_settings: {{master_key: {key}}}
litellm_settings: {{telemetry: false}}
"""
NOTES = """\
The mock engine of the chat benchmark, asked directly, through Callboard (one edge, one chat worker, one quota process
and nats-server writing to the disk as it does by default), and through LiteLLM's proxy with one worker process and a
key, which is how it starts. Callboard takes and settles a hold of two counters for each request, stores the job and its
usage, and may lose any process without losing a reply; LiteLLM without a database keeps nothing. All three take turns,
round by round, over kept-alive connections from the same client. Memory and processor time are those of all processes
of each, nats-server included.
"""


@dataclass(slots=True)
class Side:
    """What was measured of one way to the engine."""

    name: str
    target: Target
    processes: Sequence[Child] = ()
    timings: list[Timing] = field(default_factory=list[Timing])
    rates: dict[int, list[float]] = field(default_factory=dict[int, list[float]])
    cpu_ms: dict[int, list[float]] = field(default_factory=dict[int, list[float]])

    def row(self) -> list[str]:
        """Its row in the table."""
        first_ms = [(one.first_ns - one.sent_ns) / NS_PER_MS for one in self.timings]
        middles = [f"{percentile(self.rates[count], 0.5):,.0f}" for count in AT_ONCE]
        cpu = f"{percentile(self.cpu_ms[AT_ONCE[-1]], 0.5):.2f}" if self.processes else ""
        memory = f"{sum(child.resident_mb for child in self.processes):,.0f}" if self.processes else ""
        return [
            self.name,
            f"{percentile(first_ms, 0.5):.2f}",
            f"{percentile(first_ms, 0.99):.2f}",
            *middles,
            cpu,
            memory,
        ]


def measure(folder: Path, litellm: Path, *, quick: bool) -> list[str]:
    """The lines of the table; starts everything and stops it again."""
    engine_port, other_port = free_port(), free_port()
    engine = Child([sys.executable, "-m", "tests.benchmarks.mock_engine", str(engine_port)], folder / "engine.log")
    deployment = Deployment(folder / "deployment", bench_config(engine_port), log_level="info")
    other: Child | None = None
    try:
        wait_until(lambda: arrivals_at(engine_port) is not None, 10, "the mock engine listens")
        other = _litellm(folder, litellm, engine_port, other_port)
        deployment.start(speakers=0)
        own = [service.running for service in (*deployment.edges, *deployment.chats, *deployment.quotas)]
        assert isinstance(deployment.nats.child, Child)
        key = deployment.create_key("standard")
        sides = [
            Side("the engine alone", Target(engine_port, MODEL, "none")),
            Side(
                "Callboard",
                Target(int(deployment.edges[0].config["edge"]["port"]), MODEL, key),
                [*own, deployment.nats.child],
            ),
            Side("LiteLLM", Target(other_port, MODEL, KEY), [other]),
        ]
        _measure(sides, quick=quick)
        lines = table_of([_HEAD, *(side.row() for side in sides)])
        deployment.stop()
    finally:
        deployment.abandon()
        if other is not None:
            other.kill()
        engine.kill()
    return lines


_HEAD = (
    "way to the engine",
    "first token, p50 ms",
    "p99 ms",
    *(f"replies/s, {count} at once" for count in AT_ONCE),
    "processor ms a reply",
    "memory MB",
)


def _measure(sides: Sequence[Side], *, quick: bool) -> None:
    for _ in range(QUICK_ROUNDS if quick else ROUNDS):
        plan = Plan("pairs", tuple(side.target for side in sides), QUICK_PAIRS if quick else PAIRS, warm_up=10)
        for side, timed in zip(sides, run(plan), strict=True):
            side.timings += timed
        for count in AT_ONCE:
            for side in sides:
                before_s = sum(child.cpu_s for child in side.processes)
                flood_s = QUICK_FLOOD_S if quick else FLOOD_S
                # A warm-up counts against the time of a flood, and the pairs before were one.
                (timings,) = run(Plan("flood", (side.target,), concurrency=count, duration_s=flood_s))
                elapsed_s = (max(one.end_ns for one in timings) - min(one.sent_ns for one in timings)) / 1e9
                side.rates.setdefault(count, []).append(len(timings) / elapsed_s)
                used_s = sum(child.cpu_s for child in side.processes) - before_s
                side.cpu_ms.setdefault(count, []).append(used_s / len(timings) * 1000)


def _litellm(folder: Path, site: Path, engine_port: int, port: int) -> Child:
    config = folder / "litellm.yaml"
    config.write_text(LITELLM.format(model=MODEL, engine=engine_port, key=KEY), encoding="utf-8")
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(site),
        # It asks the internet for prices otherwise.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    words = ("--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1")
    child = Child([sys.executable, "-m", "litellm.proxy.proxy_cli", *words], folder / "litellm.log", environ)

    def ready() -> bool:
        if not child.alive:
            raise RuntimeError(f"LiteLLM ended: {child.output()[-2000:]}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness", timeout=2) as reply:
                return reply.status == 200
        except OSError:
            return False

    try:
        wait_until(ready, START_TIMEOUT_S, "LiteLLM listens", interval_s=0.5)
    except (TimeoutError, RuntimeError):
        child.kill()
        raise
    return child

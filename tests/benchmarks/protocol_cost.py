"""What each protocol's streaming path adds to the time of the first token, beside OpenAI's, in one run."""

import json
import sys
from pathlib import Path

from tests.benchmarks.chat_cost import NS_PER_MS, arrivals_at, bench_config, run
from tests.benchmarks.figures import Figure, percentile
from tests.benchmarks.load import CHARACTER, CHAT, REMEMBERING, SPEAKERS, WIRES, Plan, Target, Timing
from tests.benchmarks.mock_engine import MODEL
from tests.support.children import Child, wait_until
from tests.support.deployment import Deployment
from tests.support.ports import free_port

TIMES = 1.3
NOTES = f"""\
The mock engine again, through the streaming path of each protocol in turn over kept-alive connections, and the engine
alone beside them. The added time of each may be at most {TIMES:g} times that of OpenAI's chat, but for a character that
remembers, with which {SPEAKERS} people speak in turn: its room is written before each reply.
"""


def measure(folder: Path, *, quick: bool) -> list[Figure]:
    """Asks all paths in turn."""
    port = free_port()
    engine = Child([sys.executable, "-m", "tests.benchmarks.mock_engine", str(port)], folder / "mock.log")
    deployment = Deployment(folder / "protocols", bench_config(port), log_level="info")
    try:
        wait_until(lambda: arrivals_at(port) is not None, 10, "the mock engine listens")
        deployment.start(speakers=0, rooms=1)
        key = deployment.create_key("standard")
        character = folder / f"{CHARACTER}.json"
        character.write_text(json.dumps({"prompt": "You are the prompter of a small theatre."}), encoding="utf-8")
        deployment.command("characters", "put", str(character))
        edge = int(deployment.edges[0].config["edge"]["port"])
        targets = (Target(port, MODEL, "none"), *(Target(edge, MODEL, key, wire) for wire in WIRES))
        alone, *through = run(Plan("pairs", targets, samples=200 if quick else 1000, warm_up=60))
        deployment.stop()
    finally:
        deployment.abandon()
        engine.kill()
    added_ms = {wire: _first_ms(each) - _first_ms(alone) for wire, each in zip(WIRES, through, strict=True)}
    figures: list[Figure] = []
    for wire, added in added_ms.items():
        figures.append(Figure(f"added time to the first token, p50: {wire}", added, "ms"))
        if wire != CHAT:
            bar = None if wire == REMEMBERING else TIMES
            figures.append(Figure("as a multiple of that of OpenAI's chat", added / added_ms[CHAT], "times", bar))
    return figures


def _first_ms(timings: list[Timing]) -> float:
    return percentile([(timing.first_ns - timing.sent_ns) / NS_PER_MS for timing in timings], 0.5)

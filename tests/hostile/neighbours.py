"""What ordinary clients see during an attack, against what they see in quiet times."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from tests.hostile.ordinary_client import TICK_S, Tick, Wait
from tests.hostile.site import Site
from tests.hostile.targets import SCHEMA_CARRIERS, ordinary_dialects
from tests.support.children import Child, wait_until

BASELINE_REQUESTS = 4
ANSWER_TIMEOUT_S = 30.0
BASELINE_TIMEOUT_S = 300.0
MAX_EXTRA_S = 2.0
"""How much longer than in quiet times a neighbour may wait."""


class OrdinaryClients:
    """A process of ordinary clients, and what it has seen."""

    def __init__(self, site: Site, name: str) -> None:
        argv = [sys.executable, "-m", "tests.hostile.ordinary_client"]
        argv += [site.url, site.neighbour_key, "speech" if site.speech else ""]
        self._child = Child(argv, site.folder / f"{name}.log")

    def rows(self) -> tuple[list[Wait], list[Tick]]:
        """Every request and every tick so far."""
        waits: list[Wait] = []
        ticks: list[Tick] = []
        output = self._child.output()
        assert self._child.alive, output[-2000:]
        for line in output.splitlines(keepends=True):
            if line.endswith("\n"):
                row: dict[str, Any] = json.loads(line)
                if "kind" in row:
                    waits.append(Wait(**row))
                else:
                    ticks.append(Tick(**row))
        return waits, ticks

    def close(self) -> None:
        """Ends the process."""
        self._child.kill()


class Neighbours:
    """The ordinary clients of a site; `check` looks at what they have seen since the last time."""

    def __init__(self, site: Site) -> None:
        self._clients = OrdinaryClients(site, "neighbours")
        self._seen = 0
        self._baseline_s: dict[str, float] = {}
        self._tick_s = 0.0
        self._kinds = len(ordinary_dialects(speech=site.speech)) + len(SCHEMA_CARRIERS[:1])

    def measure_baseline(self, site: Site) -> None:
        """Measures how long requests take in quiet times, in the company of other ordinary clients."""
        company = OrdinaryClients(site, "company")
        try:
            wait_until(self._know_enough, BASELINE_TIMEOUT_S, "neighbours have been answered", interval_s=1.0)
        finally:
            company.close()
        waits, ticks = self._clients.rows()
        self._seen = len(waits)
        self._fail_for_problems(waits)
        # What is loaded with the first request makes no rule.
        for kind, durations in self._durations(waits).items():
            self._baseline_s[kind] = max(durations[1:])
        works = sorted(one.work_s for one in ticks)
        self._tick_s = works[len(works) // 2]

    def _know_enough(self) -> bool:
        durations = self._durations(self._clients.rows()[0])
        return len(durations) == self._kinds and all(len(one) >= BASELINE_REQUESTS for one in durations.values())

    def _durations(self, waits: Sequence[Wait]) -> dict[str, list[float]]:
        return {kind: [wait.took_s for wait in waits if wait.kind == kind] for kind in {wait.kind for wait in waits}}

    def close(self) -> None:
        """Ends the clients."""
        self._clients.close()

    def check(self) -> None:
        """Fails where a request failed, or took too long for how slow the machine itself was at the time."""
        # A short attack may be over before any neighbour was answered.
        wait_until(lambda: len(self._clients.rows()[0]) > self._seen, ANSWER_TIMEOUT_S, "a neighbour got an answer")
        waits, ticks = self._clients.rows()
        waits, self._seen = waits[self._seen :], len(waits)
        self._fail_for_problems(waits)
        slow = [
            f"{wait.kind}: {wait.took_s:.2f} s, allowed {allowed:.2f} s"
            for wait in waits
            if wait.took_s > (allowed := self._allowed_s(wait, ticks))
        ]
        assert not slow, f"{len(slow)} of {len(waits)} waited too long:\n" + "\n".join(slow[:10])

    def _fail_for_problems(self, waits: Sequence[Wait]) -> None:
        problems = [f"{wait.kind}: {wait.problem}" for wait in waits if wait.problem]
        assert not problems, f"{len(problems)} of {len(waits)} neighbours failed:\n" + "\n".join(problems[:10])

    def _allowed_s(self, wait: Wait, ticks: Sequence[Tick]) -> float:
        baseline_s = self._baseline_s.get(wait.kind, 0.0)
        if wait.took_s <= baseline_s + MAX_EXTRA_S:
            return baseline_s + MAX_EXTRA_S
        end_s = wait.began_s + wait.took_s
        during = [tick for tick in ticks if wait.began_s - 2 * TICK_S <= tick.at_s <= end_s]
        slowdown = max((tick.work_s / self._tick_s for tick in during), default=1.0)
        late_s = sum(max(0.0, tick.late_s) for tick in during)
        return baseline_s * max(1.0, slowdown) + MAX_EXTRA_S + late_s

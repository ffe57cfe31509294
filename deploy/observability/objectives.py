"""The service level objectives, and the rules that measure them and alert on burn rates.

The windows and factors are those of the usual multi-window burn alerts: a 30-day budget that is spent 14.4 times
too fast is gone in two days. The long window shows that it matters, the short one that it has not stopped.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from callboard_contracts.errors import CATALOGUE

SERVER_ERRORS = "|".join(sorted(code.value for code, kind in CATALOGUE.items() if kind.status >= 500))
"""The codes of server errors, as a regular expression."""
WORK = 'protocol!~"site|none"'
"""Requests for work: neither for the site's own pages nor for paths that do not exist."""
BUDGET_WINDOW = "30d"
BUCKET_RATE = "rate5m"


@dataclass(frozen=True, slots=True)
class Burn:
    """A burn rate over two windows, in multiples of the rate at which the budget lasts exactly 30 days."""

    long: str
    short: str
    factor: float


FAST = (Burn("1h", "5m", 14.4), Burn("6h", "30m", 6))
SLOW = (Burn("1d", "2h", 3), Burn("3d", "6h", 1))
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d", BUDGET_WINDOW)
INTERVALS = {"1d": "1m", "3d": "1m", BUDGET_WINDOW: "5m"}
"""How often the rules over long windows are evaluated; the others use Prometheus's own interval."""


@dataclass(frozen=True, slots=True)
class Objective:
    """One objective: the share of good requests, and the share that was bad as PromQL over a window `W`."""

    key: str
    alert: str
    share: float
    bad: str
    summary: str
    runbook: str

    def record(self, window: str) -> str:
        """The name of the recorded share of bad requests over a window."""
        return f"callboard:{self.key}:ratio_rate{window}"

    @property
    def budget(self) -> float:
        """The share of requests that may be bad."""
        return round(1 - self.share, 6)


@dataclass(frozen=True, slots=True)
class Latency:
    """A latency objective for the first byte of streamed responses of some routes; `in_time_s` is a bucket's bound."""

    routes: str
    in_time_s: float

    @property
    def bad(self) -> str:
        """The share of responses that began too late, as PromQL over a window `W`."""
        series = "callboard_edge_time_to_first_byte_seconds"
        in_time = f'sum by (namespace) (rate({series}_bucket{{route=~"{self.routes}",le="{self.in_time_s}"}}[W]))'
        return f'1 - {in_time} / sum by (namespace) (rate({series}_count{{route=~"{self.routes}"}}[W]))'


FIRST_TOKEN = Latency("chat_completions|completions", 2.5)
FIRST_AUDIO = Latency("speech", 2.5)
_REQUESTS = f"sum by (namespace) (rate(callboard_edge_requests_total{{{WORK}}}[W]))"
_FAILED = f'sum by (namespace) (rate(callboard_edge_errors_total{{code=~"{SERVER_ERRORS}"}}[W]))'

AVAILABILITY = Objective(
    "failures",
    "CallboardErrorBudgetBurn",
    0.999,
    f"({_FAILED} or 0 * {_REQUESTS}) / {_REQUESTS}",
    "Server errors burn the error budget too fast.",
    "error-budget-burn",
)
TOKEN = Objective(
    "late_tokens",
    "CallboardFirstTokenSlow",
    0.95,
    FIRST_TOKEN.bad,
    "Too many chat responses begin too late.",
    "first-token-slow",
)
AUDIO = Objective(
    "late_audio",
    "CallboardFirstAudioSlow",
    0.95,
    FIRST_AUDIO.bad,
    "Too many speech responses begin too late.",
    "first-audio-slow",
)
OBJECTIVES = (AVAILABILITY, TOKEN, AUDIO)


def rules() -> str:
    """The recording and alert rules of all objectives as a Prometheus rule file."""
    return "\n".join(
        ["# Written by `python -m deploy.observability.build`; change objectives.py.", "groups:", *_groups()]
    )


def _groups() -> Iterator[str]:
    for objective in OBJECTIVES:
        for interval in (None, "1m", "5m"):
            windows = [window for window in WINDOWS if INTERVALS.get(window) == interval]
            yield f"  - name: callboard-{objective.key.replace('_', '-')}{f'-{interval}' if interval else ''}"
            if interval:
                yield f"    interval: {interval}"
            yield "    rules:"
            for window in windows:
                yield f"      - record: {objective.record(window)}"
                yield f"        expr: {objective.bad.replace('[W]', f'[{window}]')}"
        yield f"  - name: callboard-{objective.key.replace('_', '-')}-alerts"
        yield "    rules:"
        yield from _alert(objective, FAST, "critical", "2m")
        yield from _alert(objective, SLOW, "warning", "15m")
    yield ""


def _alert(objective: Objective, burns: tuple[Burn, ...], severity: str, lasting: str) -> Iterator[str]:
    yield f"      - alert: {objective.alert}"
    yield "        expr: |-"
    for n, burn in enumerate(burns):
        threshold = f"{burn.factor:g} * {objective.budget:g}"
        joint = "or " if n else ""
        yield f"          {joint}({objective.record(burn.long)} > {threshold}"
        yield f"            and {objective.record(burn.short)} > {threshold})"
    yield f"        for: {lasting}"
    yield "        labels:"
    yield f"          severity: {severity}"
    yield "        annotations:"
    yield f"          summary: {objective.summary}"
    yield f"          description: '{{{{ $value | humanizePercentage }}}} were bad; {objective.budget:.1%} may be.'"
    yield f"          runbook_url: '{{{{ $externalLabels.docs }}}}/runbooks/{objective.runbook}/'"

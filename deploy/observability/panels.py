"""What dashboards are made of: panels, and the queries that fill them."""

import re
from dataclasses import dataclass
from typing import Literal, TypedDict, Unpack

HEIGHT = 8
RATE = "[$__rate_interval]"
NAMESPACE = 'namespace=~"$namespace"'

Kind = Literal["timeseries", "stat", "heatmap", "table"]
Colour = Literal["green", "orange", "red"]
Limits = tuple[tuple[float, Colour], ...]
SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel and the legend of its series."""

    expr: str
    legend: str = ""


class Look(TypedDict, total=False):
    """How a panel looks; what is left out is as in `Panel`."""

    kind: Kind
    width: int
    height: int
    stacked: bool
    limits: Limits
    good_above: bool
    runbook: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture: what it shows, in which unit, and from where on that is bad."""

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = "timeseries"
    width: int = 8
    height: int = HEIGHT
    stacked: bool = False
    limits: Limits = ()
    """From which value on which colour holds; below the first the state is good, unless `good_above`."""
    good_above: bool = False
    runbook: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading; they break into lines by their widths."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of a dashboard that narrows it to some values of a label."""

    label: str
    metric: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard; `question` is what it answers."""

    key: str
    title: str
    question: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = ()


def of(metric: str, *matchers: str) -> str:
    """A series of the chosen installations."""
    return f"{metric}{{{','.join((NAMESPACE, *matchers))}}}"


def rate(metric: str, *matchers: str) -> str:
    """How fast a counter grows, in each process."""
    return f"rate({of(metric, *matchers)}{RATE})"


def summed(expr: str, by: str = "") -> str:
    """An expression added up over processes, or over all that share the labels `by`."""
    return f"sum{f' by ({by})' if by else ''} ({expr})"


def per_second(metric: str, *matchers: str, by: str = "") -> str:
    """How fast a counter grows, added up over processes."""
    return summed(rate(metric, *matchers), by)


def total(metric: str, *matchers: str, by: str = "") -> str:
    """A gauge, added up over processes."""
    return summed(of(metric, *matchers), by)


def quantile(share: float, metric: str, *matchers: str, by: str = "") -> str:
    """A quantile over all processes, from a histogram's buckets."""
    return f"histogram_quantile({share:g}, {per_second(f'{metric}_bucket', *matchers, by=f'{by}, le' if by else 'le')})"


def panel(title: str, description: str, unit: str, *queries: Query | str, **look: Unpack[Look]) -> Panel:
    """A panel of any queries; the title is the legend of an expression without one."""
    named = tuple(Query(each, title.lower()) if isinstance(each, str) else each for each in queries)
    return Panel(title, description, unit, named, **look)


def counter(
    title: str, description: str, metric: str, *matchers: str, by: str = "", unit: str = "ops", **look: Unpack[Look]
) -> Panel:
    """How fast a counter grows, one line for each value of the labels `by`."""
    return panel(title, description, unit, _by(per_second(metric, *matchers, by=by), by), **look)


def gauge(
    title: str, description: str, metric: str, *matchers: str, by: str = "", unit: str = "short", **look: Unpack[Look]
) -> Panel:
    """A gauge added up over processes, one line for each value of the labels `by`."""
    return panel(title, description, unit, _by(total(metric, *matchers, by=by), by), **look)


def spread(
    metric: str, title: str, description: str, *matchers: str, unit: str = "s", **look: Unpack[Look]
) -> tuple[Panel, Panel]:
    """A histogram as its median, p95 and p99, and beside them a heatmap of the whole."""
    buckets = f"{of(f'{metric}_bucket', *matchers)}{RATE}"
    rates, increases = (summed(f"{function}({buckets})", "le") for function in ("rate", "increase"))
    return _spread(title, description, unit, rates, increases, look)


def recorded_spread(
    record: str, title: str, description: str, unit: str = "s", **look: Unpack[Look]
) -> tuple[Panel, Panel]:
    """The same from the recorded rates of a histogram's buckets."""
    buckets = total(record, by="le")
    return _spread(title, description, unit, buckets, buckets, look)


def _spread(title: str, description: str, unit: str, buckets: str, heat: str, look: Look) -> tuple[Panel, Panel]:
    lines = (Query(f"histogram_quantile({share:g}, {buckets})", name) for name, share in SHARES.items())
    described = f"{description} Each column shows how the values are spread."
    return (
        panel(title, description, unit, *lines, **look),
        panel(f"{title}: spread", described, unit, Query(heat, "{{le}}"), kind="heatmap", width=4),
    )


def _by(expr: str, labels: str) -> Query | str:
    return Query(expr, re.sub(r"(\w+),?", r"{{\1}}", labels)) if labels else expr


def processes(job: str) -> Row:
    """What the processes of one service use of their machine."""
    own = f'job="{job}"'
    name = "{{instance}}"
    return Row(
        "Processes",
        (
            gauge("Up", "Processes that Prometheus reaches.", "up", own, kind="stat", width=2),
            panel(
                "Memory",
                "Resident memory of each process.",
                "bytes",
                Query(of("process_resident_memory_bytes", own), name),
                width=5,
            ),
            panel(
                "CPU",
                "CPU time of each process; 1 is one core.",
                "suffix: cores",
                Query(rate("process_cpu_seconds_total", own), name),
                width=5,
            ),
            panel(
                "Event loop lag, p99",
                "How late the event loop wakes a task. Above 0.1 s something blocks it and every stream stutters.",
                "s",
                Query(quantile(0.99, "callboard_event_loop_lag_seconds", own, by="instance"), name),
                width=5,
                limits=((0.1, "orange"), (0.25, "red")),
                runbook="event-loop-blocked",
            ),
            panel(
                "Clock skew",
                "How far each machine's clock is ahead of the bus's. It changes no limit and no deadline.",
                "s",
                Query(of("callboard_clock_skew_seconds", own), name),
                width=3,
            ),
            panel(
                "Store sync, p99",
                "How long the bus's store takes to be brought to the disk, where `nats.store_dir` has each process do "
                "that; requests wait for it. Above 0.1 s the disk is slow or busy.",
                "s",
                Query(quantile(0.99, "callboard_store_sync_seconds", own, by="instance"), name),
                width=4,
                limits=((0.1, "orange"), (1, "red")),
            ),
        ),
    )

"""The pieces that boards are made of, and the form in which Grafana wants them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal

Json = dict[str, "JsonValue"]
JsonValue = str | int | float | bool | None | Sequence["JsonValue"] | Mapping[str, "JsonValue"]

SCHEMA_VERSION = 39
WIDTH = 24
HEIGHT = 8
TAG = "callboard"
RATE = "[$__rate_interval]"
SOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
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
class Choice:
    """A variable of a board that narrows it to some values of a label."""

    label: str
    metric: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard; `question` is what it answers."""

    key: str
    title: str
    question: str
    rows: tuple[Row, ...]
    choices: tuple[Choice, ...] = ()

    @property
    def panels(self) -> Iterator[Panel]:
        """Every panel, from top to bottom."""
        for row in self.rows:
            yield from row.panels


def of(metric: str, *matchers: str) -> str:
    """A series of the chosen installations."""
    return f"{metric}{{{','.join((NAMESPACE, *matchers))}}}"


def per_second(metric: str, *matchers: str, by: str = "") -> str:
    """How fast a counter grows, added up over processes."""
    return f"sum{f' by ({by})' if by else ''} (rate({of(metric, *matchers)}{RATE}))"


def total(metric: str, *matchers: str, by: str = "") -> str:
    """A gauge, added up over processes."""
    return f"sum{f' by ({by})' if by else ''} ({of(metric, *matchers)})"


def quantile(share: float, metric: str, *matchers: str, by: str = "") -> str:
    """A quantile over all processes, from a histogram's buckets."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({share:g}, sum by ({labels}) (rate({of(f'{metric}_bucket', *matchers)}{RATE})))"


def spread(
    metric: str, title: str, description: str, *matchers: str, unit: str = "s", limits: Limits = (), runbook: str = ""
) -> tuple[Panel, Panel]:
    """A histogram as its median, p95 and p99, and beside it whole, as a heatmap."""
    lines = tuple(Query(quantile(share, metric, *matchers), name) for name, share in SHARES.items())
    heat = f"sum by (le) (increase({of(f'{metric}_bucket', *matchers)}{RATE}))"
    return (
        Panel(title, description, unit, lines, limits=limits, runbook=runbook),
        _heatmap(title, description, unit, heat),
    )


def recorded_spread(
    record: str, title: str, description: str, unit: str = "s", limits: Limits = (), runbook: str = ""
) -> tuple[Panel, Panel]:
    """The same from the recorded rates of a histogram's buckets."""
    buckets = f"sum by (le) ({of(record)})"
    lines = tuple(Query(f"histogram_quantile({share:g}, {buckets})", name) for name, share in SHARES.items())
    return (
        Panel(title, description, unit, lines, limits=limits, runbook=runbook),
        _heatmap(title, description, unit, buckets),
    )


def _heatmap(title: str, description: str, unit: str, expr: str) -> Panel:
    described = f"{description} Each column shows how the values are spread."
    return Panel(f"{title}: spread", described, unit, (Query(expr, "{{le}}"),), "heatmap", 4)


def processes(job: str) -> Row:
    """What the processes of one service use of their machine."""
    own = f'job="{job}"'
    return Row(
        "Processes",
        (
            Panel(
                "Up", "Processes that Prometheus reaches.", "short", (Query(f"sum ({of('up', own)})", "up"),), "stat", 3
            ),
            Panel(
                "Memory",
                "Resident memory of each process.",
                "bytes",
                (Query(of("process_resident_memory_bytes", own), "{{instance}}"),),
                width=7,
            ),
            Panel(
                "Processor",
                "Processor time of each process; 1 is one core.",
                "suffix: cores",
                (Query(f"rate({of('process_cpu_seconds_total', own)}{RATE})", "{{instance}}"),),
                width=7,
            ),
            Panel(
                "Event loop lag, p99",
                "How late the event loop wakes a task. Above 0.1 s something blocks it, and every stream stutters.",
                "s",
                (Query(quantile(0.99, "callboard_event_loop_lag_seconds", own, by="instance"), "{{instance}}"),),
                width=7,
                limits=((0.1, "orange"), (0.25, "red")),
                runbook="event-loop-blocked",
            ),
        ),
    )


def to_json(board: Board) -> Json:
    """The board as Grafana stores it."""
    return {
        "uid": f"callboard-{board.key}",
        "title": f"Callboard: {board.title}",
        "description": board.question,
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": [_starts()]},
        "templating": {"list": [*_common_variables(), *(_choice(choice) for choice in board.choices)]},
        "links": [
            {
                "type": "dashboards",
                "title": "Boards",
                "tags": [TAG],
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
            },
            {"type": "link", "title": "Runbooks", "url": "${docs}/runbooks/", "targetBlank": True, "icon": "doc"},
        ],
        "panels": list(_laid_out(board)),
    }


def _laid_out(board: Board) -> Iterator[Json]:
    ids = count(1)
    top = 0
    for row in board.rows:
        yield {
            "id": next(ids),
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1},
            "panels": [],
        }
        top += 1
        left = lowest = 0
        for panel in row.panels:
            if left + panel.width > WIDTH:
                top, left, lowest = top + lowest, 0, 0
            at = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            yield _panel(panel, next(ids), at)
            left, lowest = left + panel.width, max(lowest, panel.height)
        top += lowest


def _panel(panel: Panel, number: int, at: dict[str, int]) -> Json:
    links: list[JsonValue] = []
    if panel.runbook:
        links.append({"title": "Runbook", "url": f"${{docs}}/runbooks/{panel.runbook}/", "targetBlank": True})
    formats = {"heatmap": "heatmap", "table": "table"}
    targets: list[JsonValue] = [
        {
            "refId": chr(ord("A") + n),
            "datasource": SOURCE,
            "expr": query.expr,
            "legendFormat": query.legend or "__auto",
            "format": formats.get(panel.kind, "time_series"),
            "range": panel.kind in ("timeseries", "heatmap"),
            "instant": panel.kind in ("stat", "table"),
        }
        for n, query in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "gridPos": dict(at),
        "datasource": SOURCE,
        "links": links,
        "targets": targets,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel),
    }


def _defaults(panel: Panel) -> Json:
    # A colour other than the palette's says that something is wrong, and nothing else.
    bad = [{"color": colour, "value": value} for value, colour in panel.limits]
    base = "red" if panel.good_above else "green"
    defaults: Json = {
        "unit": panel.unit,
        "thresholds": {"mode": "absolute", "steps": [{"color": base, "value": None}, *bad]},
        "color": {"mode": "thresholds" if panel.kind == "stat" and panel.limits else "palette-classic"},
        "noValue": "none",
    }
    if panel.kind == "stat" and not panel.limits:
        defaults["color"] = {"mode": "fixed", "fixedColor": "text"}
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 20 if panel.stacked else 0,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "line" if panel.limits else "off"},
        }
    return defaults


def _options(panel: Panel) -> Json:
    match panel.kind:
        case "stat":
            return {
                "colorMode": "value",
                "graphMode": "none",
                "textMode": "auto",
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            }
        case "heatmap":
            # The buckets come counted; Grafana must not count again.
            return {
                "calculate": False,
                "cellGap": 1,
                "color": {"mode": "scheme", "scheme": "Blues", "steps": 32},
                "yAxis": {"unit": panel.unit},
                "tooltip": {"mode": "single", "yHistogram": True},
                "legend": {"show": False},
            }
        case "table":
            return {"showHeader": True, "footer": {"show": False}}
        case _:
            return {
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }


def _starts() -> Json:
    started = of("process_start_time_seconds", 'job=~"callboard-.*"')
    return {
        "name": "Starts of processes",
        "datasource": SOURCE,
        "enable": True,
        "iconColor": "blue",
        "expr": f"{started} * 1000 > time() * 1000 - $__range_ms",
        "useValueForTime": "on",
        "titleFormat": "{{job}} started",
        "textFormat": "{{instance}}",
        "step": "60s",
    }


def _common_variables() -> list[Json]:
    return [
        {
            "name": "datasource",
            "label": "Data source",
            "type": "datasource",
            "query": "prometheus",
            "refresh": 1,
            "hide": 0,
            "current": {},
        },
        _choice(Choice("namespace", "callboard_event_loop_lag_seconds_count")),
        {
            "name": "docs",
            "label": "Documentation",
            "description": "The root of the built documentation, for links to runbooks.",
            "type": "textbox",
            "query": "http://127.0.0.1:8000",
            "current": {"text": "http://127.0.0.1:8000", "value": "http://127.0.0.1:8000"},
            "hide": 0,
        },
    ]


def _choice(choice: Choice) -> Json:
    query = f"label_values({choice.metric}, {choice.label})"
    return {
        "name": choice.name or choice.label,
        "label": (choice.name or choice.label).capitalize(),
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": "A"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        # Also series without the label, as on a single machine.
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
        "hide": 0,
    }

"""The form in which Grafana stores a dashboard."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import count

from deploy.observability.panels import Dashboard, Panel, Variable, of

Json = dict[str, "JsonValue"]
JsonValue = str | int | float | bool | None | Sequence["JsonValue"] | Mapping[str, "JsonValue"]

SCHEMA_VERSION = 39
WIDTH = 24
TAG = "callboard"
SOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}


def to_json(dashboard: Dashboard) -> Json:
    """The dashboard as Grafana stores it."""
    return {
        "uid": f"callboard-{dashboard.key}",
        "title": f"Callboard: {dashboard.title}",
        "description": dashboard.question,
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": [_starts()]},
        "templating": {"list": [*_common_variables(), *(_variable(variable) for variable in dashboard.variables)]},
        "links": [
            {
                "type": "dashboards",
                "title": "Dashboards",
                "tags": [TAG],
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
            },
            {"type": "link", "title": "Runbooks", "url": "${docs}/runbooks/", "targetBlank": True, "icon": "doc"},
        ],
        "panels": list(_laid_out(dashboard)),
    }


def _laid_out(dashboard: Dashboard) -> Iterator[Json]:
    ids = count(1)
    top = 0
    for row in dashboard.rows:
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
            "exemplar": panel.kind == "timeseries" and "_bucket" in query.expr,
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
        _variable(Variable("namespace", "callboard_event_loop_lag_seconds_count")),
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


def _variable(variable: Variable) -> Json:
    query = f"label_values({variable.metric}, {variable.label})"
    return {
        "name": variable.name or variable.label,
        "label": (variable.name or variable.label).capitalize(),
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

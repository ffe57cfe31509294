"""The dashboards: complete, well-formed, and over metrics that exist."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.observability import build
from deploy.observability.objectives import FIRST_AUDIO, FIRST_TOKEN
from docs.generate import Metric
from tests.deploy.known_metrics import (
    CLUSTER,
    EXPORTER,
    OBSERVABILITY,
    ROOT,
    STANDARD,
    TARGET_LABELS,
    filled,
    matching,
    own_metrics,
    own_series,
    recorded,
    selectors,
)

pytestmark = pytest.mark.deploy

DASHBOARDS = sorted((OBSERVABILITY / "dashboards").glob("*.json"))
UNITS = {"s", "bytes", "Bps", "reqps", "ops", "short", "percent", "percentunit", "bool_yes_no", "watt", "celsius"}
BUILT_IN = {"__rate_interval", "__range", "__range_ms", "__interval", "__all"}

CLOSED_LABELS = {
    "backend", "code", "decision", "gen_ai_operation_name", "gen_ai_request_model", "gen_ai_token_type", "kind",
    "limit",
    "may_sleep", "memory", "mode", "outcome", "pool", "protocol", "reason", "request", "result", "route", "script",
    "service", "source", "stage", "state", "status", "turn", "work",
}  # fmt: skip
"""Labels whose values come from the code or the configuration, never from a client."""
BASE_UNITS = ("_seconds", "_bytes", "_ratio")
SCALED = re.compile(r"_(ms|millis|milliseconds|us|ns|minutes|hours|days|kb|mb|kib|mib|percent|milli\w+)(_|$)")
OPENTELEMETRY = {
    "gen_ai_client_operation_duration_seconds",
    "gen_ai_client_token_usage",
    "gen_ai_server_request_duration_seconds",
    "gen_ai_server_time_per_output_token_seconds",
    "gen_ai_server_time_to_first_token_seconds",
}
"""The metrics of OpenTelemetry's conventions for generative models, as Prometheus writes their names."""
OPENTELEMETRY_LABELS = {
    "pool",
    "gen_ai_request_model",
    "gen_ai_token_type",
    "gen_ai_operation_name",
    "gen_ai_provider_name",
}


def dashboard_json(path: Path) -> dict[str, Any]:
    dashboard: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return dashboard


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in DASHBOARDS:
        for panel in dashboard_json(path)["panels"]:
            if panel["type"] != "row":
                yield path.stem, panel


PANELS = [pytest.param(dashboard, panel, id=f"{dashboard}: {panel['title']}") for dashboard, panel in panels()]


def series_of_rules() -> dict[str, set[str]]:
    """Recorded series with the labels that their rule leaves them."""
    found: dict[str, set[str]] = {}
    for name, expr in recorded().items():
        kept = re.findall(r"by \(([^)]*)\)", expr)
        found[name] = {label.strip() for labels in kept for label in labels.split(",")} | {"service"}
    return found


def known_series() -> dict[str, set[str]]:
    known = {**own_series(), **EXPORTER, **CLUSTER, **STANDARD, **series_of_rules()}
    return {name: labels | TARGET_LABELS for name, labels in known.items()}


KNOWN = known_series()


def test_the_files_are_what_the_generator_writes() -> None:
    assert build.differing() == [], "run `python -m deploy.observability.build` and commit what it wrote"


@pytest.mark.parametrize("metric", own_metrics(), ids=lambda metric: metric.name)
def test_a_metric_is_named_by_the_rules(metric: Metric) -> None:
    if metric.name.startswith("gen_ai_"):
        assert metric.name in OPENTELEMETRY
        assert set(metric.labels) <= OPENTELEMETRY_LABELS
    else:
        assert re.fullmatch(r"callboard(_(edge|chat|tts|stt|quota|rooms))?(_[a-z]+)+", metric.name)
    assert not SCALED.search(metric.name)
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    if metric.kind == "histogram" and metric.name != "gen_ai_client_token_usage":
        assert metric.name.endswith(BASE_UNITS)
    assert set(metric.labels) <= CLOSED_LABELS, "a label that is not known to be a closed set"
    assert metric.meaning[0].isupper() or metric.meaning[0].isdigit()
    assert metric.meaning.endswith(".")


def test_every_metric_has_one_line_in_the_reference() -> None:
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text("utf-8")
    for metric in own_metrics():
        lines = [line for line in page.splitlines() if line.startswith(f"| `{metric.name}` |")]
        assert len(lines) == 1, metric.name
        _, _, kind, labels, unit, meaning, _ = lines[0].split("|")
        assert kind.strip() == metric.kind
        assert re.findall(r"`(\w+)`", labels) == list(metric.labels)
        assert unit.strip() == metric.unit
        assert meaning.strip() == metric.meaning


def test_every_metric_is_on_a_panel() -> None:
    shown: set[str] = set()
    rule_of = recorded()
    waiting = [target["expr"] for _, panel in panels() for target in panel["targets"]]
    while waiting:
        for selector in selectors(waiting.pop()):
            if selector.name in rule_of and selector.name not in shown:
                waiting.append(rule_of[selector.name])
            shown.add(selector.name)
    missing = {
        metric.name
        for metric in own_metrics()
        if not shown & {metric.name, f"{metric.name}_bucket", f"{metric.name}_sum", f"{metric.name}_count"}
    }
    assert missing == set()


@pytest.mark.parametrize(("dashboard", "panel"), PANELS)
def test_a_panel_says_what_it_shows_and_in_which_unit(dashboard: str, panel: dict[str, Any]) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    assert unit in UNITS or re.fullmatch(r"suffix: \S+", unit)
    assert re.fullmatch(r"[A-Z*].{15,}\.", panel["description"]), panel["description"]
    assert panel["targets"]
    for target in (panel, *panel["targets"]):
        assert target["datasource"]["uid"] == "${datasource}"
    for link in panel["links"]:
        found = re.fullmatch(r"\$\{docs\}/runbooks/([a-z-]+)/", link["url"])
        assert found is not None
        assert (ROOT / "docs" / "runbooks" / f"{found[1]}.md").exists()


@pytest.mark.parametrize(("dashboard", "panel"), PANELS)
def test_a_panel_selects_series_and_labels_that_exist(dashboard: str, panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        for selector in selectors(target["expr"]):
            known = matching(selector.name, KNOWN)
            assert known, selector.name
            used = {label for label, _, _ in selector.matchers}
            for name, labels in known.items():
                assert used <= labels, f"{name} has no {used - labels}"
            assert "namespace" in used, "an installation must not be shown another's figures"
        for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
            assert any(label in KNOWN[selector.name] for selector in selectors(target["expr"])), label


@pytest.mark.parametrize(("dashboard", "panel"), PANELS)
def test_a_panel_rates_over_the_rate_interval_and_never_averages_quantiles(
    dashboard: str, panel: dict[str, Any]
) -> None:
    for target in panel["targets"]:
        expr = target["expr"]
        assert set(re.findall(r"\[([^]]*)\]", expr)) <= {"$__rate_interval", "$__range"}
        assert "avg" not in expr
        if "histogram_quantile" in expr:
            assert re.search(r"sum by \((\w+, )*le\) \(", expr)
        if "is_consumer_leader" not in expr:
            assert "jetstream_consumer_" not in expr
        if "is_stream_leader" not in expr:
            assert "jetstream_stream_" not in expr


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_has_the_variables_that_it_uses(path: Path) -> None:
    dashboard = dashboard_json(path)
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert {"datasource", "namespace", "docs"} <= set(variables)
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard)))
    assert used - BUILT_IN == set(variables)
    for variable in variables.values():
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"])
            assert found is not None
            assert found[2] in KNOWN[found[1]]
    for annotation in dashboard["annotations"]["list"]:
        assert selectors(annotation["expr"])
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_of_a_dashboard_do_not_overlap(path: Path) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard_json(path)["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_dashboards_are_told_apart_by_their_ids_and_titles() -> None:
    dashboards = [dashboard_json(path) for path in DASHBOARDS]
    assert len({dashboard["uid"] for dashboard in dashboards}) == len(dashboards) == 9
    assert len({dashboard["title"] for dashboard in dashboards}) == len(dashboards)


def test_promised_times_are_bounds_of_buckets_and_promised_routes_exist() -> None:
    from callboard_edge.metrics import FIRST_BYTE_BUCKETS
    from callboard_edge.protocols.openai import chat, completions, speech

    assert FIRST_TOKEN.in_time_s in FIRST_BYTE_BUCKETS
    assert FIRST_AUDIO.in_time_s in FIRST_BYTE_BUCKETS
    assert set(FIRST_TOKEN.routes.split("|")) == {chat.NAME, completions.NAME}
    assert FIRST_AUDIO.routes == speech.NAME


def test_filling_in_leaves_no_variable() -> None:
    assert filled('rate(a{x=~"$model"}[$__rate_interval]) > $__range_ms') == 'rate(a{x=~".*"}[5m]) > 3600000'


def test_what_grafana_and_prometheus_load_exists() -> None:
    from callboard_contracts.config import EdgeSection, QuotaSection, RoomsSection

    configuration = (OBSERVABILITY / "prometheus" / "up.yml").read_text("utf-8")
    assert f"127.0.0.1:{EdgeSection().metrics_port}" in configuration
    assert f"127.0.0.1:{QuotaSection().metrics_port}" in configuration
    assert f"127.0.0.1:{RoomsSection().metrics_port}" in configuration
    jobs = set(re.findall(r"job_name: (\S+)", configuration))
    assert jobs == {f"callboard-{name}" for name in ("edge", "chat", "tts", "stt", "quota", "rooms", "nats")}
    compose = (OBSERVABILITY / "prometheus" / "compose.yml").read_text("utf-8")
    assert set(re.findall(r"job_name: (\S+)", compose)) == jobs
    asked = {value for _, panel in panels() for target in panel["targets"] for selector in selectors(target["expr"])
             for label, _, value in selector.matchers if label == "job"}  # fmt: skip
    assert asked <= jobs

"""The rules: over metrics that exist, explained, and firing when they should and only then."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.observability.objectives import SERVER_ERRORS
from tests.deploy.known_metrics import (
    CLUSTER,
    EXPORTER,
    OBSERVABILITY,
    ROOT,
    RULE_FILES,
    STANDARD,
    TARGET_LABELS,
    matching,
    own_series,
    recorded,
    rules,
    selectors,
)

pytestmark = pytest.mark.deploy

RUNBOOKS = ROOT / "docs" / "runbooks"
RULE_TESTS = sorted((OBSERVABILITY / "rules" / "tests").glob("*.yaml"))
RULES = [pytest.param(rule, id=f"{rule.get('record') or rule['alert']}-{n}") for n, rule in enumerate(rules())]
ALERTS = [rule for rule in rules() if "alert" in rule]
RUNBOOK_URL = re.compile(r"\{\{ \$externalLabels\.docs }}/runbooks/([a-z-]+)/")
KNOWN = {
    name: labels | TARGET_LABELS
    for name, labels in {
        **own_series(),
        **EXPORTER,
        **CLUSTER,
        **STANDARD,
        **{name: {"service", "pool", "may_sleep", "le", "code", "protocol", "decision"} for name in recorded()},
    }.items()
}


def promtool(*arguments: str | Path) -> str:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is missing; `apt-get install prometheus` brings it")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def runbook_of(alert: dict[str, Any]) -> str:
    found = RUNBOOK_URL.fullmatch(alert["annotations"]["runbook_url"])
    assert found is not None, alert["alert"]
    return found[1]


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_selects_series_and_labels_that_exist(rule: dict[str, Any]) -> None:
    for selector in selectors(rule["expr"]):
        known = matching(selector.name, KNOWN)
        assert known, selector.name
        for name, labels in known.items():
            used = {label for label, _, _ in selector.matchers}
            assert used <= labels, f"{name} has no {used - labels}"


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_keeps_installations_apart(rule: dict[str, Any]) -> None:
    for kept in re.findall(r"\b(?:by|on) \(([^)]*)\)", rule["expr"]):
        assert "namespace" in kept.split(", "), kept
    assert not re.search(r"\b(sum|min|max|avg|count) *\(", rule["expr"]), "an aggregation over installations"


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: f"{alert['alert']}-{alert['labels']['severity']}")
def test_an_alert_says_how_bad_it_is_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["alert"].startswith("Callboard")
    assert set(alert["labels"]) == {"severity"}
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert all(alert["annotations"].values())
    page = (RUNBOOKS / f"{runbook_of(alert)}.md").read_text("utf-8")
    assert f"`{alert['alert']}`" in page
    assert re.findall(r"^## (\w+)", page, re.MULTILINE) == ["Look", "Cause", "Act"]
    used = set(re.findall(r"\$labels\.(\w+)", str(alert["annotations"])))
    given = {label for kept in re.findall(r"by \(([^)]*)\)", alert["expr"]) for label in kept.split(", ")}
    assert used <= given | {"service"} | (TARGET_LABELS if not given else set())


def test_every_runbook_belongs_to_an_alert_and_stands_in_the_list() -> None:
    pages = {path.stem for path in RUNBOOKS.glob("*.md")} - {"index"}
    assert pages == {runbook_of(alert) for alert in ALERTS}
    index = (RUNBOOKS / "index.md").read_text("utf-8")
    for alert in ALERTS:
        page = (RUNBOOKS / f"{runbook_of(alert)}.md").read_text("utf-8")
        meaning = re.search(rf"`{alert['alert']}`: (.*?)\n\n", page, re.DOTALL)
        assert meaning is not None
        assert f"| [{alert['alert']}]({runbook_of(alert)}.md) | {' '.join(meaning[1].split())} |" in index


def test_a_runbook_names_dashboards_and_panels_that_exist() -> None:
    dashboards = [json.loads(path.read_text("utf-8")) for path in (OBSERVABILITY / "dashboards").glob("*.json")]
    known = {dashboard["title"].removeprefix("Callboard: ") for dashboard in dashboards}
    known |= {panel["title"] for dashboard in dashboards for panel in dashboard["panels"]}
    for path in RUNBOOKS.glob("*.md"):
        assert set(re.findall(r"\*([^*]+)\*", path.read_text("utf-8"))) <= known, path.name


def test_errors_of_ours_are_those_of_the_catalogue() -> None:
    asked = re.findall(r'code=~"([^"]*)"', " ".join(rule["expr"] for rule in rules()))
    assert set(asked) == {SERVER_ERRORS}


def test_every_alert_is_tried_when_it_must_fire_and_when_it_must_not() -> None:
    silent: set[str] = set()
    warning: set[tuple[str, str]] = set()
    for path in RULE_TESTS:
        for case in yaml.safe_load(path.read_text("utf-8"))["tests"]:
            assert any('namespace="quiet"' in series["series"] for series in case["input_series"])
            for tried in case["alert_rule_test"]:
                if not tried["exp_alerts"]:
                    silent.add(tried["alertname"])
                for expected in tried["exp_alerts"]:
                    assert expected["exp_labels"]["namespace"] == "loud"
                    warning.add((tried["alertname"], expected["exp_labels"]["severity"]))
    assert warning == {(alert["alert"], alert["labels"]["severity"]) for alert in ALERTS}
    assert silent == {alert["alert"] for alert in ALERTS}


def test_prometheus_accepts_the_rules() -> None:
    assert promtool("check", "rules", *RULE_FILES).count("SUCCESS") == len(RULE_FILES)


@pytest.mark.parametrize("name", ["up.yml", "compose.yml"])
def test_prometheus_accepts_its_configuration(name: str) -> None:
    said = promtool("check", "config", OBSERVABILITY / "prometheus" / name)
    assert f"{len(RULE_FILES)} rule files found" in said


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should(path: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", path)


def test_containers_are_given_files_that_exist() -> None:
    services = yaml.safe_load((OBSERVABILITY / "compose.yaml").read_text("utf-8"))["services"]
    mounted = [volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])]
    folders = [each for each in mounted if each.startswith("./")]
    assert len(folders) == 4
    assert all((OBSERVABILITY / folder).is_dir() for folder in folders)
    for path in (OBSERVABILITY / "grafana").rglob("*.yaml"):
        assert yaml.safe_load(path.read_text("utf-8"))["apiVersion"] == 1


def test_samples_lead_from_prometheus_over_grafana_to_their_traces() -> None:
    services = yaml.safe_load((OBSERVABILITY / "compose.yaml").read_text("utf-8"))["services"]
    assert "--enable-feature=exemplar-storage" in services["prometheus"]["command"]
    text = (OBSERVABILITY / "grafana" / "provisioning" / "datasources" / "callboard.yaml").read_text("utf-8")
    assert set(re.findall(r"\$\{(\w+)}", text)) <= set(services["grafana"]["environment"])
    sources = {source["uid"]: source for source in yaml.safe_load(text)["datasources"]}
    (destination,) = sources["callboard-prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert destination["name"] == "trace_id"
    assert sources[destination["datasourceUid"]]["type"] == "jaeger"

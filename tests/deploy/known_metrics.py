"""Every series that a query may select, with its labels: our own, recorded ones, and those of other programs."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml

from docs.generate import Metric, all_metrics

ROOT = Path(__file__).parents[2]
OBSERVABILITY = ROOT / "deploy" / "observability"
RULE_FILES = sorted((OBSERVABILITY / "rules").glob("*.yaml"))
TARGET_LABELS = {"job", "instance", "namespace"}
GRAFANA_VALUES = {
    "$__rate_interval": "5m",
    "$__range_ms": "3600000",
    "$__range": "1h",
    "$__interval": "15s",
}

STREAM_LABELS = {"stream_name", "stream_leader", "is_stream_leader", "stream_raft_group", "account", "account_id"}
SERVER_LABELS = {"server_id", "server_name", "cluster", "domain", "meta_leader", "is_meta_leader"}
CONSUMER_LABELS = {"consumer_name", "consumer_leader", "is_consumer_leader", "consumer_desc"}
EXPORTER: dict[str, set[str]] = {
    **{
        f"jetstream_server_{name}": SERVER_LABELS
        for name in ("total_streams", "total_consumers", "total_messages", "total_message_bytes", "max_storage")
    },
    **{
        f"jetstream_stream_{name}": SERVER_LABELS | STREAM_LABELS
        for name in ("total_messages", "total_bytes", "first_seq", "last_seq", "limit_bytes", "limit_messages")
    },
    **{
        f"jetstream_consumer_{name}": SERVER_LABELS | STREAM_LABELS | CONSUMER_LABELS
        for name in (
            "delivered_consumer_seq",
            "delivered_stream_seq",
            "num_ack_pending",
            "num_redelivered",
            "num_waiting",
            "num_pending",
            "ack_floor_stream_seq",
            "ack_floor_consumer_seq",
        )
    },
    **{
        f"gnatsd_varz_{name}": {"server_id"}
        for name in ("connections", "slow_consumers", "in_msgs", "out_msgs", "in_bytes", "out_bytes", "mem", "cpu")
    },
}
"""What prometheus-nats-exporter makes of a server's `jsz` and `varz` pages, read from its source (version 0.16)."""
CLUSTER: dict[str, set[str]] = {
    **{
        f"DCGM_FI_DEV_{name}": {"gpu", "UUID", "device", "modelName", "Hostname", "container", "pod"}
        for name in ("GPU_UTIL", "FB_USED", "POWER_USAGE", "GPU_TEMP", "XID_ERRORS")
    },
    **{
        f"keda_scaler_{name}": {"metric", "scaledObject", "scaler", "triggerIndex", "type"}
        for name in ("active", "metrics_value", "detail_errors_total")
    },
    "kube_deployment_spec_replicas": {"deployment"},
    "kube_deployment_status_replicas_ready": {"deployment"},
    "kube_pod_status_unschedulable": {"pod", "uid"},
    "kube_pod_container_status_restarts_total": {"pod", "uid", "container"},
    "kube_pod_container_status_last_terminated_reason": {"pod", "uid", "container", "reason"},
    "container_cpu_cfs_throttled_periods_total": {"pod", "container"},
    "container_cpu_cfs_periods_total": {"pod", "container"},
}
"""What a cluster's exporters serve: NVIDIA's for GPUs, KEDA's operator, kube-state-metrics and the kubelet."""
STANDARD: dict[str, set[str]] = {
    "process_resident_memory_bytes": set(),
    "process_cpu_seconds_total": set(),
    "process_start_time_seconds": set(),
    "up": set(),
    "ALERTS": {"alertname", "alertstate", "severity"},
}
"""What the client library and Prometheus itself measure."""


@dataclass(frozen=True, slots=True)
class Selector:
    """One series that a query selects: its name, and the label, operator and value of each matcher."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]


def own_metrics() -> list[Metric]:
    """Every metric of every service."""
    return [metric for metrics in all_metrics().values() for metric in metrics]


def own_series() -> dict[str, set[str]]:
    """Every series of ours with its labels; a histogram is three."""
    series: dict[str, set[str]] = {}
    for metric in own_metrics():
        labels = set(metric.labels)
        if metric.kind == "histogram":
            series[f"{metric.name}_bucket"] = labels | {"le"}
            series[f"{metric.name}_sum"] = series[f"{metric.name}_count"] = labels
        else:
            series[metric.name] = labels
    return series


def rules() -> list[dict[str, Any]]:
    """Every rule of every file."""
    groups: list[dict[str, Any]] = []
    for path in RULE_FILES:
        groups += yaml.safe_load(path.read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def recorded() -> dict[str, str]:
    """The expression of each recorded series; where several record one, all of them."""
    found: dict[str, str] = {}
    for rule in rules():
        if "record" in rule:
            known = found.get(rule["record"])
            found[rule["record"]] = f"{known} or {rule['expr']}" if known else rule["expr"]
    return found


def filled(expr: str) -> str:
    """A query with the values that Grafana would put in for its own variables and a deployment's."""
    for name, value in GRAFANA_VALUES.items():
        expr = re.sub(rf"{re.escape(name)}\b", value, expr)
    return re.sub(r"\$\w+", ".*", expr)


def selectors(expr: str) -> list[Selector]:
    """Every series that a query selects; raises ValueError where it is not PromQL."""
    found: list[Selector] = []

    def look(node: promql.Expr) -> bool:
        inner = node.vector_selector if isinstance(node, promql.MatrixSelector) else node
        if isinstance(inner, promql.VectorSelector):
            matchers = tuple((each.name, str(each.op), each.value) for each in inner.matchers.matchers)
            named = [value for label, _, value in matchers if label == "__name__"]
            found.append(Selector(inner.name or named[0], tuple(each for each in matchers if each[0] != "__name__")))
        return True

    promql.walk(promql.parse(filled(expr)), look)
    return found


def matching(name: str, known: dict[str, set[str]]) -> dict[str, set[str]]:
    """The series that a name, or a regular expression for names, stands for."""
    return {series: labels for series, labels in known.items() if series == name or re.fullmatch(name, series)}

"""What Kubernetes gets of this folder: the rules as an object of the Prometheus operator, dashboards as ConfigMaps."""

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

WRITTEN = "# Written by `python -m deploy.observability.build`.\n"
LABELS = {"app.kubernetes.io/part-of": "callboard"}


def prometheus_rule(files: Iterable[str]) -> str:
    """The rules of several files of Prometheus as one PrometheusRule."""
    groups: list[dict[str, Any]] = [group for text in files for group in yaml.safe_load(text)["groups"]]
    return _text(
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": "callboard", "labels": LABELS},
            "spec": {"groups": groups},
        }
    )


def kustomization(rule_file: str, dashboards: Iterable[str]) -> str:
    """The Component that deploy/k8s/components/monitoring pulls in; Grafana's sidecar finds dashboards by a label."""
    return _text(
        {
            "apiVersion": "kustomize.config.k8s.io/v1alpha1",
            "kind": "Component",
            "resources": [rule_file],
            "generatorOptions": {
                "disableNameSuffixHash": True,
                "labels": {**LABELS, "grafana_dashboard": "1"},
                "annotations": {"grafana_folder": "Callboard"},
            },
            "configMapGenerator": [
                {"name": f"dashboard-{key}", "files": [f"dashboards/{key}.json"]} for key in dashboards
            ],
        }
    )


def _text(document: Mapping[str, Any]) -> str:
    return WRITTEN + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)

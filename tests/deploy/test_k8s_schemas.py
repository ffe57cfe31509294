"""The rendered manifests against the schemas of Kubernetes, KEDA and the Prometheus operator, and YAML's own rules."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule
from pydantic import BaseModel
from yamllint import linter
from yamllint.config import YamlLintConfig

from tests.deploy.kubernetes import DRA, K8S, OLDEST, OVERLAYS, Document, composed, name_of, of_kind, rendered

pytestmark = pytest.mark.deploy

# The package reads all definitions of a version for each document.
kubernetes_validate.utils.schema_contents = cache(kubernetes_validate.utils.schema_contents)
NEWEST = kubernetes_validate.latest_version()
OPERATORS: dict[str, type[BaseModel]] = {
    "ScaledObject": ScaledObject,
    "PodMonitor": PodMonitor,
    "PrometheusRule": PrometheusRule,
}
NEWER_THAN_THE_MODELS = {"ScaledObject.spec.fallback.behavior"}
"""Fields of KEDA 2.17, which the manifests ask for; the models are of 2.16."""
OTHERS = {"HTTPRoute"}
"""Kinds without a schema in any package; a test of their own looks at their fields."""
LINT = YamlLintConfig(
    "{extends: default, rules: {document-start: disable, line-length: {max: 120}, braces: {max-spaces-inside: 1}, "
    "comments: {min-spaces-from-content: 1}, indentation: {indent-sequences: consistent}, "
    "truthy: {check-keys: false}}}"
)
FILES = sorted(path for path in K8S.rglob("*.yaml"))


def refused(document: Document, version: str) -> str | None:
    """What the strict schemas of a version have against a document, or None."""
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{name_of(document)}: {'.'.join(map(str, error.path))}: {error.message}"
    return None


def distinct(*kinds: str) -> list[Document]:
    """The objects of all overlays, each once; those of some kinds, or of all that belong to Kubernetes itself."""
    objects = [each for overlay in OVERLAYS for each in rendered(overlay)]
    if kinds:
        objects = of_kind(objects, *kinds)
    else:
        objects = [each for each in objects if each["kind"] not in {*OPERATORS, *OTHERS}]
    return list({json.dumps(each, sort_keys=True): each for each in objects}.values())


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_the_overlays_fit_the_oldest_and_the_newest_kubernetes(version: str) -> None:
    assert not [found for each in distinct() if (found := refused(each, version))]


@pytest.mark.parametrize("version", [DRA, NEWEST])
def test_claims_of_devices_fit_the_versions_that_have_them(version: str, tmp_path: Path) -> None:
    objects = composed(tmp_path, "dev", "ollama-sidecar", "gpu-dra", accelerated=["chat", "tts"])
    assert of_kind(objects, "ResourceClaimTemplate")
    assert not [found for each in objects if (found := refused(each, version))]


@pytest.mark.parametrize("kind", OPERATORS)
def test_objects_of_operators_have_the_fields_that_those_know(kind: str) -> None:
    objects = distinct(kind)
    assert objects
    for document in objects:
        known = OPERATORS[kind].model_validate(document).model_dump(mode="json", by_alias=True, exclude_unset=True)
        assert set(lost(document, known, kind)) <= NEWER_THAN_THE_MODELS


def lost(given: Any, known: Any, path: str) -> list[str]:
    """The fields of a document that a model has dropped, which are those that it does not know."""
    if isinstance(given, dict) and isinstance(known, dict):
        missing = [f"{path}.{key}" for key in given.keys() - known.keys()]
        return missing + [
            found for key in given.keys() & known for found in lost(given[key], known[key], f"{path}.{key}")
        ]
    if isinstance(given, list) and isinstance(known, list):
        return [found for one, other in zip(given, known, strict=True) for found in lost(one, other, path)]
    return []


def test_a_misspelt_field_of_an_operator_is_found() -> None:
    [document, *_] = of_kind(rendered("cpu"), "ScaledObject")
    wrong = {**document, "spec": {**document["spec"], "poolingInterval": 5}}
    known = ScaledObject.model_validate(wrong).model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert "ScaledObject.spec.poolingInterval" in lost(wrong, known, "ScaledObject")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(K8S)))
def test_a_file_is_tidy_yaml(path: Path) -> None:
    problems = [f"{each.line}: {each.desc}" for each in linter.run(path.read_text("utf-8"), LINT)]
    assert not problems
    assert list(yaml.safe_load_all(path.read_text("utf-8")))

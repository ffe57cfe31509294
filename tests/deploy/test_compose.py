"""The images and the compose file: what they name exists, and no process runs as root."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from callboard_cli.models.catalogue import needed_by
from callboard_contracts.permissions import USERS
from callboard_kit.settings import load_config
from tests.support.nats_server import server_binary

pytestmark = pytest.mark.deploy

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy" / "compose"
NAME = "deploy/images/Dockerfile"
DOCKERFILE = ROOT / NAME
COMMON = {"PYTHON_IMAGE", "MEMBER"}


def compose() -> dict[str, Any]:
    return yaml.safe_load((COMPOSE / "compose.yaml").read_text())


def images() -> dict[str, dict[str, str]]:
    """The build arguments of each image that compose builds, by the workspace member in it."""
    builds = [service["build"] for service in compose()["services"].values() if "build" in service]
    assert {COMPOSE / build["context"] / build["dockerfile"] for build in builds} == {COMPOSE / "../.." / NAME}
    return {build["args"]["MEMBER"]: build["args"] for build in builds}


def test_the_image_is_built_from_hashes_and_runs_as_nobody() -> None:
    text = DOCKERFILE.read_text()
    assert "PYTHON_IMAGE" in re.findall(r"^ARG (\w+)=\S+$", text, re.MULTILINE)
    installs = re.findall(r"\binstall --no-cache-dir (.*?)(?: \\$|$)", text, re.MULTILINE)
    assert len(installs) == text.count("pip install") + text.count("pip --python /opt/callboard install")
    assert all("--require-hashes" in line or "--no-index" in line for line in installs)
    last = text[text.rindex("FROM ") :]
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
    assert "pip" not in last


@pytest.mark.parametrize(("member", "arguments"), images().items(), ids=images())
def test_an_image_gets_the_arguments_that_the_dockerfile_knows(member: str, arguments: dict[str, str]) -> None:
    known = set(re.findall(r"^ARG (\w+)", DOCKERFILE.read_text(), re.MULTILINE))
    assert set(arguments) <= known
    service = member.rsplit("/", 1)[-1]
    project = tomllib.loads((ROOT / member / "pyproject.toml").read_text())["project"]
    assert project["name"] == f"callboard-{service}"
    assert (ROOT / member / "src" / f"callboard_{service}" / "__main__.py").exists()
    assert (ROOT / "locks" / f"{arguments['LOCK']}.txt").exists()
    # Only the command line's image has pip, with which it fetches model files.
    assert ("VENV_OPTIONS" in arguments) == (member == "cli")
    guide = (ROOT / "docs" / "how-to" / "containers.md").read_text()
    given = ", ".join(f"`{name}={value}`" for name, value in arguments.items() if name not in COMMON)
    assert f"| {service} | {given} |" in guide


def test_every_service_of_the_workspace_is_in_compose() -> None:
    members = {str(path.parent.relative_to(ROOT)) for path in ROOT.glob("services/*/pyproject.toml")}
    assert set(images()) == members | {"cli"}


def test_compose_names_only_what_exists() -> None:
    document = compose()
    services = document["services"]
    for name, service in services.items():
        for needed in service.get("depends_on", {}):
            assert needed in services, name
        for volume in service.get("volumes", []):
            source = volume["source"] if isinstance(volume, dict) else volume.split(":")[0]
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
    assert str(config.site.model_dir) in {volume["target"] for volume in services["chat"]["volumes"]}
    assert services["edge"]["ports"][0].startswith("127.0.0.1:")
    assert services["edge"]["ports"][0].endswith(f":{config.edge.port}")


def test_compose_serves_what_up_serves() -> None:
    ours = load_config(COMPOSE / "callboard.toml", {})
    packaged = load_config(ROOT / "cli" / "src" / "callboard_cli" / "callboard.toml", {})
    assert ours.chat.models == packaged.chat.models
    assert ours.tts.models == packaged.tts.models
    assert ours.quota == packaged.quota
    assert (ours.chat.default_model, ours.tts.default_model) == ("smollm2", "kokoro")
    assert (packaged.chat.default_model, packaged.tts.default_model) == ("smollm2", "kokoro")
    assert needed_by(ours) == needed_by(packaged)


def test_containers_get_longer_to_stop_than_services_take() -> None:
    config = load_config(COMPOSE / "callboard.toml", {})
    grace = float(compose()["services"]["edge"]["stop_grace_period"].removesuffix("s"))
    assert grace > max(config.edge.drain_timeout_s, config.chat.drain_timeout_s, config.tts.drain_timeout_s)


def test_the_bus_takes_its_configuration_and_can_be_watched(tmp_path: Path) -> None:
    path = shutil.copy(COMPOSE / "nats.conf", tmp_path)
    made_secrets(tmp_path / "made")
    shutil.copytree(tmp_path / "made" / "server", tmp_path / "secret")
    tried = subprocess.run(
        [server_binary(), "-t", "-c", str(path)], capture_output=True, text=True, timeout=20, check=False
    )
    assert tried.returncode == 0, tried.stderr
    # Prometheus scrapes the exporter, which reads the monitor; no port of it is published.
    text = (COMPOSE / "nats.conf").read_text()
    assert re.search(r'^http: "0\.0\.0\.0:8222"$', text, re.MULTILINE)
    assert "ports" not in compose()["services"]["nats"]


def made_secrets(folder: Path) -> dict[str, str]:
    """Runs what the service `folders` runs, in a folder, and returns each user's password."""
    folder.mkdir(exist_ok=True)
    [script] = compose()["services"]["folders"]["command"]
    script = script.replace("/secret", shlex.quote(str(folder))).replace("${CALLBOARD_BUS_USERS:-}", "")
    script = script.replace("callboard ", f"{shlex.quote(sys.executable)} -m callboard_cli ")
    script = re.sub(r"chown .*", "", script)
    subprocess.run(["sh", "-ec", script], timeout=60, check=True)
    return {user: (folder / user / f"{user}.password").read_text() for user in USERS}


def test_each_user_of_the_bus_gets_a_password_once_and_each_service_its_own(tmp_path: Path) -> None:
    passwords = made_secrets(tmp_path / "secret")
    assert len(set(passwords.values())) == len(USERS)
    assert all(len(password) >= 32 for password in passwords.values())
    assert made_secrets(tmp_path / "secret") == passwords
    users = (tmp_path / "secret" / "server" / "users.conf").read_text()
    assert all(users.count(password) == 1 for password in passwords.values())
    services = compose()["services"]
    seen = {
        name: [volume["volume"]["subpath"] for volume in service.get("volumes", []) if "subpath" in str(volume)]
        for name, service in services.items()
    }
    named = {"streams": "operator", **{name: name for name in USERS if name != "operator"}}
    assert seen == {name: ["server"] if name == "nats" else [named[name]] if name in named else [] for name in services}
    for name, user in named.items():
        assert services[name]["environment"] == {
            "CALLBOARD__NATS__USER": user,
            "CALLBOARD__NATS__PASSWORD_FILE": f"/etc/secret/{user}.password",
        }


def test_worker_containers_have_a_memory_limit() -> None:
    for name in ("chat", "tts"):
        assert compose()["services"][name]["mem_limit"] == "${CALLBOARD_WORKER_MEMORY:-4g}"


def test_the_speech_worker_may_load_the_library_that_it_copies_to_its_temporary_folder() -> None:
    # Docker mounts a tmpfs with noexec unless told otherwise.
    assert compose()["services"]["tts"]["tmpfs"] == ["/tmp:exec"]

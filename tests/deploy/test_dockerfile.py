"""The Dockerfile of every image: installed from hashes, run by nobody, and with the arguments that the guide names."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.images import DOCKERFILE, ROOT, build_arguments

pytestmark = pytest.mark.deploy

TEXT = (ROOT / DOCKERFILE).read_text()
SERVICE_STAGE, SITE_STAGE, LAST_STAGE = re.split(r"^FROM service.*$", TEXT[TEXT.index(" AS service") :], flags=re.M)
GUIDE = (ROOT / "docs" / "how-to" / "containers.md").read_text()


def test_images_are_installed_from_hashes_and_run_as_nobody() -> None:
    assert "PYTHON_IMAGE" in re.findall(r"^ARG (\w+)=\S+$", TEXT, re.MULTILINE)
    installs = re.findall(r"\binstall --no-cache-dir (.*?)(?: \\$|$)", TEXT, re.MULTILINE)
    assert len(installs) == 3
    assert all("--require-hashes" in line or "--no-index" in line for line in installs)
    assert re.search(r"^USER 10001:10001$", SERVICE_STAGE, re.MULTILINE)
    assert "pip install" not in SERVICE_STAGE


def test_images_say_what_they_are_and_how_they_are() -> None:
    assert re.search(
        r'^HEALTHCHECK .*CMD \["python", "-m", "callboard_kit.health_check"\]$', SERVICE_STAGE, re.MULTILINE
    )
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in SERVICE_STAGE


def test_the_dockerfile_is_clean() -> None:
    program = Path(sys.executable).with_name("hadolint")
    checked = subprocess.run(
        [program, "--failure-threshold", "info", ROOT / DOCKERFILE],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(("image", "arguments"), build_arguments().items(), ids=build_arguments())
def test_an_image_gets_the_arguments_that_the_dockerfile_knows(image: str, arguments: dict[str, str]) -> None:
    assert set(arguments) <= set(re.findall(r"^ARG (\w+)", TEXT, re.MULTILINE))
    members = arguments["MEMBER"].split()
    for member in members:
        service = member.rsplit("/", 1)[-1]
        project = tomllib.loads((ROOT / member / "pyproject.toml").read_text())["project"]
        assert project["name"] == f"callboard-{service}"
        assert (ROOT / member / "src" / f"callboard_{service}" / "__main__.py").exists()
    assert all((ROOT / "locks" / f"{lock}.txt").exists() for lock in arguments["LOCK"].split())
    # Only images with the command line have pip, with which it fetches model files.
    assert ("VENV_OPTIONS" in arguments) == (members[0] == "cli")
    assert ("METRICS_PORT" in arguments) == (members != ["cli"])
    given = ", ".join(f"`{name}={value}`" for name, value in arguments.items() if name != "MEMBER")
    assert f"| {image} | `{arguments['MEMBER']}` | {given} |" in GUIDE


def test_every_service_of_the_workspace_has_an_image_and_is_in_that_of_the_whole_site() -> None:
    members = {str(path.parent.relative_to(ROOT)) for path in ROOT.glob("services/*/pyproject.toml")}
    arguments = dict(build_arguments())
    site = arguments.pop("callboard")
    assert set(site["MEMBER"].split()) == members | {"cli"}
    assert {one["MEMBER"] for one in arguments.values()} == members | {"cli"}
    locks = {one["LOCK"] for one in arguments.values()}
    assert locks - set(site["LOCK"].split()) == {"tts-torch"}


def test_the_image_of_a_whole_site_keeps_its_data_in_a_volume_of_its_user() -> None:
    assert "install -d -o 10001 -g 10001 /data /models" in SITE_STAGE
    assert re.search(r"^VOLUME /data$", SITE_STAGE, re.MULTILINE)
    assert re.findall(r"^USER (\S+)$", SITE_STAGE, re.MULTILINE)[-1] == "10001:10001"
    assert "readyz" in SITE_STAGE
    assert not LAST_STAGE.strip()

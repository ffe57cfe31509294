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
LAST_STAGE = TEXT[TEXT.rindex("FROM ") :]
GUIDE = (ROOT / "docs" / "how-to" / "containers.md").read_text()


def test_images_are_installed_from_hashes_and_run_as_nobody() -> None:
    assert "PYTHON_IMAGE" in re.findall(r"^ARG (\w+)=\S+$", TEXT, re.MULTILINE)
    installs = re.findall(r"\binstall --no-cache-dir (.*?)(?: \\$|$)", TEXT, re.MULTILINE)
    assert len(installs) == 3
    assert all("--require-hashes" in line or "--no-index" in line for line in installs)
    assert re.search(r"^USER 10001:10001$", LAST_STAGE, re.MULTILINE)
    assert "pip install" not in LAST_STAGE


def test_images_say_what_they_are_and_how_they_are() -> None:
    assert re.search(r'^HEALTHCHECK .*CMD \["python", "-m", "callboard_kit.health_check"\]$', LAST_STAGE, re.MULTILINE)
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in LAST_STAGE


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
    member = arguments["MEMBER"]
    service = member.rsplit("/", 1)[-1]
    project = tomllib.loads((ROOT / member / "pyproject.toml").read_text())["project"]
    assert project["name"] == f"callboard-{service}"
    assert (ROOT / member / "src" / f"callboard_{service}" / "__main__.py").exists()
    assert (ROOT / "locks" / f"{arguments['LOCK']}.txt").exists()
    # Only the command line's image has pip, with which it fetches model files.
    assert ("VENV_OPTIONS" in arguments) == (member == "cli")
    assert ("METRICS_PORT" in arguments) == (member != "cli")
    given = ", ".join(f"`{name}={value}`" for name, value in arguments.items() if name != "MEMBER")
    assert f"| {image} | `{member}` | {given} |" in GUIDE


def test_every_service_of_the_workspace_has_an_image() -> None:
    members = {str(path.parent.relative_to(ROOT)) for path in ROOT.glob("services/*/pyproject.toml")}
    assert {arguments["MEMBER"] for arguments in build_arguments().values()} == members | {"cli"}
    assert {arguments["LOCK"] for arguments in build_arguments().values() if arguments["MEMBER"] == "services/tts"} == {
        "tts-onnx",
        "tts-torch",
    }

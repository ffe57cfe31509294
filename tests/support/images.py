"""Callboard's images, built by buildah on a base made by debootstrap, and containers of them, run by runc.

No container engine is needed, but root is. Everything is kept in build/images, so that a second run builds nothing that
did not change.
"""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from tests.support.children import Child

ROOT = Path(__file__).parents[2]
STORE = ROOT / "build" / "images"
DOCKERFILE = "deploy/images/Dockerfile"
BASE = "localhost/callboard-base"
SUITE = "bookworm"
PROGRAMS = ("buildah", "runc", "debootstrap")
BUILD_TIMEOUT_S = 2400.0
USER = 10001


def missing() -> str:
    """What this machine lacks for building and running images, or nothing."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"images need {', '.join(absent)} (Debian: apt-get install {' '.join(absent)})"
    return "" if os.geteuid() == 0 else "images are built and run as root"


@cache
def _builds() -> dict[str, dict[str, Any]]:
    """How compose builds each image, by its name."""
    services: list[dict[str, Any]] = []
    for name in ("compose.yaml", "one-container.yaml"):
        document = yaml.safe_load((ROOT / "deploy" / "compose" / name).read_text(encoding="utf-8"))
        services += document["services"].values()
    return {one["image"].rpartition("/")[2].partition(":")[0]: one["build"] for one in services if "build" in one}


def build_arguments() -> dict[str, dict[str, str]]:
    """The arguments of each image that compose builds, by its name; `PYTHON_IMAGE` is left to the caller."""
    return {
        name: {key: value for key, value in build["args"].items() if key != "PYTHON_IMAGE"}
        for name, build in _builds().items()
    }


def ensure_base() -> None:
    """Makes the base image, a Debian with Python and nothing else."""
    if _buildah("images", "--quiet", "--filter", f"reference={BASE}"):
        return
    folder = STORE / "base"
    if not folder.exists():
        draft = folder.with_name("base.draft")
        shutil.rmtree(draft, ignore_errors=True)
        packages = "--include=python3,python3-venv,ca-certificates"
        _run("debootstrap", "--variant=minbase", packages, SUITE, str(draft))
        shutil.rmtree(draft / "var" / "cache" / "apt", ignore_errors=True)
        draft.rename(folder)
    container = _buildah("from", "scratch")
    try:
        _buildah("add", "--quiet", container, str(folder), "/")
        _buildah("commit", "--quiet", container, BASE)
    finally:
        _buildah("rm", container)


def ensure_image(name: str) -> Path:
    """Builds an image unless it is there and nothing that goes into it has changed; returns its root file system."""
    built = STORE / f"{name}.json"
    arguments = build_arguments()[name]
    state = {"of": _digest(arguments), "root": ""}
    if built.exists() and (known := json.loads(built.read_text(encoding="utf-8")))["of"] == state["of"]:
        return Path(known["root"])
    ensure_base()
    given = [f"--build-arg={key}={value}" for key, value in {"PYTHON_IMAGE": BASE, **arguments}.items()]
    _buildah(
        *("bud", "--isolation", "chroot", "--layers=false", "--format", "docker", "--quiet"),
        *(f"--volume={path}:{path}:ro" for path in _package_access()),
        *given,
        *(["--target", target] if (target := _builds()[name].get("target")) else []),
        *("--tag", f"localhost/{name}", "--file", DOCKERFILE, "."),
    )
    container = f"run-{name}"
    if container in _buildah("containers", "--format", "{{.ContainerName}}").splitlines():
        _buildah("rm", container)
    _buildah("from", "--name", container, f"localhost/{name}")
    state["root"] = _buildah("mount", container)
    built.write_text(json.dumps(state), encoding="utf-8")
    return Path(state["root"])


def image_config(name: str) -> dict[str, Any]:
    """The configuration of an image: user, entry point, environment, labels, health check."""
    return json.loads(_buildah("inspect", "--type", "image", f"localhost/{name}"))["Docker"]["config"]


def size_mb(root: Path) -> float:
    """The bytes of all files below a folder, each counted once, in millions."""
    seen: dict[tuple[int, int], int] = {}
    for path in root.rglob("*"):
        found = path.lstat()
        if not path.is_dir():
            seen[found.st_dev, found.st_ino] = found.st_size
    return sum(seen.values()) / 1e6


class ContainerCommand:
    """How to run one container of an image: read-only, as a user without a name, without capabilities, on loopback.

    `mounts` says where the machine's files and folders are seen inside, to be read only, and `volumes` those that may
    be written. `/tmp` is a file system of its
    own from which nothing can be executed, as Docker's default is.
    """

    def __init__(
        self,
        image: str,
        name: str,
        folder: Path,
        mounts: Mapping[Path, str],
        volumes: Mapping[Path, str] = MappingProxyType({}),
    ) -> None:
        self.name = name
        self._bundle = folder / f"bundle-{name}"
        self._bundle.mkdir(parents=True, exist_ok=True)
        self._root = ensure_image(image)
        self._config = image_config(image)
        self._mounts = mounts
        self._volumes = volumes

    def argv(self, words: Sequence[str], environ: Mapping[str, str]) -> list[str]:
        """Writes the container's bundle, and returns the command that runs it in the foreground."""
        spec = self._spec([*self._config["Entrypoint"], *words], environ)
        (self._bundle / "config.json").write_text(json.dumps(spec), encoding="utf-8")
        return ["runc", "--root", str(STORE / "runc"), "run", "--bundle", str(self._bundle), self.name]

    def exec(self, words: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        """Runs a command in the running container."""
        argv = ["runc", "--root", str(STORE / "runc"), "exec", self.name, *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    def remove(self) -> None:
        """Ends what still runs in the container and forgets it."""
        argv = ["runc", "--root", str(STORE / "runc"), "delete", "--force", self.name]
        subprocess.run(argv, capture_output=True, timeout=60, check=False)

    def _spec(self, words: Sequence[str], environ: Mapping[str, str]) -> dict[str, Any]:
        return {
            "ociVersion": "1.0.2",
            "process": {
                "terminal": False,
                "user": {"uid": USER, "gid": USER},
                "args": list(words),
                "env": [*self._config["Env"], *(f"{key}={value}" for key, value in environ.items())],
                "cwd": self._config["WorkingDir"],
                "capabilities": {kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")},
                "noNewPrivileges": True,
            },
            "root": {"path": str(self._root), "readonly": True},
            "mounts": [
                _mount("/proc", "proc", "proc"),
                _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=64k"),
                _mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=64m"),
                _mount("/tmp", "tmpfs", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", "size=256m"),
                *(_mount(inside, "bind", str(outside), "rbind", "ro") for outside, inside in self._mounts.items()),
                *(_mount(inside, "bind", str(outside), "rbind", "rw") for outside, inside in self._volumes.items()),
            ],
            # Without a network of its own, the container sees the machine's loopback.
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]},
        }


def start_container(command: ContainerCommand, words: Sequence[str], environ: Mapping[str, str], log: Path) -> Child:
    """Starts a container as a child process; signals to the child reach the container."""
    command.remove()
    return Child(command.argv(words, environ), log)


def _mount(target: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": list(options)}


def _digest(arguments: Mapping[str, str]) -> str:
    """A digest of what goes into an image."""
    digest = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode())
    paths = [ROOT / DOCKERFILE, *(ROOT / "locks" / f"{name}.txt" for name in ("build", *arguments["LOCK"].split()))]
    paths += [
        path for top in ("libs", *arguments["MEMBER"].split()) for path in (ROOT / top).rglob("*") if path.is_file()
    ]
    for path in sorted(path for path in paths if "__pycache__" not in path.parts):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _package_access() -> list[Path]:
    """What pip's configuration of this machine consists of: its file, certificates and local folders of packages."""
    file = Path("/etc/pip.conf")
    if not file.exists():
        return []
    words = file.read_text(encoding="utf-8").replace("file://", " ").split()
    named = {Path(word) for word in words if word.startswith("/")}
    tops = {Path(*path.parts[:3]) for path in named if path.exists()}
    return [file, *sorted(tops)]


def _buildah(*words: str) -> str:
    storage = ("--root", str(STORE / "storage"), "--runroot", str(STORE / "run"), "--storage-driver", "vfs")
    return _run("buildah", *storage, *words)


def _run(*argv: str) -> str:
    STORE.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{argv[0]} failed ({done.returncode}): {done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout.strip()

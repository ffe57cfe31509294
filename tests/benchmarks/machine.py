"""The machine that the figures belong to, without its name or its folders."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.support.nats_server import server_binary

PACKAGES = (
    "aiohttp",
    "nats-py",
    "openai",
    "uvloop",
    "pydantic",
    "faststream",
    "onnxruntime",
    "kokoro-onnx",
    "faster-whisper",
)


def description() -> list[str]:
    """What a reader needs to compare the figures with those of another machine."""
    return [
        f"- processor: {_processor()}, {os.cpu_count()} cores in use",
        f"- memory: {_memory_gb():.0f} GB",
        f"- system: {platform.system()} {platform.release().split('-')[0]}, Python {platform.python_version()}",
        f"- bus: nats-server {_bus_version()}, one node",
        f"- packages: {', '.join(_packages())}",
    ]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def _bus_version() -> str:
    done = subprocess.run([server_binary(), "--version"], capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.rpartition("v")[2].strip()


def package_version(name: str) -> str:
    """The version of a package; empty where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _packages() -> list[str]:
    return [f"{name} {found}" for name in PACKAGES if (found := package_version(name))]

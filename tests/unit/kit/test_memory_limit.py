"""The memory limit of a process: by its configuration, its container or the machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from callboard_kit.memory_limit import LEAST_IN_CONTAINER_BYTES, MIB, SHARE_OF_MACHINE, default_limit_bytes

pytestmark = pytest.mark.unit

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def system(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """A made-up `/proc` and `/sys`."""
    for name, text in {"proc/self/cgroup": cgroup, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_machine_gives_three_quarters_of_its_memory(tmp_path: Path) -> None:
    assert default_limit_bytes(tmp_path) == int(MACHINE * SHARE_OF_MACHINE)
    unlimited = system(tmp_path, "0::/\n", {"sys/fs/cgroup/memory.max": "max\n"})
    assert default_limit_bytes(unlimited) == int(MACHINE * SHARE_OF_MACHINE)


@pytest.mark.skipif(MACHINE < 6 * 1024 * MIB, reason="the machine has less memory than the containers of this test")
@pytest.mark.parametrize(
    ("cgroup", "files", "limit_mib"),
    [
        # Inside of a container its own group is at the top.
        ("0::/\n", {"sys/fs/cgroup/memory.max": str(4096 * MIB)}, 4096),
        ("0::/outside/abc\n", {"sys/fs/cgroup/memory.max": str(4096 * MIB)}, 4096),
        # On the machine itself, the lowest limit on the way up counts.
        (
            "0::/site/worker\n",
            {
                "sys/fs/cgroup/site/worker/memory.max": str(5000 * MIB),
                "sys/fs/cgroup/site/memory.max": str(3000 * MIB),
            },
            3000,
        ),
        ("9:cpu:/x\n4:memory:/x\n", {"sys/fs/cgroup/memory/x/memory.limit_in_bytes": str(4096 * MIB)}, 4096),
        # The system itself limits a small one.
        ("0::/\n", {"sys/fs/cgroup/memory.max": str(512 * MIB)}, LEAST_IN_CONTAINER_BYTES // MIB),
    ],
)
def test_a_container_gives_its_limit(tmp_path: Path, cgroup: str, files: dict[str, str], limit_mib: int) -> None:
    assert default_limit_bytes(system(tmp_path, cgroup, files)) == limit_mib * MIB


GROW = """
import ctypes, resource, sys
from callboard_kit.memory_limit import MIB, limit_bytes, limit_memory, used_bytes
{before}
limit_memory({limit})
print(limit_bytes() / MIB)
held = []
try:
    for _ in range(40):
        held.append(bytearray(50 * MIB))
except MemoryError:
    print("refused", used_bytes() / MIB)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the limit")
@pytest.mark.parametrize(
    ("before", "limit"), [("", 600), (f"resource.setrlimit(resource.RLIMIT_DATA, (600 * {MIB}, -1))", 9000)]
)
def test_a_process_cannot_grow_over_its_limit(before: str, limit: int) -> None:
    run = subprocess.run(
        [sys.executable, "-c", GROW.format(before=before, limit=limit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    given, (word, used) = (line.split() for line in run.stdout.splitlines())
    assert given == ["600.0"]
    assert word == "refused"
    assert 500 < float(used) <= 600

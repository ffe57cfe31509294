"""How many processors a process may use: by its affinity and its container."""

import os
from pathlib import Path

import pytest

from callboard_kit.control_groups import processors
from tests.unit.kit.test_memory_limit import system

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "10000 100000\n"}, 1),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ("0::/outside/abc\n", {"sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3),
        (
            "5:cpuacct,cpu:/x\n",
            {"sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "200000", "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000"},
            2,
        ),
        ("5:cpu:/\n", {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 8),
        ("", {}, 8),
    ],
)
def test_a_container_gives_its_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cgroup: str, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)
    assert processors(system(tmp_path, cgroup, files)) == expected

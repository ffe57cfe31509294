"""The memory that a process may use is the least of the limits that hold for it."""

import os
import resource
from pathlib import Path

import pytest

from callboard_kit.memory import usable_memory_bytes

pytestmark = pytest.mark.unit

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_the_machines_memory_is_the_limit_of_a_process_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert usable_memory_bytes(tmp_path / "missing") == MACHINE
    (tmp_path / "memory.max").write_text("max\n")
    assert usable_memory_bytes(tmp_path / "memory.max") == MACHINE


def test_a_containers_limit_and_a_processes_own_are_limits_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text("268435456\n")
    assert usable_memory_bytes(limit) == 268_435_456
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (1_000_000, resource.RLIM_INFINITY))
    assert usable_memory_bytes(limit) == 1_000_000

"""What the control groups of this process allow it, such as a container's memory and processors."""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def memory_limit_bytes(root: Path = Path("/")) -> int | None:
    """The lowest memory limit, or None; `root` is where `proc` and `sys` are."""
    limits: list[int] = []
    for folder, unified in _groups(root, "memory"):
        text = _text(folder / ("memory.max" if unified else "memory.limit_in_bytes"))
        limits += [int(text)] if text.isdigit() else []
    return min(limits, default=None)


def processors(root: Path = Path("/")) -> int:
    """How many processors the process may use at once: those it may run on, or the time that it is given on them."""
    affinity = getattr(os, "sched_getaffinity", None)
    allowed: list[int] = [len(affinity(0)) if affinity is not None else os.cpu_count() or 1]
    for folder, unified in _groups(root, "cpu"):
        if unified:
            quota, _, period = _text(folder / "cpu.max").partition(" ")
        else:
            quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            allowed.append(max(1, math.ceil(int(quota) / int(period))))
    return min(allowed)


def _groups(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """The folders of the groups that the process is in, the innermost first, and if they are of the unified tree."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, unified = root / "sys/fs/cgroup", True
        elif controller in controllers.split(","):
            top, unified = root / "sys/fs/cgroup" / controller, False
        else:
            continue
        group = top / path.lstrip("/")
        # In a container the path may be the one outside, where nothing is; its own group is at the top then.
        for folder in (group, *group.parents):
            yield folder, unified
            if folder == top:
                break


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""

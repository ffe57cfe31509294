"""How much memory this process may use."""

import contextlib
import os
import resource
from pathlib import Path

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def usable_memory_bytes(cgroup_limit: Path = CGROUP_LIMIT) -> int:
    """The least of the machine's memory, the container's limit, and the process's own."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        limit, _ = resource.getrlimit(kind)
        if limit != resource.RLIM_INFINITY:
            limits.append(limit)
    # There may be no control group of version 2, or one without a limit.
    with contextlib.suppress(OSError, ValueError):
        limits.append(int(cgroup_limit.read_text()))
    return min(limits)

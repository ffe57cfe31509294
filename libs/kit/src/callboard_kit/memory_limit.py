"""A limit on a process's memory, enforced by the system, so that a runaway process harms only itself.

The limit is RLIMIT_DATA: private memory that may be written, whether it is used yet or not. Model files that are mapped
and the memory of a GPU do not count; both would exceed RLIMIT_AS. At the limit an allocation fails, which raises
MemoryError in Python and ends most native engines.
"""

import ctypes
import math
import os
import re
import resource
import sys
from pathlib import Path

from callboard_kit.control_groups import memory_limit_bytes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGE_BLOCK_BYTES = 128 * 1024

MIB = 1024 * 1024
SHARE_OF_MACHINE = 0.75
"""A worker's part of a machine that it shares with all others."""
LEAST_IN_CONTAINER_BYTES = 2048 * MIB
"""Reserved memory counts too, and every thread reserves some; a smaller container is limited by the system itself."""


def limit_memory(limit_mib: int | None) -> None:
    """Limits this process, on Linux.

    Without `limit_mib`, the limit is the container's memory, or three quarters of the machine's. A lower limit that the
    process already has stays.
    """
    if sys.platform != "linux":
        return
    wanted = limit_mib * MIB if limit_mib is not None else default_limit_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = min([wanted, *(given for given in (soft, hard) if given != resource.RLIM_INFINITY)])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def limit_bytes() -> float:
    """The limit of this process, infinity where there is none."""
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return math.inf if soft == resource.RLIM_INFINITY else soft


def used_bytes() -> int:
    """What counts against the limit now; 0 where the system does not say."""
    try:
        found = re.search(r"^VmData:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def default_limit_bytes(root: Path = Path("/")) -> int:
    """The limit of a process whose configuration names none; `root` is where `proc` and `sys` are."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    container = memory_limit_bytes(root)
    if container is not None and container < machine:
        return max(container, LEAST_IN_CONTAINER_BYTES)
    return int(machine * SHARE_OF_MACHINE)


def give_memory_back() -> None:
    """Has the C library return the memory of large blocks to the system as soon as they are done with.

    By itself it raises both thresholds to the largest block that was ever freed. Other C libraries have no such
    function, or none with an effect.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
        mallopt(M_TRIM_THRESHOLD, LARGE_BLOCK_BYTES)

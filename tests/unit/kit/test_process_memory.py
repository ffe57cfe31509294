"""The memory of a process that has started: left alone by the garbage collector, and in large pages."""

import subprocess
import sys
from pathlib import Path

import pytest

from callboard_kit.process_memory import Mapping, own_mappings

pytestmark = pytest.mark.unit

LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
LEAST_KERNEL = (6, 1)
"""The first Linux that gathers memory when it is asked to."""

SMAPS = """\
55a4c0e00000-55a4c2000000 rw-p 00000000 00:00 0                          [heap]
Size:              18432 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:               18000 kB
Pss:               18000 kB
7f2a00000000-7f2a00400000 rw-p 00000000 00:00 0
Size:               4096 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:                   8 kB
7f2a10000000-7f2a10400000 r-xp 00002000 fe:00 260386                     /usr/bin/python3.11
Size:               4096 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:                4096 kB
7f2a20000000-7f2a20400000 rw-p 00400000 fe:00 260386                     /usr/bin/python3.11
Size:               4096 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:                4096 kB
7f2a30000000-7f2a30400000 r--p 00000000 00:00 0
Size:               4096 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:                4096 kB
7ffd8b3e0000-7ffd8b401000 rw-p 00000000 00:00 0                          [stack]
Size:                132 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:                 100 kB
"""

SETTLED = """
import gc, re
from pathlib import Path
from callboard_kit.process_memory import YOUNG_OBJECTS, gather_in_large_pages, settle_memory
MIB = 1024 * 1024
def figure(name):
    status = Path("/proc/self/smaps_rollup").read_text()
    return int(re.search(rf"^{name}: +(\\d+) kB$", status, re.MULTILINE)[1]) * 1024
"""


def run(program: str) -> list[str]:
    """What a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", SETTLED + program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def skip_without_large_pages() -> None:
    """Skips where the system does not gather memory in large pages."""
    release = Path("/proc/sys/kernel/osrelease").read_text() if sys.platform == "linux" else "0.0"
    major, minor = (int(part) for part in release.split(".")[:2])
    if (major, minor) < LEAST_KERNEL or not LARGE_PAGES.exists() or "[never]" in LARGE_PAGES.read_text():
        pytest.skip("this system has no large pages for memory that is in use already: Linux 6.1 with them allowed has")


def test_only_a_process_own_data_is_gathered() -> None:
    assert own_mappings(SMAPS) == [
        Mapping(0x55A4C0E00000, 0x55A4C2000000, 18000 * 1024),
        Mapping(0x7F2A00000000, 0x7F2A00400000, 8 * 1024),
    ]


def test_what_is_there_at_the_end_of_the_start_is_not_looked_at_again() -> None:
    frozen, threshold, young = run(
        "settle_memory()\nprint(gc.get_freeze_count(), gc.get_threshold()[0], YOUNG_OBJECTS)"
    )
    assert int(frozen) > 1_000
    assert threshold == young


def test_requests_in_work_are_no_reason_to_collect() -> None:
    # So many objects, each with a part, are what a few dozen requests at once have; Python would look at them 5 times.
    (collections,) = run(
        "settle_memory()\nbefore = gc.get_stats()[0]['collections']\n"
        "held = [[[]] for _ in range(2_000)]\nprint(gc.get_stats()[0]['collections'] - before)"
    )
    assert int(collections) == 0


def test_dense_memory_lies_in_large_pages() -> None:
    skip_without_large_pages()
    gathered, before, after = run(
        "held = [object() for _ in range(1_000_000)]\nbefore = figure('AnonHugePages')\n"
        "print(gather_in_large_pages(), before, figure('AnonHugePages'))"
    )
    assert int(gathered) >= 4 * 1024 * 1024
    assert int(after) - int(before) >= int(gathered) / 2


def test_memory_that_is_reserved_and_unused_stays_unused() -> None:
    before, after = run(
        "import mmap\nheld = [mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(4)]\n"
        "for each in held:\n    each[::8 * MIB] = b'x' * 8\nbefore = figure('Rss')\n"
        "gather_in_large_pages()\nprint(before, figure('Rss'))"
    )
    assert int(after) - int(before) < 4 * 1024 * 1024

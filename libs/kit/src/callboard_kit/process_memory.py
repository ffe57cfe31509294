"""Prepares a process's memory for a long life, once it has started."""

import ctypes
import gc
import logging
import re
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger(__name__)

YOUNG_OBJECTS = 5_000
"""How many objects more than before it takes for the garbage collector to look at the new ones.

With Python's own 700, some requests at once are reason enough, though next to nothing of them is ever garbage to it.
"""
DENSE = 7 / 8
"""What of a mapping must be in use for it to be gathered, so that little memory is added."""
MOST_GATHERED_BYTES = 128 * 1024 * 1024
"""Enough for what a service builds while it starts; copying more takes time, and what models weigh is not for here."""

_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_SIZE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
_COLLAPSE = 25
"""Linux's MADV_COLLAPSE, since 6.1, which `mmap` does not name."""
_MAPPING = re.compile(
    r"^(?P<start>[0-9a-f]+)-(?P<end>[0-9a-f]+) rw-p 0+ 00:00 0 *(?P<name>\S*)\n"
    r"Size: .*\n(?:.*\n){2}Rss: +(?P<used>\d+) kB$",
    re.MULTILINE,
)


class Mapping(NamedTuple):
    """A part of a process's own memory: its first address, the one behind it, and how many bytes are in use."""

    start: int
    end: int
    used_bytes: int


def settle_memory() -> None:
    """Prepares for serving: what is in memory by now stays there until the end.

    The garbage collector never looks at it again, and looks at new objects less often. The system keeps it in large
    pages, where it has them, so that the processor finds it faster.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
    gathered_bytes = gather_in_large_pages()
    log.debug("memory_settled", extra={"gathered_bytes": gathered_bytes})


def gather_in_large_pages() -> int:
    """Has the system put dense memory into large pages and returns how many bytes; none where it does not offer that.

    It may take a millisecond for every few mebibytes.
    """
    try:
        if "[never]" in _SETTING.read_text():
            return 0
        size = int(_SIZE.read_text())
        smaps = Path("/proc/self/smaps").read_text()
    except (OSError, ValueError):
        return 0
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    gathered = 0
    for mapping in own_mappings(smaps):
        if mapping.used_bytes < DENSE * (mapping.end - mapping.start):
            continue
        first = -(-mapping.start // size) * size
        for start in range(first, mapping.end - size + 1, size):
            if gathered + size > MOST_GATHERED_BYTES:
                return gathered
            if advise(start, size, _COLLAPSE) == 0:
                gathered += size
    return gathered


def own_mappings(smaps: str) -> list[Mapping]:
    """The mappings of a process that hold its own data and no file, from the text of its `smaps`."""
    return [
        Mapping(int(found["start"], 16), int(found["end"], 16), int(found["used"]) * 1024)
        for found in _MAPPING.finditer(smaps)
        if found["name"] in {"", "[heap]"}
    ]

"""What a file system promises of a file that takes the place of another."""

from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
ORDERED: dict[str, frozenset[str]] = {
    "ext4": frozenset({"noauto_da_alloc", "data=writeback"}),
    "btrfs": frozenset(),
    "zfs": frozenset(),
}
"""The file systems that promise it, with the options that take the promise back."""


def orders_renames(folder: Path, mounts: Path = MOUNTS) -> bool:
    """Whether the content of a file is on the disk before the file replaces another; false where that is not known.

    Without it, a server that rewrites a file without a sync, as nats-server does to save space, may lose the whole file
    when the power is cut.
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    found: tuple[int, bool] = (-1, False)
    for line in lines:
        # Fields before " - ": ids, root, mount point, options; after it: type, source, options of the file system.
        fields, _, tail = line.partition(" - ")
        if len(fields.split(" ")) < 6 or len(tail.split(" ")) < 3:
            continue
        point = Path(_unescaped(fields.split(" ")[4]))
        kind, _source, options = tail.split(" ", 2)
        depth = len(point.parts)
        # Of several mounts on one point the last one is seen.
        if depth >= found[0] and folder.resolve().is_relative_to(point):
            found = depth, kind in ORDERED and ORDERED[kind].isdisjoint(options.split(","))
    return found[1]


def _unescaped(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text

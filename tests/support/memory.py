"""What processes have in memory."""

from pathlib import Path


def anonymous_bytes(pid: int | str = "self") -> int:
    """The memory of a process that no file backs."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))

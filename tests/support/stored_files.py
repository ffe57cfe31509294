"""What stands in the files under a folder, such as the store of the bus."""

from pathlib import Path


def files_with(folder: Path, words: bytes) -> list[str]:
    """The files in which some bytes stand; files that come and go meanwhile are left out."""
    found: list[str] = []
    for path in sorted(folder.rglob("*")):
        try:
            if path.is_file() and words in path.read_bytes():
                found.append(str(path.relative_to(folder)))
        except FileNotFoundError:
            continue
    return found

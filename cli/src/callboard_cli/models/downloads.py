"""Downloads one model file of any size: resumed, checked while it arrives, and never half in place."""

import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO

from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.models.cache import sha256_of
from callboard_cli.models.progress import MEGABYTE, Progress
from callboard_cli.models.sources import BLOCK_BYTES, PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE, READ_TIMEOUT_S

GGUF = b"GGUF"
SPARE_BYTES = 256 * MEGABYTE
MAX_TRIES = 5
"""How often a download that made progress is resumed before the command gives up; the next one goes on from there."""


@dataclass(frozen=True, slots=True)
class Download:
    """Where a file is, under which name it is kept, and what it should be; `headers` go to that address alone."""

    url: str
    name: str
    sha256: str | None = None
    headers: Mapping[str, str] | None = None


class _BrokenOff(Exception):  # noqa: N818 - a state: the next try goes on
    pass


def fetch(download: Download, folder: Path, progress: Progress) -> str:
    """Downloads a GGUF file into the folder and returns its SHA-256.

    Raises:
        CommandError: it cannot be had, is something else, has another digest, or the disk is too small. What arrived
            is kept for the next attempt unless it is wrong.
    """
    partial = folder / ".adding" / f"{download.name}.part"
    partial.parent.mkdir(parents=True, exist_ok=True)
    had = -1
    for _ in range(MAX_TRIES):
        have = partial.stat().st_size if partial.exists() else 0
        if have <= had:
            break
        had = have
        try:
            _receive(download, partial, have, progress)
            break
        except _BrokenOff as error:
            progress.note(f"{download.name}: {error}; going on from there")
    else:
        raise _failed(download, "the connection breaks off again and again; the next attempt goes on from there")
    if not _is_complete(partial):
        raise _failed(download, "the connection broke off; the next attempt goes on from there")
    found = sha256_of(partial)
    if download.sha256 and found != download.sha256:
        _discard(partial)
        raise _failed(download, f"its SHA-256 is {found}, expected was {download.sha256}")
    partial.replace(folder / download.name)
    _discard(partial)
    return found


def _receive(download: Download, partial: Path, have: int, progress: Progress) -> None:
    """Reads on from where the last attempt ended."""
    request = urllib.request.Request(download.url)  # noqa: S310 - checked by the caller
    for name, value in (download.headers or {}).items():
        # A redirect leads to another host, whose business they are not.
        request.add_unredirected_header(name, value)
    tag = _beside(partial, "etag")
    if have and tag.exists():
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", tag.read_text(encoding="utf-8"))
    try:
        with urllib.request.urlopen(request, timeout=READ_TIMEOUT_S) as reply:  # noqa: S310
            resumed = reply.status == PARTIAL_CONTENT
            start = have if resumed else 0
            length = reply.headers.get("Content-Length")
            total = start + int(length or 0)
            _check_space(download, partial.parent, total - start)
            if not resumed:
                _remember(reply.headers, tag)
            size = _beside(partial, "size")
            size.write_text(str(total), encoding="ascii")
            progress.start(download.name, total)
            with partial.open("ab" if resumed else "wb") as sink:
                done = _copy(download, reply, sink, start, progress)
            if done < total:
                raise _BrokenOff(f"broke off at {done / MEGABYTE:.0f} of {total / MEGABYTE:.0f} MB")
            if length is None:
                size.write_text(str(done), encoding="ascii")
            progress.finish("complete")
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == RANGE_NOT_SATISFIABLE and _is_complete(partial):
            return
        _discard(partial)
        raise _failed(download, f"the server answered {error.code}") from None
    except (OSError, HTTPException) as error:
        if partial.exists() and partial.stat().st_size > have:
            raise _BrokenOff(f"broke off ({type(error).__name__})") from None
        raise _failed(download, f"no connection ({type(error).__name__})") from None


def _copy(download: Download, reply: IO[bytes], sink: IO[bytes], done: int, progress: Progress) -> int:
    while block := reply.read(BLOCK_BYTES):
        if not done and not block.startswith(GGUF):
            raise _failed(download, "this is not a GGUF file")
        sink.write(block)
        done += len(block)
        progress.update(done)
    return done


def _is_complete(partial: Path) -> bool:
    try:
        return partial.stat().st_size == int(_beside(partial, "size").read_text(encoding="ascii")) > 0
    except (OSError, ValueError):
        return False


def _check_space(download: Download, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_BYTES:
        raise _failed(
            download,
            f"{folder} has {free / MEGABYTE:.0f} MB free, {(needed + SPARE_BYTES) / MEGABYTE:.0f} MB are needed",
        )


def _remember(headers: HTTPMessage, tag: Path) -> None:
    """Keeps the server's mark of this version of the file; without one, nothing is resumed."""
    mark = headers.get("ETag") or headers.get("Last-Modified")
    if mark and not mark.startswith("W/"):
        tag.write_text(mark, encoding="utf-8")
    else:
        tag.unlink(missing_ok=True)


def _beside(partial: Path, what: str) -> Path:
    return partial.with_name(f"{partial.name}.{what}")


def _discard(partial: Path) -> None:
    for path in (partial, _beside(partial, "etag"), _beside(partial, "size")):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _failed(download: Download, reason: str) -> CommandError:
    return CommandError(f"models: {download.name}: {reason}", ExitCode.DOWNLOAD_FAILED)

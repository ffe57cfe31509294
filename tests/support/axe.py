"""axe, which finds what people cannot use; it is not part of this repository and comes from npm."""

import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path

VERSION = "4.14.1"
SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
MEMBER = "package/axe.min.js"
TIMEOUT_S = 120.0


class NoAxeError(Exception):
    """Why axe cannot be had here."""


def axe_script(folder: Path) -> str:
    """The script that defines `axe`; raises NoAxeError."""
    npm = shutil.which("npm")
    if npm is None:
        raise NoAxeError("no `npm` on the path to fetch axe-core")
    command = [npm, "pack", "--silent", "--cache", str(folder / "cache"), f"axe-core@{VERSION}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=TIMEOUT_S, check=False)
    archive = folder / f"axe-core-{VERSION}.tgz"
    if done.returncode != 0 or not archive.exists():
        raise NoAxeError(f"npm does not bring axe-core {VERSION}")
    with tarfile.open(archive) as packed:
        member = packed.extractfile(MEMBER)
        assert member is not None
        script = member.read()
    assert hashlib.sha256(script).hexdigest() == SHA256, "axe-core is not the one that was reviewed"
    return script.decode()

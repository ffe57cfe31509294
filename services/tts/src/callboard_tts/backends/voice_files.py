"""Kokoro's voices: float32 tables of 510 rows, one row for each length of a piece in phonemes."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callboard_contracts.voices import kokoro_language
from callboard_tts.domain.voices import Voice, VoiceChoice
from callboard_worker.engine import EngineUnavailable

STYLE_ROWS = 510
STYLE_WIDTH = 256
MAX_BLENDS = 64

Style = NDArray[np.float32]


def _raw(path: Path) -> Any:
    return np.fromfile(path, dtype="<f4")


def _array(path: Path) -> Any:
    return np.load(path, allow_pickle=False)


class VoiceStore:
    """The voices of a folder of `<name>.bin` or `<name>.npy` files, or of one `.npz` archive.

    A table is read at its first use. `readers` adds further kinds of files by their suffix.
    """

    def __init__(self, path: Path, readers: Mapping[str, Callable[[Path], Any]] | None = None) -> None:
        self._path = path
        self._readers = {".bin": _raw, ".npy": _array, **(readers or {})}
        self._archive: np.lib.npyio.NpzFile | None = None
        self._files: dict[str, Path] = {}
        self._cached_blend = lru_cache(MAX_BLENDS)(self._blend)

    def open(self) -> None:
        """Finds the voices.

        Raises:
            EngineUnavailable: the path holds no voices.
        """
        if self._path.is_dir():
            self._files = {file.stem: file for file in sorted(self._path.iterdir()) if file.suffix in self._readers}
        elif self._path.is_file():
            try:
                archive = np.load(self._path, allow_pickle=False)
            except (OSError, ValueError) as error:
                raise EngineUnavailable(f"the voices file {self._path} cannot be read") from error
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise EngineUnavailable(f"the voices file {self._path} is not an .npz archive")
            self._archive = archive
        if not self.names():
            raise EngineUnavailable(f"no voices at {self._path}; fetch them with: callboard models fetch")

    def close(self) -> None:
        """Closes the archive and frees the tables."""
        if self._archive is not None:
            self._archive.close()
            self._archive = None
        self._cached_blend.cache_clear()

    def names(self) -> Sequence[str]:
        """The names of all voices, sorted."""
        return sorted(self._archive.files) if self._archive is not None else sorted(self._files)

    def voices(self) -> Sequence[Voice]:
        """All voices with their languages; a voice whose name does not say its language is left out."""
        found = ((name, kokoro_language(name)) for name in self.names())
        return [Voice(name, language) for name, language in found if language]

    def style(self, choice: VoiceChoice) -> Style:
        """The style table of a voice or a blend: the weighted mean of its parts' tables.

        Raises:
            EngineUnavailable: a voice's file is damaged.
        """
        return self._cached_blend(choice.parts)

    def _blend(self, parts: tuple[tuple[str, float], ...]) -> Style:
        table = np.zeros((STYLE_ROWS, 1, STYLE_WIDTH), dtype=np.float32)
        for name, share in parts:
            table += self._read(name) * np.float32(share)
        return table

    def _read(self, name: str) -> Style:
        try:
            if self._archive is not None:
                table = self._archive[name]
            else:
                table = self._readers[self._files[name].suffix](self._files[name])
            return np.asarray(table, dtype=np.float32).reshape(STYLE_ROWS, 1, STYLE_WIDTH)
        except (OSError, KeyError, ValueError) as error:
            raise EngineUnavailable(f"the voice {name} at {self._path} cannot be read") from error


def style_row(style: Style, phonemes: int) -> Style:
    """Selects the row for a piece of that many phonemes; the first row is for one phoneme."""
    return style[min(max(phonemes, 1), len(style)) - 1]

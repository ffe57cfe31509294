"""espeak-ng for every language out of one library, loaded from where it is installed.

phonemizer loads a copy of the library for each language, out of a temporary folder. That fails where nothing may be
executed from the folder, as from `/tmp` in a hardened container.
"""

import ctypes
import logging
from pathlib import Path
from typing import Any, ClassVar

import espeakng_loader
import phonemizer.backend.espeak.wrapper as phonemizer_wrapper
from phonemizer.backend import EspeakBackend
from phonemizer.backend.espeak.api import EspeakAPI

SYNCHRONOUS = 2


class _SharedLibrary(EspeakAPI):
    """What phonemizer takes for a copy: the one library, to which the voice of this instance is set before its turn.

    The library has one voice at a time, so conversions must not overlap. A change of voice takes 0.1 ms, or 10 ms to
    one with a large dictionary.
    """

    _shared: ClassVar[Any] = None
    _current_voice: ClassVar[bytes] = b""

    def __init__(self, library: str | Path, data_path: str | Path | None = None) -> None:
        if _SharedLibrary._shared is None:
            shared = ctypes.CDLL(str(library))
            data = str(data_path or espeakng_loader.get_data_path())
            if shared.espeak_Initialize(SYNCHRONOUS, 0, data.encode(), 0) <= 0:
                raise OSError(f"{library}: espeak-ng does not start with the data in {data}")
            _SharedLibrary._shared = shared
        self._library = _SharedLibrary._shared
        self._library_path = Path(library)
        self._voice = b""

    def set_voice_by_name(self, name: bytes) -> int:
        """Sets the voice of this instance; returns 0, or espeak-ng's error."""
        error = super().set_voice_by_name(name)
        if error == 0:
            self._voice = _SharedLibrary._current_voice = name
        return error

    def text_to_phonemes(self, text_ptr: Any, text_mode: int, phonemes_mode: int) -> Any:
        """Converts a text in the voice of this instance."""
        if self._voice != _SharedLibrary._current_voice and self.set_voice_by_name(self._voice) != 0:
            raise OSError(f"espeak-ng cannot go back to the voice {self._voice.decode()}")
        return super().text_to_phonemes(text_ptr, text_mode, phonemes_mode)


def espeak_backend(voice: str) -> EspeakBackend:
    """Makes phonemizer's converter for one of espeak-ng's voices."""
    # phonemizer has no other way to be given a library that is loaded already.
    phonemizer_wrapper.EspeakAPI = _SharedLibrary
    phonemizer_wrapper.EspeakWrapper.set_library(espeakng_loader.get_library_path())
    phonemizer_wrapper.EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
    silent = logging.getLogger("callboard_tts.espeak")
    silent.setLevel(logging.CRITICAL)
    return EspeakBackend(
        voice,
        preserve_punctuation=True,
        with_stress=True,
        tie="^",
        language_switch="remove-flags",
        logger=silent,
    )

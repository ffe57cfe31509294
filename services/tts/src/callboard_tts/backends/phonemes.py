"""Writes text as the phonemes that Kokoro was trained on, and cuts them to what fits the model at once.

English and the other alphabets go through espeak-ng, whose sounds are then spelled as Kokoro expects them; Chinese and
Japanese go through misaki, because espeak-ng spells their characters out one by one.
"""

import logging
import re
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import espeakng_loader
from phonemizer.backend import EspeakBackend
from phonemizer.backend.espeak.wrapper import EspeakWrapper

from callboard_worker.engine import EngineFailed

MAX_PHONEMES = 510

_ESPEAK_VOICES = {
    "en-us": "en-us",
    "en-gb": "en-gb",
    "es": "es",
    "fr-fr": "fr-fr",
    "hi": "hi",
    "it": "it",
    "pt-br": "pt-br",
}
_COMMON = {"a^ɪ": "I", "a^ʊ": "W", "d^ʒ": "ʤ", "e^ɪ": "A", "t^ʃ": "ʧ", "ɔ^ɪ": "Y"}
_ENGLISH = {
    **_COMMON,
    "ə^l": "ᵊl",
    "ʲo": "jo",
    "ʲə": "jə",
    "ʲ": "",
    "ɚɹ": "əɹ",
    "ɚ": "əɹ",
    "r": "ɹ",
    "x": "k",
    "ç": "k",
    "ɐ": "ə",
    "ɬ": "l",
    "\u0303": "",
    "ʔˌn\u0329": "ʔn",
    "ʔn\u0329": "ʔn",
    "e": "A",
}
_AMERICAN = {"o^ʊ": "O", "ɜːɹ": "ɜɹ", "ɜː": "ɜɹ", "ɪə": "iə", "ː": "", "ɾ": "T", "ʔ": "t"}
_BRITISH = {"e^ə": "ɛː", "iə": "ɪə", "ə^ʊ": "Q", "ɾ": "T", "ʔ": "t"}
_OTHERS = {**_COMMON, "d^z": "ʣ", "o^ʊ": "O", "ə^ʊ": "Q", "s^s": "S", "t^s": "ʦ"}
_PALATALS = {"ᶄ": "kʲ", "ᶃ": "ɡʲ", "ᶀ": "bʲ", "ᶆ": "mʲ", "ᶇ": "ɲ", "ᶈ": "pʲ", "ᶉ": "ɾʲ", "ᶁ": "dʲ", "g": "ɡ"}
_WIDE_MARKS = str.maketrans(
    {
        "，": ", ",
        "、": ", ",
        "。": ". ",
        "！": "! ",
        "？": "? ",
        "；": "; ",
        "：": ": ",
        "।": ". ",
        "「": "“",
        "」": "”",
        "『": "“",
        "』": "”",
        "（": "(",
        "）": ")",
        "《": "“",
        "》": "”",
        "·": " ",
        "・": " ",
    }
)
_SENTENCE = re.compile(r"(?<=[.!?…])\s+")
_CLAUSE = re.compile(r"(?<=[,;:—])\s*")
_GAP = re.compile(r"\s+")

_lock = threading.Lock()
"""espeak-ng and the Chinese and Japanese readers keep state in the process; two threads would mix their sounds."""


class Phonemizer:
    """Turns text into phonemes of one vocabulary, in every language that Kokoro has voices for."""

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        self._vocabulary = vocabulary
        self._readers: dict[str, Callable[[str], str]] = {}

    def prepare(self, languages: set[str]) -> None:
        """Loads the readers of some languages ahead of their first use."""
        with _lock:
            for language in languages:
                self._reader(language)

    def phonemes(self, text: str, language: str) -> str:
        """The phonemes of a text; sounds and marks that the vocabulary lacks are left out.

        Raises:
            EngineFailed: the language has no reader, or its reader cannot be loaded.
        """
        with _lock:
            reader = self._reader(language)
            try:
                spoken = reader(text)
            except Exception as error:
                raise EngineFailed(f"the reader for {language} failed") from error
        return " ".join("".join(sound for sound in spoken if sound in self._vocabulary or sound.isspace()).split())

    def tokens(self, phonemes: str) -> list[int]:
        """The model's numbers for phonemes."""
        return [self._vocabulary[sound] for sound in phonemes if sound in self._vocabulary]

    def _reader(self, language: str) -> Callable[[str], str]:
        if language not in self._readers:
            self._readers[language] = _load_reader(language)
        return self._readers[language]


def split_phonemes(phonemes: str, limit: int = MAX_PHONEMES) -> list[str]:
    """Cuts phonemes that are too long for the model, at the best place near their middle; nothing is lost."""
    if len(phonemes) <= limit:
        return [phonemes] if phonemes else []
    middle = len(phonemes) // 2
    for pattern in (_SENTENCE, _CLAUSE, _GAP):
        places = [match.end() for match in pattern.finditer(phonemes) if 0 < match.end() < len(phonemes)]
        if places:
            place = min(places, key=lambda place: abs(place - middle))
            if place <= limit or len(phonemes) - place <= limit or pattern is _GAP:
                break
    else:
        place = middle
    return split_phonemes(phonemes[:place].strip(), limit) + split_phonemes(phonemes[place:].strip(), limit)


def _load_reader(language: str) -> Callable[[str], str]:
    if language in _ESPEAK_VOICES:
        return _espeak_reader(language)
    try:
        # Both readers' dependencies hold old spellings that Python warns of when it first compiles them.
        with warnings.catch_warnings(action="ignore"):
            if language == "zh":
                return _chinese_reader()
            if language == "ja":
                return _japanese_reader()
    except ImportError as error:
        raise EngineFailed(f"reading {language} needs the package {error.name}") from error
    raise EngineFailed(f"no reader for the language {language}")


def _espeak_reader(language: str) -> Callable[[str], str]:
    EspeakWrapper.set_library(espeakng_loader.get_library_path())
    EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
    quiet = logging.getLogger("callboard_tts.espeak")
    quiet.setLevel(logging.CRITICAL)
    backend = EspeakBackend(
        _ESPEAK_VOICES[language],
        preserve_punctuation=True,
        with_stress=True,
        tie="^",
        language_switch="remove-flags",
        logger=quiet,
    )
    english = language.startswith("en-")
    table = _sorted(_ENGLISH if english else _OTHERS)
    regional = _sorted(_AMERICAN if language == "en-us" else _BRITISH) if english else []

    def read(text: str) -> str:
        sounds = "".join(backend.phonemize([text.translate(_WIDE_MARKS)]))
        sounds = _replaced(sounds, table)
        if english:
            sounds = re.sub(r"(\S)\u0329", r"ᵊ\1", sounds).replace("\u0329", "")
            sounds = _replaced(sounds, regional).replace("o", "ɔ")
        return sounds.replace("^", "").replace("-", "")

    return read


def _chinese_reader() -> Callable[[str], str]:
    import jieba
    from misaki import zh

    jieba.setLogLevel(logging.WARNING)
    reader = zh.ZHG2P()
    latin = _espeak_reader("en-us")

    def read(text: str) -> str:
        # The Chinese reader hands Latin words on as they are written; they are read as English.
        sounds: str = reader(text)[0]
        for word in sorted(set(re.findall(r"[A-Za-z][A-Za-z' -]*[A-Za-z]|[A-Za-z]", text)), key=len, reverse=True):
            sounds = sounds.replace(word, latin(word).strip())
        return sounds

    return read


def _japanese_reader() -> Callable[[str], str]:
    from misaki import ja

    reader = ja.JAG2P(version="pyopenjtalk")
    reader("今日")  # Opens its dictionaries, which it else does at its first use.

    def read(text: str) -> str:
        words: list[Any] = reader(text)[1] or []
        sounds = ""
        for word in words:
            # A word that does not lean on the one before it begins a new breath group.
            gap = " " if sounds and word._.mora_size and not word._.chain_flag and not sounds.endswith(" ") else ""
            sounds += f"{gap}{word.phonemes or ''}{word.whitespace or ''}"
        return _replaced(sounds, list(_PALATALS.items()))

    return read


def _sorted(table: Mapping[str, str]) -> list[tuple[str, str]]:
    """Longest first, so that a sound of two signs is not taken apart."""
    return sorted(table.items(), key=lambda entry: -len(entry[0]))


def _replaced(sounds: str, table: list[tuple[str, str]]) -> str:
    for old, new in table:
        sounds = sounds.replace(old, new)
    return sounds

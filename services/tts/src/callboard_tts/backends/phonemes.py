"""Converts text to the phonemes that Kokoro was trained on, and splits them to the model's input limit.

English and other alphabets go through espeak-ng, whose phonemes are then mapped to Kokoro's. Chinese and Japanese go
through misaki, because espeak-ng names their characters one by one.
"""

import logging
import re
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from num2words import num2words

from callboard_kit.native_code import load_failure
from callboard_tts import metrics
from callboard_tts.backends.espeak import espeak_backend
from callboard_tts.backends.heteronyms import respelled
from callboard_tts.backends.readers import SCRIPTS, Run, split_runs
from callboard_tts.domain.pronunciation import PRONUNCIATION
from callboard_worker.engine import EngineFailed

MAX_PHONEMES = 510

_FOREIGN = (
    "am",
    "ar",
    "bn",
    "el",
    "fa",
    "gu",
    "hy",
    "ka",
    "kn",
    "ko",
    "ml",
    "or",
    "pa",
    "ru",
    "si",
    "ta",
    "te",
    "uk",
    "ur",
)
_ESPEAK_VOICES = {
    "en-us": "en-us",
    "en-gb": "en-gb",
    "es": "es",
    "fr-fr": "fr-fr",
    "hi": "hi",
    "it": "it",
    "pt-br": "pt-br",
    # Languages without a voice, for words of their scripts in another language.
    **dict(zip(_FOREIGN, _FOREIGN, strict=True)),
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
_NEAREST = str.maketrans(
    {
        "ɦ": "h",
        "ħ": "h",
        "ʕ": "",
        "ʱ": "ʰ",
        "ʑ": "ʒ",
        "ʐ": "ʒ",
        "ɫ": "l",
        "ɭ": "l",
        "ɬ": "l",
        "ʉ": "u",
        "ɵ": "ə",
        "ɘ": "ə",
        "ʏ": "y",
        "ʀ": "ʁ",
        "ɱ": "m",
    }
)
"""Sounds of other languages that the model was not trained on, and the nearest that it was."""
_PALATALS = {"ᶄ": "kʲ", "ᶃ": "ɡʲ", "ᶀ": "bʲ", "ᶆ": "mʲ", "ᶇ": "ɲ", "ᶈ": "pʲ", "ᶉ": "ɾʲ", "ᶁ": "dʲ", "g": "ɡ"}
_DIPHTHONGS = {**_COMMON, "o^ʊ": "O", "ə^ʊ": "Q", "ɝ": "ɜɹ", "ɚ": "əɹ"}
_LOOKALIKES = str.maketrans({":": "ː", "'": "ˈ", "’": "ˈ", "g": "ɡ", "\u0361": "", ".": ""})
"""What people write in phonemes for the characters of IPA; ties and the marks between syllables have no sound."""
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
        "۔": ". ",
        "؟": "? ",
        "،": ", ",
        "؛": "; ",
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
_BEFORE_MARK = re.compile(r"\s+(?=[.,!?;:…”)])")
_SENTENCE = re.compile(r"(?<=[.!?…])\s+")
_CLAUSE = re.compile(r"(?<=[,;:—])\s*")
_GAP = re.compile(r"\s+")

_NUMBER = re.compile(r"(?<![\d.,])\d{1,36}(?![\d]|[.,]\d)")
_BESIDE_LETTER = re.compile(r"(?<=\d)(?=[^\W\d_])|(?<=[^\W\d_])(?=\d)")
_LETTER_A = re.compile(r"\bA(?=(?: [A-Z])+\b)|(?<=\b[A-Z] )A\b|(?<=[a-z] )A(?=[.,;:!?)]|\s(?![A-Z])|$)")
"""The letter A; as a word of its own it is spoken as the article."""

log = logging.getLogger(__name__)

_lock = threading.Lock()
"""espeak-ng and the Chinese and Japanese converters keep state in the process and are not thread-safe."""


class Phonemizer:
    """Converts text to phonemes of one vocabulary, in every language that Kokoro has voices for."""

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        self._vocabulary = vocabulary
        self._converters: dict[str, Callable[[str], str]] = {}
        for script in SCRIPTS:
            metrics.LEFT_OUT.labels(script)

    def prepare(self, languages: set[str]) -> None:
        """Loads the converters of some languages before their first use."""
        with _lock:
            for language in languages:
                self._converter(language)

    def phonemes(self, text: str, language: str) -> str:
        """Gives the phonemes of a text; those that the vocabulary lacks are left out.

        Words of a foreign script are read by a reader of their language. Where there is none, or it fails, they are
        left out and counted. A pronunciation in the text, `[word](/ipa/)`, stands for itself.

        Raises:
            EngineFailed: the language is not supported, or its converter cannot be loaded or failed.
        """
        return self._phonemes(text, language, counts=True)

    def words(self, words: Sequence[str], language: str) -> list[str]:
        """Gives the phonemes of each word alone; raises as `phonemes` does."""
        return [self._phonemes(word, language, counts=False) for word in words]

    def _phonemes(self, text: str, language: str, *, counts: bool) -> str:
        with _lock:
            sounds = " ".join(self._read(run, counts=counts) for run in split_runs(text, language))
        sounds = "".join(sound for sound in sounds if sound in self._vocabulary or sound.isspace())
        return _BEFORE_MARK.sub("", " ".join(sounds.split()))

    def _read(self, run: Run, *, counts: bool) -> str:
        sounds, is_foreign = "", bool(run.script)
        try:
            if run.language is not None:
                sounds = self._converted(run.text, run.language)
        except Exception as error:
            if not is_foreign:
                raise EngineFailed(f"the conversion of {run.language} to phonemes failed") from error
            log.warning("reader_failed", extra={"language": run.language, "error": type(error).__name__})
        if is_foreign and not sounds and counts:
            metrics.LEFT_OUT.labels(run.script).inc(len(run.text))
        return sounds.translate(_NEAREST) if is_foreign else sounds

    def _converted(self, text: str, language: str) -> str:
        """The phonemes of a text; those that it gives are taken as they are, where the model knows one of them."""
        convert = self._converter(language)
        sounds = ""
        at = 0
        for match in PRONUNCIATION.finditer(text):
            before, word, given = text[at : match.start()], match[1], _as_trained(match[2], language)
            is_known = any(sound in self._vocabulary and sound.isalpha() for sound in given)
            sounds += _spaced(before, convert) + (given if is_known else convert(word).strip())
            at = match.end()
        return sounds + _spaced(text[at:], convert)

    def tokens(self, phonemes: str) -> list[int]:
        """Gives the model's token ids of phonemes."""
        return [self._vocabulary[sound] for sound in phonemes if sound in self._vocabulary]

    def _converter(self, language: str) -> Callable[[str], str]:
        if language not in self._converters:
            self._converters[language] = _load_converter(language)
        return self._converters[language]


def split_phonemes(phonemes: str, limit: int = MAX_PHONEMES) -> list[str]:
    """Splits phonemes over the model's input limit at the best place near the middle; nothing is lost."""
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


def _as_trained(given: str, language: str) -> str:
    """Phonemes in usual IPA as the model was trained on them: its diphthongs and affricates are one character each."""
    sounds = given.translate(_LOOKALIKES)
    if language.startswith("en-"):
        sounds = _replaced(sounds, _sorted({pair.replace("^", ""): sound for pair, sound in _DIPHTHONGS.items()}))
    return sounds


def _spaced(text: str, convert: Callable[[str], str]) -> str:
    """Converts a part of a text and keeps the spaces around it."""
    if not text.strip():
        return text
    lead, trail = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    return f"{lead}{convert(text).strip()}{trail}"


def _english_words(text: str, *, british: bool) -> str:
    """Respells what espeak-ng would misread: numbers like years, the letter A, and heteronyms."""

    def number(match: re.Match[str]) -> str:
        zeros = "zero " * (len(match[0]) - max(1, len(match[0].lstrip("0"))))
        words = zeros + str(num2words(int(match[0]))).replace(",", "")
        return words if british else words.replace(" and ", " ")

    text = _BESIDE_LETTER.sub(" ", text)
    return respelled(_LETTER_A.sub("eh", _NUMBER.sub(number, text)))


def _load_converter(language: str) -> Callable[[str], str]:
    if language in _ESPEAK_VOICES:
        return _espeak_converter(language)
    try:
        # The dependencies of both hold invalid escapes, which Python warns of when it first compiles them.
        with warnings.catch_warnings(action="ignore"):
            if language == "zh":
                return _chinese_converter()
            if language == "ja":
                return _japanese_converter()
    except ImportError as error:
        raise EngineFailed(f"the language {language}: {load_failure(error) or error.name}") from error
    raise EngineFailed(f"no phonemes for the language {language}")


def _espeak_converter(language: str) -> Callable[[str], str]:
    backend = espeak_backend(_ESPEAK_VOICES[language])
    english = language.startswith("en-")
    table = _sorted(_ENGLISH if english else _OTHERS)
    regional = _sorted(_AMERICAN if language == "en-us" else _BRITISH) if english else []

    def convert(text: str) -> str:
        if english:
            text = _english_words(text, british=language == "en-gb")
        sounds = "".join(backend.phonemize([text.translate(_WIDE_MARKS)]))
        sounds = _replaced(sounds, table)
        if english:
            sounds = re.sub(r"(\S)\u0329", r"ᵊ\1", sounds).replace("\u0329", "")
            sounds = _replaced(sounds, regional).replace("o", "ɔ")
        return sounds.replace("^", "").replace("-", "")

    return convert


def _chinese_converter() -> Callable[[str], str]:
    import jieba
    from misaki import zh

    jieba.setLogLevel(logging.WARNING)
    g2p = zh.ZHG2P()

    def convert(text: str) -> str:
        sounds: str = g2p(text)[0]
        return sounds

    return convert


def _japanese_converter() -> Callable[[str], str]:
    from misaki import ja

    g2p = ja.JAG2P(version="pyopenjtalk")
    g2p("今日")  # Opens the dictionaries now instead of at the first use.

    def convert(text: str) -> str:
        words: list[Any] = g2p(text)[1] or []
        sounds = ""
        for word in words:
            # A word that is not chained to the one before begins a new breath group.
            gap = " " if sounds and word._.mora_size and not word._.chain_flag and not sounds.endswith(" ") else ""
            sounds += f"{gap}{word.phonemes or ''}{word.whitespace or ''}"
        return _replaced(sounds, list(_PALATALS.items()))

    return convert


def _sorted(table: Mapping[str, str]) -> list[tuple[str, str]]:
    """Sorts longest first, so that a phoneme of two characters is not taken apart."""
    return sorted(table.items(), key=lambda entry: -len(entry[0]))


def _replaced(sounds: str, table: list[tuple[str, str]]) -> str:
    for old, new in table:
        sounds = sounds.replace(old, new)
    return sounds

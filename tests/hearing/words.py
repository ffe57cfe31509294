"""How many words were heard wrong: both sides normalised, so that what was spoken counts and not its spelling."""

import re
from dataclasses import dataclass
from functools import cache

import jiwer
from kokoro_onnx.config import DEFAULT_VOCAB
from num2words import num2words
from whisper_normalizer.basic import BasicTextNormalizer
from whisper_normalizer.english import EnglishTextNormalizer

from callboard_tts.backends.phonemes import Phonemizer

_STRESS = re.compile("[ˈˌː↓→↗↘ ,.!?;:—…ʲ]")
_DOT = re.compile(r"(?<=\w\w)\.(?=[a-z]{2})", re.IGNORECASE)
_MONTH_DAY = re.compile(r"((?:january|february|march|april|may|june|july|august|\w+ber) \d{1,2})(?:st|nd|rd|th)")
"""Whisper writes "February 10" for "February tenth"."""
_ORDINAL = re.compile(r"\b(henry|louis|george|elizabeth|paul) the (\d+)(?:th|nd)")
"""Whisper writes "Henry VIII" for "Henry the eighth"."""
_ROMAN = {"ii": "2", "iii": "3", "iv": "4", "v": "5", "viii": "8", "xii": "1 2", "xiv": "1 4"}
_SPELLINGS = {
    "ft": "feet",
    "km": "kilometers",
    "cm": "centimeters",
    "kg": "kilograms",
    "gb": "gigabytes",
    "mph": "miles per hour",
    "disc": "disk",
    **_ROMAN,
    "write": "right",
}
"""Other spellings of what sounds the same."""
_HINDI = ((re.compile("ɾ"), "r"), (re.compile("ʌ"), "ə"), (re.compile(r"([^aeiouəɪʊ])ʰ?(?=\1)"), ""))
"""Urdu's script, in which Hindi is heard, has no double consonants, and other phonemes for r and the short a."""
_DIALECTS = {"en": "en-us", "fr": "fr-fr", "pt": "pt-br"}
_PHONEMIZER = Phonemizer(DEFAULT_VOCAB)


@dataclass(slots=True)
class Errors:
    """Words (or sounds) that were expected, and how many were heard wrong, left out or added."""

    expected: int = 0
    wrong: int = 0

    @property
    def share(self) -> float:
        """The word error."""
        return self.wrong / self.expected if self.expected else 0.0

    def add(self, other: "Errors") -> None:
        """Adds the counts of another text."""
        self.expected += other.expected
        self.wrong += other.wrong


def compare(expected: str, heard: str, language: str, *, by_sound: bool = False) -> Errors:
    """Counts the errors of a text by word or, where one sound has many spellings, by sound."""
    if by_sound:
        reference, hypothesis = (list(sounds(text, language)) for text in (expected, heard))
    else:
        reference, hypothesis = (normalised(text, language).split() for text in (expected, heard))
    # jiwer counts words; sounds are given to it as words of one letter.
    measured = jiwer.process_words(" ".join(reference), " ".join(hypothesis) or "-")
    return Errors(len(reference), measured.substitutions + measured.deletions + measured.insertions)


def normalised(text: str, language: str) -> str:
    """A text in lower case without marks: numbers as single digits in English, as words in other languages."""
    if language == "en":
        return _normalised_english(text)
    words = re.sub(r"\d+", lambda number: f" {num2words(int(number[0]), lang=language)} ", text)
    return str(_basic()(words))


def _normalised_english(text: str) -> str:
    text = _DOT.sub(" dot ", text.replace("@", " at ").replace("%", " percent "))
    text = re.sub(r"(?<=\d)[-:](?=\d)", " ", text)
    text = _MONTH_DAY.sub(r"\1", _english()(re.sub(r"(?<![\d.,])0(?=\d)", "oh ", text)))
    words = re.sub(r"[^\w\s]|(?<=\d)(?=\w)", " ", _ORDINAL.sub(r"\1 \2", text)).split()
    joined = re.sub(r"\b(?:[a-z] )+[a-z]\b", lambda letters: letters[0].replace(" ", ""), " ".join(words))
    return " ".join(_SPELLINGS.get(word, word) for word in joined.split())


def sounds(text: str, language: str) -> str:
    """The phonemes of a text without tones, stress, length and pauses."""
    found = _STRESS.sub("", _PHONEMIZER.phonemes(text, _DIALECTS.get(language, language)))
    for pattern, sign in _HINDI if language == "hi" else ():
        found = pattern.sub(sign, found)
    return found


@cache
def _english() -> EnglishTextNormalizer:
    return EnglishTextNormalizer()


@cache
def _basic() -> BasicTextNormalizer:
    return BasicTextNormalizer()

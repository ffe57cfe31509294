"""Tables of written and spoken text for every language of the voices, written from the rules of each language.

A reading is right when it has the words of the table, or the same phonemes: numbers may stay digits, and a heteronym is
written in the table as a word that sounds like it.
"""

import re
from pathlib import Path

import pytest
from kokoro_onnx.config import DEFAULT_VOCAB
from num2words import num2words

from callboard_tts.backends.phonemes import Phonemizer
from callboard_tts.domain.normalization import normalize_text
from callboard_tts.domain.tables import pairs

pytestmark = [
    pytest.mark.unit,
    pytest.mark.timeout(400),
    # misaki opens its second Japanese dictionary with a deprecated call when a word first needs it.
    pytest.mark.filterwarnings("ignore:Dictionary.create:DeprecationWarning"),
]

TABLES = Path(__file__).parent / "readings"
LANGUAGES = sorted(path.stem for path in TABLES.glob("*.txt"))
PHONEMIZER = Phonemizer(DEFAULT_VOCAB)
HINDI_NUMBERS = pairs(
    "1=एक|2=दो|15=पंद्रह|3=तीन|4=चार|5=पाँच|8=आठ|10=दस|12=बारह|19=उन्नीस|20=बीस|24=चौबीस|30=तीस|47=सैंतालीस|50=पचास|"
    "100=सौ|250=दो सौ पचास|1500=एक हज़ार पाँच सौ|2024=दो हज़ार चौबीस"
)


def rows(language: str) -> list[tuple[str, str]]:
    lines = (TABLES / f"{language}.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split(" => ") for line in lines if line and not line.startswith("# ")]
    return [(written, spoken) for written, spoken in pairs]


def spelled(match: re.Match[str], language: str) -> str:
    number, base = match[0], language.partition("-")[0]
    if base == "hi":
        return HINDI_NUMBERS.get(number, number)
    if base in {"en", "es", "fr", "it", "pt"}:
        words = str(num2words(int(number), lang="pt_BR" if base == "pt" else base))
        return words.replace(" and ", " ") if language == "en-us" else words
    return number


def words_of(text: str, language: str) -> list[str]:
    text = re.sub(r"\d+", lambda match: spelled(match, language), text)
    return re.sub(r"[-,.!?;:“”\"()।，。]", " ", text).lower().split()


def sounds_of(text: str, language: str) -> str:
    return re.sub(r"[ˈˌː ,.!?;:—…“”\"()]", "", PHONEMIZER.phonemes(text, language)).replace("ᵻ", "ɪ")


def same(first: str, second: str, language: str) -> bool:
    return words_of(first, language) == words_of(second, language) or (
        sounds_of(first, language) == sounds_of(second, language)
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_written_text_is_spoken_as_in_the_table(language: str) -> None:
    readings = [(written, normalize_text(written, language), spoken) for written, spoken in rows(language)]
    assert [row for row in readings if not same(row[1], row[2], language)] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_reading_a_reading_changes_nothing(language: str) -> None:
    readings = [normalize_text(written, language) for written, _ in rows(language)]
    again = [(reading, normalize_text(reading, language)) for reading in readings]
    assert [row for row in again if not same(*row, language)] == []


def test_tables_hold_enough_of_every_language() -> None:
    sizes = {language: len(rows(language)) for language in LANGUAGES}
    assert set(sizes) == {"en-us", "en-gb", "es", "fr-fr", "hi", "it", "ja", "pt-br", "zh"}
    assert min(sizes.values()) >= 20
    assert sizes["en-us"] + sizes["en-gb"] >= 220
    assert sum(sizes.values()) >= 400

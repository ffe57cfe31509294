"""How long a text sounds, judged by its characters alone: the usual length and an upper bound.

The edge holds quota by the bound of a whole text; a worker asks for more by both figures of each piece.
"""

import unicodedata

# What one character sounds like, in milliseconds: usually, and at most. Kokoro needs 60 to 80 ms for a letter of an
# alphabet, 130 to 190 ms for a syllable and about 240 ms for an ideograph.
_LETTER_MS = (80, 160)
_CAPITAL_MS = (80, 500)
"""A capital may stand in an abbreviation that is spelled out; W is the longest."""
_DIGIT_MS = (320, 800)
"""A digit may become up to two words: 77 is "seventy-seven"."""
_SYLLABLE_MS = (160, 450)
_IDEOGRAPH_MS = (320, 450)

MAX_SYMBOL_MS = 800
"""A sign that is read as a word, such as % or a currency."""
MAX_PAUSE_MS = 400
"""What a mark inside a sentence may add."""
MAX_SENTENCE_PAUSE_MS = 1200
"""What the end of a sentence may add: the pause, and the slower last syllable."""
MAX_SPACE_MS = 60
"""What a space may add, once in a row; a line break may add the pause after a sentence."""
MAX_FIXED_MS = 2000
"""What a text of any length may add: the first breath, and the last sound."""

_SENTENCE_MARKS = frozenset(".!?\u2026\u3002\uff01\uff1f\u0964")
_SPOKEN_MARKS = frozenset("%&@#*/\\")


def usual_audio_ms(text: str, speed: float) -> int:
    """Estimates how long a text sounds, without pauses."""
    return round(sum(_letter_ms(character)[0] for character in text if character.isalnum()) / speed)


def max_audio_ms(text: str, speed: float, comma_pause_ms: int = 0, sentence_pause_ms: int = 0) -> int:
    """Gives an upper bound for the sound of a text, pauses included; usual English comes to about a third of it.

    The pauses are those that the site adds at normal speed; they shorten no voice's own.
    """
    spoken_ms, paused_ms = MAX_FIXED_MS, 0
    previous = ""
    for character in text:
        if character in _SENTENCE_MARKS:
            # A row of dots is one pause, not many.
            paused_ms += 0 if previous in _SENTENCE_MARKS else max(MAX_SENTENCE_PAUSE_MS, 2 * sentence_pause_ms)
        elif character.isspace():
            paused_ms += 0 if previous.isspace() else MAX_SPACE_MS if character == " " else sentence_pause_ms
        elif character.isalnum():
            spoken_ms += _letter_ms(character)[1]
        elif unicodedata.category(character)[0] == "P":
            paused_ms += max(MAX_PAUSE_MS, comma_pause_ms)
            spoken_ms += MAX_SYMBOL_MS if character in _SPOKEN_MARKS else 0
        elif unicodedata.category(character)[0] == "S":
            spoken_ms += MAX_SYMBOL_MS
        previous = character
    return round(spoken_ms / speed + paused_ms * max(1.0, 1.0 / speed))


def _letter_ms(character: str) -> tuple[int, int]:
    if character.isascii():
        return _DIGIT_MS if character.isdigit() else _CAPITAL_MS if character.isupper() else _LETTER_MS
    if character.isnumeric() and not unicodedata.category(character).startswith("L"):
        return _DIGIT_MS
    # A letter without case belongs to a script of syllables or ideographs; scripts with case are alphabets.
    if character.lower() == character.upper():
        ideograph = unicodedata.name(character, "").startswith(("CJK ", "HANGUL "))
        return _IDEOGRAPH_MS if ideograph else _SYLLABLE_MS
    return _CAPITAL_MS if character.isupper() else _LETTER_MS

"""What a text to speak must be like, and how long it can sound at most."""

import unicodedata

from callboard_contracts.errors import CallboardError, ErrorCode

LETTER_MS = 160
"""A slow speaker's letter: 6 a second, where Kokoro's usual pace is 14 to 16."""
CAPITAL_MS = 500
"""A capital may stand in an abbreviation that is spelled out; W is the longest."""
DIGIT_MS = 800
"""A digit may become up to two words: 77 is "seventy-seven"."""
WIDE_MS = 450
"""A character that is a syllable or a word, as in Chinese, Japanese and Korean."""
SYMBOL_MS = 800
"""A sign that is read as a word, such as % or a currency."""
PAUSE_MS = 400
"""What a mark inside a sentence may add, and a space or a line break at most once in a row."""
SENTENCE_PAUSE_MS = 1200
"""What the end of a sentence may add: the pause, and the slower last syllable."""
FIXED_MS = 2000
"""What a text of any length may add: the first breath, and the last sound."""

_SENTENCE_MARKS = frozenset(".!?\u2026\u3002\uff01\uff1f\u0964")
_MAX_SPACE_MS = 60


def check_text(text: str, max_characters: int) -> None:
    """Refuses a text that cannot be spoken.

    Raises:
        CallboardError: `text_too_long`, or `invalid_request` for one that holds no letter, no digit and no sign
            that has a sound, or that is not valid Unicode.
    """
    if len(text) > max_characters:
        raise CallboardError(
            ErrorCode.TEXT_TOO_LONG,
            f"The input has {len(text)} characters; at most {max_characters} can be spoken in one request.",
            param="input",
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise CallboardError(
            ErrorCode.INVALID_REQUEST,
            "The input is not valid Unicode: it holds half of a surrogate pair.",
            param="input",
        ) from None
    if not any(character.isalnum() for character in text):
        raise nothing_to_speak()


def nothing_to_speak() -> CallboardError:
    """The error for a text that leaves nothing to say."""
    return CallboardError(ErrorCode.INVALID_REQUEST, "The input holds nothing that can be spoken.", param="input")


def audio_ms_bound(text: str, speed: float, comma_pause_ms: int, sentence_pause_ms: int) -> int:
    """The most audio a text can become, in milliseconds; no more is held for it before the first sound.

    A bound and no estimate: usual English comes to about a third of it, and the rest returns with the
    settlement.
    """
    spoken_ms, paused_ms = FIXED_MS, 0
    previous = ""
    for character in text:
        if character in _SENTENCE_MARKS:
            # A row of dots is one pause, not many.
            paused_ms += 0 if previous in _SENTENCE_MARKS else max(SENTENCE_PAUSE_MS, 2 * sentence_pause_ms)
        elif character.isspace():
            paused_ms += 0 if previous.isspace() else _MAX_SPACE_MS if character == " " else sentence_pause_ms
        elif character.isalnum():
            spoken_ms += _letter_ms(character)
        elif unicodedata.category(character)[0] == "P":
            paused_ms += max(PAUSE_MS, comma_pause_ms)
            spoken_ms += SYMBOL_MS if character in "%&@#*/\\" else 0
        elif unicodedata.category(character)[0] == "S":
            spoken_ms += SYMBOL_MS
        previous = character
    return round(spoken_ms / speed + paused_ms * max(1.0, 1.0 / speed))


def _letter_ms(character: str) -> int:
    if character.isascii():
        return DIGIT_MS if character.isdigit() else CAPITAL_MS if character.isupper() else LETTER_MS
    if character.isnumeric() and not unicodedata.category(character).startswith("L"):
        return DIGIT_MS
    # A letter without case belongs to a script of syllables or words; those with case are alphabets like Latin.
    if character.lower() == character.upper():
        return WIDE_MS
    return CAPITAL_MS if character.isupper() else LETTER_MS

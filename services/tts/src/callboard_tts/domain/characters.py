"""Decodes HTML entities and folds styled letters, so that later rules see plain characters."""

import html
import re
import unicodedata

_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_STYLED = re.compile(
    "[\u2102-\u211f\u2121\u2123-\u2134\u2160-\u2188\u2460-\u24ff\u3200-\u33ff\ufb00-\ufb06\uff02-\uff07\uff0a-\uff0b"
    "\uff0d\uff0f-\uff19\uff1d\uff20-\uff5d\uff65-\uff9f\uffe0-\uffe6\U0001d400-\U0001d7ff\U0001f100-\U0001f149]+"
)
"""Styled, full-width and half-width letters, enclosed letters, unit signs, Roman numerals and ligatures. Marks of
East Asian punctuation, superscripts and fractions stay: NFKC would lose what they mean."""
_FOREIGN_DIGIT = re.compile(r"(?![0-9])\d")
"""Digits of other scripts, which the rules read like ASCII ones."""
_SMALL_CAPITALS = dict(zip("ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ", "abcdefghijklmnoprstuvwyz", strict=True))
_SMALL_CAPITAL_WORD = re.compile(f"[{''.join(_SMALL_CAPITALS)}x]{{3,}}")


def plain_characters(text: str) -> str:
    """Replaces styled letters, such as mathematical bold, and digits of other scripts by the plain ones."""
    text = _FOREIGN_DIGIT.sub(lambda match: str(int(match[0])), text)
    text = _STYLED.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    return _SMALL_CAPITAL_WORD.sub(
        lambda match: "".join(_SMALL_CAPITALS.get(letter, letter) for letter in match[0]), text
    )


def decoded_entities(text: str) -> str:
    """Replaces HTML entities by their characters."""
    return _ENTITY.sub(lambda match: html.unescape(match[0]), text)

"""Takes out of a text what is not meant to be heard: thoughts, code, markdown, links and pictograms."""

import re
import unicodedata

FENCE = "```"
_BLOCKS = {"<think>": "</think>", "<thinking>": "</thinking>", FENCE: FENCE}
_LONGEST_OPENER = max(map(len, _BLOCKS))
_OPENER = re.compile("|".join(re.escape(opener) for opener in sorted(_BLOCKS, key=len, reverse=True)), re.IGNORECASE)

_BEFORE_FENCE = re.compile(r"[ \t>*+\-•0-9.)]{0,16}")
"""What may stand before a fence in its line: blanks, and the marks of a list or a quotation."""
_AFTER_FENCE = re.compile(r"[\w+#.\-]{0,24}(?:\r?(\n)|$)")
_LINE_KEPT = 17
"""One character more than may stand before a fence."""


class BlockFilter:
    """Drops thoughts and fenced code from a text while it arrives; what comes out does not depend on the chunks."""

    def __init__(self) -> None:
        self._text = ""
        self._line = ""
        """The beginning of the line that the text goes on with."""
        self._closer: str | None = None

    def feed(self, text: str) -> str:
        """Takes more text and returns what of it is surely outside a block."""
        self._text += text
        spoken: list[str] = []
        while True:
            if self._closer is not None:
                end = self._text.lower().find(self._closer)
                if end < 0:
                    self._text = self._text[-(len(self._closer) - 1) :]
                    break
                self._text = self._text[end + len(self._closer) :]
                self._closer = None
            match, sure = self._opener()
            if match is None:
                spoken.append(self._let_go(sure))
                break
            # The newline keeps the sentences on both sides of a dropped block apart.
            spoken.append(self._let_go(match.start()) + "\n")
            self._line = ""
            self._text = self._text[len(match[0]) :]
            self._closer = _BLOCKS[match[0].lower()]
        return "".join(spoken)

    def finish(self) -> str:
        """Returns what was held back; a block that never closed stays unspoken."""
        rest = "" if self._closer is not None else self._text
        self._text, self._line, self._closer = "", "", None
        return rest

    def _opener(self) -> tuple[re.Match[str] | None, int]:
        """The first opener of a block, and how much of the text is surely before any.

        A fence within a line is one only if nothing but a language's name follows it there.
        """
        for match in _OPENER.finditer(self._text):
            line = (self._line + self._text[: match.start()]).rpartition("\n")[2]
            if match[0] != FENCE or _BEFORE_FENCE.fullmatch(line):
                return match, match.start()
            after = _AFTER_FENCE.match(self._text, match.end())
            if after is not None and after[1]:
                return match, match.start()
            if after is not None and after.end() == len(self._text):
                return None, match.start()
        return None, len(self._text) - _possible_opener(self._text)

    def _let_go(self, length: int) -> str:
        gone, self._text = self._text[:length], self._text[length:]
        self._line = (self._line + gone).rpartition("\n")[2][:_LINE_KEPT]
        return gone


def _possible_opener(text: str) -> int:
    """How many of the last characters may be the beginning of a block's opener."""
    for length in range(min(_LONGEST_OPENER - 1, len(text)), 0, -1):
        tail = text[-length:].lower()
        if any(opener.startswith(tail) for opener in _BLOCKS):
            return length
    return 0


_URL = r"[^\s<>\"”’\u3000-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]"
_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.MULTILINE), replacement)
    for pattern, replacement in (
        (r"\\[*_~`]", ""),
        (r"!\[([^\]]*)\]\([^)\s]*\)", r"\1"),
        (r"\[([^\]]+)\]\((?:[^()\s]|\([^()\s]*\))*(?:\s+\"[^\"]*\")?\)", r"\1"),
        (r"\[\^?\d+\]", ""),
        (r"<(?:https?://|mailto:)[^>\s]*>", ""),
        (rf"(?<![A-Za-z0-9])(?:(?:https?|ftp)://|www\.){_URL}*(?<![.,;:!?)\]}}*_'])", ""),
        (r"</?[A-Za-z][A-Za-z0-9-]*(?:\s+[\w:-]+=(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s<>]+))*\s*/?>", " "),
        (r"^[ \t]*\|?(?:[ \t]*:?-{2,}:?[ \t]*\|)+[ \t]*:?-*:?[ \t]*$", ""),
        (r"^[ \t]*(?:[-*_=][ \t]*){3,}$", ""),
        (r"^[ \t]*\|(.*)\|[ \t]*$", r"\1."),
        (r"[ \t]*\|[ \t]*", ", "),
        (r"^[ \t]{0,8}(?:>[ \t]*)+", ""),
        (r"^[ \t]*#{1,6}[ \t]+(.*?)[ \t#]*$", r"\n\1\n"),
        (r"^[ \t]*[-+*•·◦▪–][ \t]+(?:\[[ xX]\][ \t]+)?", "\n"),
        (r"^[ \t]*(\d{1,3})[.)][ \t]+(?=\S)", r"\n\1, "),
        (r"(\*{2,3}|_{2,3}|~~)(?=\S)(.+?)(?<=\S)\1", r"\2"),
        (r"(?<![\w*])\*(?=\S)([^*\n]+?)(?<=\S)\*(?![\w*])", r"\1"),
        (r"(?<![\w_])_(?=\S)([^_\n]+?)(?<=\S)_(?![\w_])", r"\1"),
        (r"`+([^`\n]*)`+", r"\1"),
        (r"\*\*+|__+|~~+|`+|(?<!\w)\*(?=\w)|(?<=[\w.,!?…])\*(?!\w)", ""),
        (r"\\([\\`*_{}\[\]()#+\-.!|>~])", r"\1"),
    )
)

_NAME = re.compile(
    r"\s*[*_]{0,3}([^\W\d_][\w'’.-]{0,23}(?: [^\W\d_][\w'’.-]{0,23}){0,2})[*_]{0,3}:[*_]{0,3}[ \t\n]+(?=\S)"
)
_LABEL_WORDS = (
    "note notes warning caution tip hint example examples summary answer question result results conclusion update "
    "edit remember important danger attention step first second third finally fact ps disclaimer spoiler"
)
_LABELS = frozenset(_LABEL_WORDS.split())
_QUOTES = str.maketrans(
    {
        "’": "'",
        "‘": "'",
        "ʼ": "'",
        "´": "'",
        "`": "'",
        "„": "“",
        "‟": "“",
        "″": '"',
        "′": "'",
        "\u00a0": " ",
        "\u202f": " ",
    }
)
_SPACES = re.compile(r"[ \t\r\f\v\u2000-\u200a\u3000]+")
_LINES = re.compile(r"[ \t]*\n[ \t\n]*")
_LINE_END = re.compile(r"([^\s])[ \t]*\n([ \t\n]*)(?=(\S))")
_STOPS = ".!?…:;,。！？；：、，—-।॥(「『（“\"'"


def without_markup(text: str) -> str:
    """Gives the words of a fragment as they are to be read, on one line; what is only decoration is gone.

    Line breaks that separate sentences or items become marks that a voice pauses at.
    """
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n")
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = "".join(map(_spoken, text.translate(_QUOTES)))
    text = _LINE_END.sub(_joined, text)
    text = _LINES.sub(" ", text)
    text = _SPACES.sub(" ", text)
    return re.sub(r" +(?=[,.!?;:…](?:\s|$))", "", text).strip()


def without_speaker(text: str) -> str:
    """Drops the `Name:` that a model puts before a reply; labels such as `Note:` are words and stay."""
    match = _NAME.match(text)
    if match is None:
        return text
    words = match[1].split()
    if words[0].lower() in _LABELS or not all(word[0].isupper() or not word[0].islower() for word in words):
        return text
    return text[match.end() :]


def is_speakable(text: str) -> bool:
    """Whether a text has anything that makes a sound."""
    return any(character.isalnum() for character in text)


def _joined(match: re.Match[str]) -> str:
    last, gap, following = match[1], match[2], match[3]
    if last in _STOPS:
        return f"{last} "
    if "\n" in gap:
        return f"{last}. "
    if following.isupper() or following.isdigit():
        return f"{last}, "
    return f"{last} "


def _spoken(character: str) -> str:
    """The character itself, a space for a pictogram, or nothing for what only steers how others look."""
    code = ord(character)
    if code in _INVISIBLE or 0xFE00 <= code <= 0xFE0F or 0xE0000 <= code <= 0xE01EF:
        return ""
    if code < 0x20 and character not in "\n\t":
        return " "
    return " " if any(first <= code <= last for first, last in _PICTOGRAMS) else character


_INVISIBLE = frozenset({0xAD, 0x200B, 0x200D, 0x2060, 0xFEFF, 0x20E3, 0x1F3FB, 0x1F3FC, 0x1F3FD, 0x1F3FE, 0x1F3FF})
_PICTOGRAMS = (
    (0x2190, 0x21FF),
    (0x2300, 0x23FF),
    (0x2500, 0x27BF),
    (0x2900, 0x2BFF),
    (0x3030, 0x3030),
    (0x303D, 0x303D),
    (0xE000, 0xF8FF),
    (0xFFFC, 0xFFFD),
    (0x1F000, 0x1FAFF),
)

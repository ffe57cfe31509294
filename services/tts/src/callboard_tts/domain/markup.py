"""Removes what is not spoken from a text: reasoning blocks, code, Markdown, links and emoji.

The rules are our own because they run on pieces of a text that still arrives, where marks may be unpaired. A Markdown
parser would add more lines than it removes, and leave unpaired marks to be spoken.
"""

import re
import unicodedata
from collections.abc import Callable

from callboard_tts.domain.characters import plain_characters

FENCE = "```"
_BLOCKS = {"<think>": "</think>", "<thinking>": "</thinking>", FENCE: FENCE}
_STRAY_ENDS = frozenset({"</think>", "</thinking>"})
_MARKS = (*_BLOCKS, *_STRAY_ENDS)
_LONGEST_MARK = max(map(len, _MARKS))
_MARK = re.compile("|".join(re.escape(mark) for mark in sorted(_MARKS, key=len, reverse=True)), re.IGNORECASE)

_BEFORE_FENCE = re.compile(r"[ \t>*+\-•0-9.)]{0,16}")
"""What may precede a fence in its line: blanks, and the marks of a list or a quotation."""
_AFTER_FENCE = re.compile(r"[\w+#.\-]{0,24}(?:\r?(\n)|$)")
_KEPT_CHARACTERS = 17
"""One character more than may precede a fence in its line."""


class BlockFilter:
    """Drops reasoning and fenced code from a text while it arrives; the result does not depend on the chunks.

    Some chat templates open the reasoning themselves, so that a text holds only its end. What comes before such an end
    is dropped too; `forget` is called to drop what was already returned.
    """

    def __init__(self, forget: Callable[[], None] = lambda: None) -> None:
        self._forget = forget
        self._text = ""
        self._line = ""
        """What was already returned of the current line, as far as it matters."""
        self._last = ""
        """The last character that was returned."""
        self._closer: str | None = None

    def feed(self, text: str) -> str:
        """Takes more text and returns what is certainly outside a block."""
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
            match, safe_length = self._mark()
            if match is None:
                spoken.append(self._release(safe_length))
                break
            # The newline separates the sentences before and after a dropped block.
            spoken.append(self._release(match.start()) + "\n")
            self._line = self._last = ""
            self._text = self._text[len(match[0]) :]
            mark = match[0].lower()
            self._closer = _BLOCKS.get(mark)
            if mark in _STRAY_ENDS:
                spoken.clear()
                self._forget()
        return "".join(spoken)

    def finish(self) -> str:
        """Returns the rest of the text; a block that was never closed is dropped."""
        rest = "" if self._closer is not None else self._text
        self._text, self._line, self._closer = "", "", None
        return rest

    def _mark(self) -> tuple[re.Match[str] | None, int]:
        """Finds the first mark of a block, and how many characters certainly precede any mark.

        A fence within a line opens a block only if nothing but a language's name follows it in that line. The end of
        a block that is quoted as code ends nothing.
        """
        for match in _MARK.finditer(self._text):
            line = (self._line + self._text[: match.start()]).rpartition("\n")[2]
            before = self._text[match.start() - 1] if match.start() else self._last
            if match[0].lower() in _STRAY_ENDS and before == "`":
                continue
            if match[0] != FENCE or _BEFORE_FENCE.fullmatch(line):
                return match, match.start()
            after = _AFTER_FENCE.match(self._text, match.end())
            if after is not None and after[1]:
                return match, match.start()
            if after is not None and after.end() == len(self._text):
                return None, match.start()
        return None, len(self._text) - _possible_mark(self._text)

    def _release(self, length: int) -> str:
        released, self._text = self._text[:length], self._text[length:]
        self._line = (self._line + released).rpartition("\n")[2][:_KEPT_CHARACTERS]
        self._last = released[-1:] or self._last
        return released


def _possible_mark(text: str) -> int:
    """Counts the last characters that may begin a mark."""
    for length in range(min(_LONGEST_MARK - 1, len(text)), 0, -1):
        tail = text[-length:].lower()
        if any(mark.startswith(tail) for mark in _MARKS):
            return length
    return 0


_URL = r"[^\s<>\"”’\u3000-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]"
_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.MULTILINE), replacement)
    for pattern, replacement in (
        (r"\\[*_~`]", ""),
        (r"!\[([^\[\]]{0,500})\]\([^)\s]*\)", r"\1"),
        (
            r"\[([^\[\]]{1,500})\]\((?!/[^()\n]{0,119}[^\x00-\x7f()\n])(?:[^()\s]|\([^()\s]*\))*(?:\s+\"[^\"]*\")?\)",
            r"\1",
        ),
        # The word of a pronunciation that was left out; a piece may end within its brackets.
        (r"\]\(/\)", ""),
        (r"\[\^?\d+\]", ""),
        (r"<(?:https?://|mailto:)[^>\s]*>", ""),
        (rf"(?<![A-Za-z0-9])(?:(?:https?|ftp)://|www\.){_URL}*(?<![.,;:!?)\]}}*_'])", ""),
        (r"</?[A-Za-z][A-Za-z0-9-]*(?:\s+[\w:-]+=(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s<>]+))*\s*/?>", " "),
        (r"^[ \t]*+\|?+[ \t]*+(?::?-{2,}:?[ \t]*+\|[ \t]*+)+:?-*:?[ \t]*$", ""),
        (r"^[ \t]*(?:[-*_=][ \t]*){3,}$", ""),
        (r"^[ \t]*\|(.*)\|[ \t]*$", r"\1."),
        (r"(?<![ \t])[ \t]*+\|[ \t]*", ", "),
        (r"^[ \t]{0,8}(?:>[ \t]*)+", ""),
        (r"^[ \t]*#{1,6}[ \t]+(.*?)[ \t#]*$", r"\n\1\n"),
        (r"^[ \t]*[-+*•·◦▪–][ \t]+(?:\[[ xX]\][ \t]+)?", "\n"),
        (r"^[ \t]*(\d{1,3})[.)][ \t]+(?=\S)", r"\n\1, "),
        (r"(\*{2,3}|_{2,3}|~~)(?=\S)(.{1,500}?)(?<=\S)\1", r"\2"),
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
_QUOTES = str.maketrans("’‘ʼ´`„‟″′\u00a0\u202f", "'''''““\"'  ")
_INVISIBLE = re.compile("[\u00ad\u200b\u200d\u2060\ufeff\u20e3\ufe00-\ufe0f\U0001f3fb-\U0001f3ff\U000e0000-\U000e01ef]")
"""Marks without a sound of their own: soft hyphens, joiners, variation selectors and skin tones."""
_SYMBOL = re.compile(
    "[\x00-\x08\x0b-\x1f\u2190-\u21ff\u2300-\u23ff\u2500-\u27bf\u2900-\u2bff\u3030\u303d\ue000-\uf8ff\ufffc\ufffd"
    "\U0001f000-\U0001faff]"
)
"""Emoji, arrows, box drawing, dingbats, private use and control characters. A package of emoji alone knows only the
first, takes © and ™ too, and is a hundred times slower."""
_SPACES = re.compile(r"[ \t\r\f\v\u2000-\u200a\u3000]+")
_LINES = re.compile(r"(?<![ \t])[ \t]*+\n[ \t\n]*")
_LINE_END = re.compile(r"([^\s])[ \t]*\n([ \t\n]*)(?=(\S))")
_STOPS = ".!?…:;,。！？；：、，—-।॥(「『（“\"'"


def without_markup(text: str) -> str:
    """Removes the markup of a fragment, except a pronunciation `[word](/ipa/)`, and joins its lines.

    Line breaks between sentences or items become marks that a voice pauses at.
    """
    text = plain_characters(unicodedata.normalize("NFC", text)).replace("\r\n", "\n")
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _SYMBOL.sub(" ", _INVISIBLE.sub("", text.translate(_QUOTES)))
    text = _LINE_END.sub(_join_lines, text)
    text = _LINES.sub(" ", text)
    text = _SPACES.sub(" ", text)
    return re.sub(r" +(?=[,.!?;:…](?:\s|$))", "", text).strip()


def plain_spelling(text: str) -> str:
    """A text with plain letters and quotation marks in place of styled ones, and without invisible marks."""
    return _INVISIBLE.sub("", plain_characters(text).translate(_QUOTES))


def without_speaker(text: str) -> str:
    """Drops the `Name:` that a model puts before a reply; labels such as `Note:` are kept."""
    match = _NAME.match(text)
    if match is None:
        return text
    words = match[1].split()
    if words[0].lower() in _LABELS or not all(word[0].isupper() or not word[0].islower() for word in words):
        return text
    return text[match.end() :]


def is_speakable(text: str) -> bool:
    """Whether a text has a letter or a digit."""
    return any(character.isalnum() for character in text)


def _join_lines(match: re.Match[str]) -> str:
    last, gap, following = match[1], match[2], match[3]
    if last in _STOPS:
        return f"{last} "
    if "\n" in gap:
        return f"{last}. "
    if following.isupper() or following.isdigit():
        return f"{last}, "
    return f"{last} "

"""What Evennia needs of a reply: one speaker's words, and no braces, which its games take for commands."""

import re
from collections import Counter

_SPOKEN = re.compile(r"^[ \t]*([^\W\d_][\w' .-]{0,39}):(?=\s|$)", re.MULTILINE)
"""The beginning of a line that somebody speaks, as `Name: text`."""
_ROUND = str.maketrans("{}", "()")


def tidied(text: str, prompt: str, own_name: str | None = None) -> str:
    """The words of the one who answers the last line of a prompt, without a name before them.

    A prompt of `Name: text` lines ends without a cue for who is next, so that a model may write the name itself, and
    go on with what others say. Who speaks is known by those lines, by the names in what stands before them, and by
    beginning several lines of the reply; `own_name` is that of the one who answers, where it is known.
    """
    spoken = list(_SPOKEN.finditer(prompt))
    names = [match[1] for match in spoken]
    head = prompt[: spoken[0].start()] if spoken else ""
    repeated = [name for name, lines in Counter(match[1] for match in _SPOKEN.finditer(text)).items() if lines > 1]
    known, asker = {*names, *repeated, own_name}, names[-1] if names else None
    starts = [match for match in _SPOKEN.finditer(text) if match[1] in known or _names(head, match[1])]
    ends = [*(match.start() for match in starts), len(text)]
    turns: list[tuple[str | None, str]] = [(None, text[: ends[0]])]
    turns += [(match[1], text[match.end() : end]) for match, end in zip(starts, ends[1:], strict=True)]
    said = next((words.strip() for name, words in turns if words.strip() and (name is None or name != asker)), "")
    return said.translate(_ROUND)


def _names(text: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", text) is not None

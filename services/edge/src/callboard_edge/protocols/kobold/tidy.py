"""What Evennia needs of a reply: one speaker's words, and no braces, which its games take for commands."""

import re

_SPOKEN = re.compile(r"^([^\W\d_][\w' .-]{0,39}):(?=\s|$)", re.MULTILINE)
"""The beginning of a line that somebody speaks, as `Name: text`."""
_ROUND = str.maketrans("{}", "()")


def tidied(text: str, prompt: str) -> str:
    """The words of the one who answers the last line of a prompt, without a name before them.

    A prompt of `Name: text` lines ends without a cue for who is next, so that a model may write the name itself, and
    go on with what others say. Who speaks is known by the prompt's own lines, and by a name at the very beginning that
    the prompt has somewhere.
    """
    names = [match[1] for match in _SPOKEN.finditer(prompt)]
    known, asker = set(names), names[-1] if names else None
    text = text.lstrip()
    if (first := _SPOKEN.match(text)) is not None and first[1] in prompt:
        known.add(first[1])
    starts = [match for match in _SPOKEN.finditer(text) if match[1] in known]
    turns: list[tuple[str | None, str]] = [(None, text[: starts[0].start()] if starts else text)]
    for match, following in zip(starts, [*starts[1:], None], strict=True):
        turns.append((match[1], text[match.end() : following.start() if following else len(text)]))
    said = next((words.strip() for name, words in turns if words.strip() and (name is None or name != asker)), "")
    return said.translate(_ROUND)

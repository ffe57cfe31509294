"""Finds which part of a spoken phrase each of its words takes, given how each word sounds alone."""

import unicodedata
from collections.abc import Sequence

import numpy as np

_GAP, _SPACE_GAP, _STRESS_GAP, _OTHER, _SPACE_FOR_SOUND = 4, 2, 1, 6, 16
"""The costs of an alignment: of a sound, a space or a stress mark on one side alone, and of two that differ."""
_STRESSES = "ˈˌ"


def word_spans(sounds: str, words: Sequence[str]) -> list[tuple[int, int] | None]:
    """The first character and the end of each word in `sounds`, in order; None for a word without a sound of its own.

    `words` are the sounds of each word alone. They need not be those of the phrase, where words run together and are
    read by their context: the cheapest alignment decides, and what stands between two words belongs to the first.
    """
    joined = " ".join(words)
    owners = [index for index, word in enumerate(words) for _ in range(len(word) + 1)]
    """The word of each place in `joined`; a separator belongs to the word before it."""
    found: list[list[int]] = [[] for _ in words]
    for at, place in enumerate(_places(sounds, joined)):
        if not _is_silent(sounds[at]) and owners:
            found[owners[place]].append(at)
    spans: list[tuple[int, int] | None] = [None] * len(words)
    last: list[int] = []
    """The word that was found last, and those after it that were not: the phrase reads them together."""
    for index, places in enumerate(found):
        if places:
            spans[index] = (places[0], places[-1] + 1)
            last = [index]
        elif not all(map(_is_silent, words[index])):
            last.append(index)
            _share(spans, last, words)
    return spans


def _share(spans: list[tuple[int, int] | None], together: Sequence[int], words: Sequence[str]) -> None:
    """Divides what some words take together among them, by the length of each alone."""
    spoken = [spans[index] for index in together]
    begin = min((span[0] for span in spoken if span), default=0)
    end = max((span[1] for span in spoken if span), default=0)
    lengths = np.cumsum([0, *(len(words[index]) for index in together)])
    edges = [begin + int((end - begin) * length // lengths[-1]) for length in lengths]
    for index, first, last in zip(together, edges, edges[1:], strict=False):
        spans[index] = (first, last)


def _places(sounds: str, joined: str) -> list[int]:
    """For each character of `sounds`, the place in `joined` that it belongs to."""
    if not joined:
        return [0] * len(sounds)
    columns = np.array([ord(character) for character in joined], np.int32)
    gaps = np.concatenate([[0], np.cumsum([_gap(character) for character in joined])]).astype(np.int32)
    rows = np.empty((len(sounds) + 1, len(joined) + 1), np.int32)
    rows[0] = gaps
    is_space = columns == ord(" ")
    for at, sound in enumerate(sounds):
        before = rows[at]
        best = before + _gap(sound)
        differs = np.where(is_space != (sound == " "), _SPACE_FOR_SOUND, _OTHER)
        best[1:] = np.minimum(best[1:], before[:-1] + np.where(columns == ord(sound), 0, differs))
        rows[at + 1] = np.minimum.accumulate(best - gaps) + gaps
    places = [0] * len(sounds)
    row, column = len(sounds), len(joined)
    while row:
        sound = sounds[row - 1]
        if column and rows[row, column] == rows[row, column - 1] + gaps[column] - gaps[column - 1]:
            column -= 1
        elif rows[row, column] == rows[row - 1, column] + _gap(sound):
            row -= 1
            # What has no counterpart belongs to what precedes it; after a separator, to the word that follows.
            places[row] = column if column and joined[column - 1] == " " else max(0, column - 1)
        else:
            row, column = row - 1, column - 1
            places[row] = column
    return [min(place, len(joined) - 1) for place in places]


def _gap(character: str) -> int:
    return _SPACE_GAP if character == " " else _STRESS_GAP if character in _STRESSES else _GAP


def _is_silent(character: str) -> bool:
    return unicodedata.category(character)[0] in "PZ"

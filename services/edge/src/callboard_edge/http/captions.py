"""Texts with times, as files of captions."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caption:
    """What is said from one time to another; `speaker` is None where nobody is named."""

    begin_ms: int
    end_ms: int
    text: str
    speaker: str | None = None


def webvtt(captions: Iterable[Caption]) -> str:
    """Captions as a WebVTT file."""
    return "".join(["WEBVTT\n", *map(_vtt_block, captions)])


def subrip(captions: Iterable[Caption]) -> str:
    """Captions as a SubRip file."""
    blocks = [
        f"{number}\n{_time(one.begin_ms, ',')} --> {_time(one.end_ms, ',')}\n{_line(one.text)}\n"
        for number, one in enumerate(captions, 1)
    ]
    return "\n".join(blocks)


def _vtt_block(one: Caption) -> str:
    voice = "" if one.speaker is None else f"<v {_escaped(one.speaker)}>"
    return f"\n{_time(one.begin_ms, '.')} --> {_time(one.end_ms, '.')}\n{voice}{_escaped(one.text)}\n"


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _line(text: str) -> str:
    # An arrow would begin the next caption.
    return " ".join(text.split()).replace("-->", "->")


def _time(ms: int, mark: str) -> str:
    seconds, ms = divmod(ms, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{mark}{ms:03}"

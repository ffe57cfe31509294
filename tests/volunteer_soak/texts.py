"""Prompts that carry a number, and the one text that an honest volunteer writes for each."""

import re
from dataclasses import dataclass

_NUMBER = re.compile(r"Tell me of owl (\d+)\.")
WORDS = 8
LIE = "There is nothing to see here, and nothing was ever written by anybody."


@dataclass(frozen=True, slots=True)
class Asked:
    """What a payload asks for: its number, and what was said of the reply before."""

    number: int
    said: str

    @property
    def rest(self) -> str:
        """What an honest volunteer writes on."""
        return whole(self.number)[len(self.said) :]


def prompt(number: int) -> str:
    """The prompt of a request."""
    return f"Tell me of owl {number}."


def whole(number: int) -> str:
    """The reply to it."""
    return "".join(f" owl{number}.{word}" for word in range(WORDS))


def asked(text: str) -> Asked:
    """Takes a prompt apart as a volunteer gets it; raises ValueError for what is none."""
    found = _NUMBER.match(text)
    if found is None:
        raise ValueError(text)
    return Asked(int(found[1]), text[found.end() :])


def is_own(number: int, text: str) -> bool:
    """Whether a reply is of its request alone: what honest volunteers wrote, and at most a lie behind it."""
    honest = whole(number)
    length = next((n for n in range(len(honest), -1, -1) if text.startswith(honest[:n])), 0)
    return text[length:] in ("", LIE, LIE * 6)

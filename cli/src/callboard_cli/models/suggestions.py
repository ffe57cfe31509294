"""Models that are worth trying, by the memory that they need."""

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from callboard_cli.failures import CommandError, ExitCode

GIGABYTE = 1_000_000_000
SHARE_OF_MEMORY = 0.65
"""What a model may take of a machine; the rest is for the system, the voice and everything else."""
WORK_GIGABYTES = 0.6
"""Beside the file: the engine's buffers, and 4096 tokens of context in each of two slots."""
CONTEXT_SHARE = 0.12
"""How much of its file's size a model takes for that context, about."""
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*(?:g|gb|gib)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SuggestedModel:
    """A repository of the hub, the size of its 4-bit file, and what it is good for."""

    repository: str
    gigabytes: float
    licence: str
    about: str

    @property
    def needs_gigabytes(self) -> float:
        """The memory that it takes while it works, about."""
        return self.gigabytes * (1 + CONTEXT_SHARE) + WORK_GIGABYTES


@cache
def suggested_models() -> tuple[SuggestedModel, ...]:
    """All suggestions, the smallest first."""
    table = tomllib.loads((files("callboard_cli.models") / "suggested.toml").read_text(encoding="utf-8"))
    return tuple(SuggestedModel(**entry) for entry in table["model"])


def fitting(memory_gigabytes: float) -> list[SuggestedModel]:
    """The suggestions that fit into a machine with so much memory, the largest first."""
    most = memory_gigabytes * SHARE_OF_MEMORY
    return [one for one in reversed(suggested_models()) if one.needs_gigabytes <= most]


def parse_memory(text: str) -> float:
    """Reads an amount such as `8GB`, in gigabytes; raises CommandError."""
    found = _MEMORY.fullmatch(text.strip())
    if found is None or not 0 < float(found[1]) < 100_000:
        raise CommandError(f"--memory: found {text[:40]!r}, allowed is an amount such as 8GB", ExitCode.USAGE)
    return float(found[1])

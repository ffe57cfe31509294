"""Figures: how they are named, compared with their bars, and summed up."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure; `bar` is what it must reach, left out where it is only told."""

    name: str
    value: float
    unit: str
    bar: float | None = None
    better: Literal["lower", "higher"] = "lower"

    @property
    def met(self) -> bool | None:
        """Whether the bar is reached, or None without one."""
        if self.bar is None:
            return None
        return self.value <= self.bar if self.better == "lower" else self.value >= self.bar

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """The row of a table: name, value, bar, verdict."""
        sign = "at most" if self.better == "lower" else "at least"
        bar = "" if self.bar is None else f"{sign} {_number(self.bar)} {self.unit}"
        verdict = {None: "", True: "met", False: "MISSED"}[self.met]
        return self.name, f"{_number(self.value)} {self.unit}", bar, verdict


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values lies, from 0 to 1; the nearest one that was really measured."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def table(figures: Sequence[Figure]) -> list[str]:
    """The figures as the lines of a Markdown table."""
    rows = [("figure", "measured", "bar", ""), *(figure.cells for figure in figures)]
    return table_of(rows)


def table_of(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as the lines of a Markdown table; the first row is the head."""
    widths = [max(3, *(len(row[n]) for row in rows)) for n in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return lines


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"

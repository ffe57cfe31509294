"""A drawing of lines, dots and words, which is written as SVG or as PNG."""

from dataclasses import dataclass, field
from html import escape
from typing import Literal

Paint = Literal["ink", "faint", "first", "second", "wrong"]
COLOURS: dict[Paint, str] = {
    "ink": "#1f2430",
    "faint": "#c9ced8",
    "first": "#0b6fb8",
    "second": "#c2410c",
    "wrong": "#b00020",
}
PAPER = "#ffffff"
Anchor = Literal["start", "middle", "end"]
Point = tuple[float, float]
TEXT_HEIGHT = 12


@dataclass(frozen=True, slots=True)
class Line:
    """A line through some points."""

    points: tuple[Point, ...]
    paint: Paint
    width: int = 1


@dataclass(frozen=True, slots=True)
class Mark:
    """A dot of one request, or a cross of one that failed."""

    at: Point
    paint: Paint
    cross: bool = False


@dataclass(frozen=True, slots=True)
class Words:
    """Words whose baseline lies at a point."""

    at: Point
    text: str
    anchor: Anchor = "start"
    paint: Paint = "ink"


@dataclass(slots=True)
class Scene:
    """A drawing; its origin is the upper left corner, and a unit is a pixel."""

    width: int
    height: int
    lines: list[Line] = field(default_factory=list[Line])
    marks: list[Mark] = field(default_factory=list[Mark])
    words: list[Words] = field(default_factory=list[Words])

    def svg(self, title: str) -> str:
        """The drawing as an SVG element for a page."""
        parts = [
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(title)}">',
            f'<rect width="{self.width}" height="{self.height}" fill="{PAPER}"/>',
        ]
        for line in self.lines:
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in line.points)
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="{COLOURS[line.paint]}" stroke-width="{line.width}"/>'
            )
        for mark in self.marks:
            (x, y), colour = mark.at, COLOURS[mark.paint]
            if mark.cross:
                path = f"M{x - 3:.1f} {y - 3:.1f}l6 6m0-6l-6 6"
                parts.append(f'<path d="{path}" stroke="{colour}" stroke-width="1.5"/>')
            else:
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{colour}" fill-opacity="0.7"/>')
        for words in self.words:
            x, y = words.at
            parts.append(
                f'<text x="{x:.1f}" y="{y:.1f}" font-size="{TEXT_HEIGHT}" font-family="system-ui, sans-serif" '
                f'text-anchor="{words.anchor}" fill="{COLOURS[words.paint]}">{escape(words.text)}</text>'
            )
        return "\n".join([*parts, "</svg>"])

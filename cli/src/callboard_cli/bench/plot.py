"""The plot of a measurement: for each work how many requests had begun by when, and how that changed with time."""

import math
from collections.abc import Sequence
from typing import Any

from callboard_cli.bench.scene import Line, Mark, Paint, Scene, Words
from callboard_cli.bench.tables import NAMES

WIDTH, PANEL_HEIGHT, HEAD_HEIGHT = 960, 260, 56
LEFT, RIGHT, TOP, BOTTOM, GAP = 64, 24, 34, 44, 76
MAX_MARKS = 2000
MAX_STEPS = 500
PAINTS: tuple[Paint, Paint] = ("first", "second")
WHAT = {
    "chat": "chat: first token",
    "speech": "speech: first sound",
    "conversations": "conversations: first token",
    "rooms": "rooms: first sound",
}


def plot_of(found: dict[str, Any]) -> Scene:
    """Draws the results of a measurement."""
    works = list(dict.fromkeys(work["work"] for work in found["works"]))
    scene = Scene(WIDTH, HEAD_HEIGHT + max(1, len(works)) * PANEL_HEIGHT)
    for number, target in enumerate(found["targets"]):
        y = 20 + number * 18
        scene.lines.append(Line(((LEFT, y - 4), (LEFT + 24, y - 4)), PAINTS[number], 3))
        scene.words.append(Words((LEFT + 32, y), f"{NAMES[number]}: {target['url']}"))
    scene.words.append(Words((WIDTH - RIGHT, 20), found["started"], "end"))
    if any(one["error"] is not None for one in found["samples"]):
        scene.words.append(Words((WIDTH - RIGHT, 38), "a cross is a request that failed", "end", "wrong"))
    for row, work in enumerate(works):
        _panels(scene, HEAD_HEIGHT + row * PANEL_HEIGHT, work, [one for one in found["samples"] if one["work"] == work])
    return scene


def steps(longest: float) -> list[float]:
    """Round values from zero to at least the longest, about five of them."""
    if longest <= 0:
        return [0.0, 1.0]
    rough = longest / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    return [step * n for n in range(math.ceil(longest / step * 0.999) + 1)]


def _panels(scene: Scene, top: int, work: str, samples: Sequence[dict[str, Any]]) -> None:
    middle = (WIDTH - GAP) // 2
    waits = [one["first_s"] * 1000 for one in samples if one["first_s"] is not None and one["error"] is None]
    # One request that took very long must not press all others into a corner.
    ordered = sorted(waits)
    shown = min(ordered[-1], ordered[math.ceil(len(ordered) * 0.95) - 1] * 3) if ordered else 1.0
    ticks = steps(shown)
    y0, y1 = top + PANEL_HEIGHT - BOTTOM, top + TOP
    scene.words.append(Words((LEFT, top + 20), f"{WHAT[work]}, ms: share of requests"))
    scene.words.append(Words((middle + GAP, top + 20), "ms, by the time in s at which it was due"))
    _axis(scene, (LEFT, middle), (y0, y1), ticks, [0, 0.25, 0.5, 0.75, 1], "%")
    times = [one["due_s"] for one in samples]
    begun = min(times, default=0.0)
    seconds = steps(max(times, default=1.0) - begun)
    _axis(scene, (middle + GAP, WIDTH - RIGHT), (y0, y1), seconds, ticks, "")
    for target, paint in enumerate(PAINTS):
        own = [one for one in samples if one["target"] == target]
        _shares(scene, (LEFT, middle), (y0, y1), own, ticks[-1], paint)
        for one in own[:: max(1, len(own) // MAX_MARKS)]:
            x = _at(one["due_s"] - begun, seconds[-1], middle + GAP, WIDTH - RIGHT)
            if one["error"] is not None:
                scene.marks.append(Mark((x, y1), "wrong", cross=True))
            elif one["first_s"] is not None:
                scene.marks.append(Mark((x, _at(one["first_s"] * 1000, ticks[-1], y0, y1)), paint))


def _shares(
    scene: Scene, xs: tuple[int, int], ys: tuple[int, int], own: Sequence[dict[str, Any]], longest: float, paint: Paint
) -> None:
    """A stair that rises with each request; those that failed never let it reach the top."""
    waits = sorted(one["first_s"] * 1000 for one in own if one["first_s"] is not None and one["error"] is None)
    if not waits:
        return
    points = [(float(xs[0]), float(ys[0]))]
    step = max(1, len(waits) // MAX_STEPS)
    for n in sorted({*range(step, len(waits), step), len(waits)}):
        x = _at(waits[n - 1], longest, *xs)
        points += [(x, points[-1][1]), (x, _at(n / len(own), 1.0, *ys))]
    points.append((float(xs[1]), points[-1][1]))
    scene.lines.append(Line(tuple(points), paint, 2))


def _axis(
    scene: Scene,
    xs: tuple[int, int],
    ys: tuple[int, int],
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    y_unit: str,
) -> None:
    for tick in y_ticks:
        y = _at(tick, y_ticks[-1], *ys)
        scene.lines.append(Line(((xs[0], y), (xs[1], y)), "faint"))
        scene.words.append(Words((xs[0] - 6, y + 4), f"{tick * 100:.0f}%" if y_unit == "%" else f"{tick:g}", "end"))
    for tick in x_ticks:
        x = _at(tick, x_ticks[-1], *xs)
        scene.lines.append(Line(((x, ys[0]), (x, ys[0] + 4)), "ink"))
        scene.words.append(Words((x, ys[0] + 18), f"{tick:g}", "middle"))
    scene.lines.append(Line(((xs[0], ys[1]), (xs[0], ys[0]), (xs[1], ys[0])), "ink"))


def _at(value: float, most: float, start: float, end: float) -> float:
    return start + (end - start) * min(1.0, value / most)

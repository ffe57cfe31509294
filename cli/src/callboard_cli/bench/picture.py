"""Writes a drawing as a PNG picture."""

import io
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from callboard_cli.bench.scene import COLOURS, PAPER, TEXT_HEIGHT, Anchor, Point, Scene

SCALE = 2
"""Pixels of the picture for one of the drawing, for screens that have more of them."""
_FINE = 2
"""Lines are drawn so much larger and made smaller afterwards, which smooths them."""
_ANCHORS: dict[Anchor, Literal["ls", "ms", "rs"]] = {"start": "ls", "middle": "ms", "end": "rs"}


def png(scene: Scene) -> bytes:
    """The picture's file."""
    picture = _shapes(scene, SCALE * _FINE).reduce(_FINE)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(TEXT_HEIGHT * SCALE)
    for words in scene.words:
        draw.text(_scaled(words.at, SCALE), words.text, COLOURS[words.paint], font, _ANCHORS[words.anchor])
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def _shapes(scene: Scene, scale: int) -> Image.Image:
    picture = Image.new("RGB", (scene.width * scale, scene.height * scale), PAPER)
    draw = ImageDraw.Draw(picture)
    for line in scene.lines:
        points = [_scaled(point, scale) for point in line.points]
        draw.line(points, COLOURS[line.paint], line.width * scale, joint="curve")
    for mark in scene.marks:
        (x, y), colour = _scaled(mark.at, scale), COLOURS[mark.paint]
        if mark.cross:
            for way in (-1, 1):
                draw.line(
                    [(x - 3 * scale, y - 3 * scale * way), (x + 3 * scale, y + 3 * scale * way)], colour, scale * 3 // 2
                )
        else:
            draw.circle((x, y), 2 * scale, colour)
    return picture


def _scaled(point: Point, scale: int) -> Point:
    return point[0] * scale, point[1] * scale

"""Writes a drawing as a PNG picture, with nothing but the standard library."""

import struct
import zlib
from itertools import pairwise

from callboard_cli.bench.pixel_font import ADVANCE, HEIGHT, rows_of
from callboard_cli.bench.scene import COLOURS, PAPER, Paint, Scene, Words

SCALE = 2
"""Pixels of the picture for one of the drawing, for screens that have more of them."""
_PALETTE = [PAPER, *COLOURS.values()]
_INDEX: dict[Paint, int] = {paint: n for n, paint in enumerate(COLOURS, 1)}


def png(scene: Scene) -> bytes:
    """The picture, with a palette of its few colours."""
    canvas = _Canvas(scene.width * SCALE, scene.height * SCALE)
    for line in scene.lines:
        for (x0, y0), (x1, y1) in pairwise(line.points):
            canvas.line(x0 * SCALE, y0 * SCALE, x1 * SCALE, y1 * SCALE, line.width * SCALE, _INDEX[line.paint])
    for mark in scene.marks:
        x, y, colour = mark.at[0] * SCALE, mark.at[1] * SCALE, _INDEX[mark.paint]
        if mark.cross:
            for way in (-1, 1):
                canvas.line(x - 3 * SCALE, y - 3 * SCALE * way, x + 3 * SCALE, y + 3 * SCALE * way, SCALE, colour)
        else:
            canvas.dot(x, y, 2 * SCALE, colour)
    for words in scene.words:
        canvas.words(words)
    return canvas.png()


class _Canvas:
    def __init__(self, width: int, height: int) -> None:
        self._width = width
        self._height = height
        self._rows = [bytearray(width) for _ in range(height)]

    def fill(self, left: float, top: float, width: int, height: int, colour: int) -> None:
        """Fills a rectangle, as far as it lies within the picture."""
        x0, y0 = max(0, round(left)), max(0, round(top))
        x1, y1 = min(self._width, round(left) + width), min(self._height, round(top) + height)
        for row in self._rows[y0:y1]:
            row[x0:x1] = bytes([colour]) * max(0, x1 - x0)

    def line(self, x0: float, y0: float, x1: float, y1: float, width: int, colour: int) -> None:
        """Draws a line as a row of squares."""
        half = width / 2
        if x0 == x1 or y0 == y1:
            size = round(abs(x1 - x0)) + width, round(abs(y1 - y0)) + width
            self.fill(min(x0, x1) - half, min(y0, y1) - half, *size, colour)
            return
        count = max(1, round(max(abs(x1 - x0), abs(y1 - y0))))
        for n in range(count + 1):
            x, y = x0 + (x1 - x0) * n / count, y0 + (y1 - y0) * n / count
            self.fill(x - half, y - half, width, width, colour)

    def dot(self, x: float, y: float, radius: int, colour: int) -> None:
        """Draws a filled circle."""
        for below in range(-radius, radius + 1):
            half = int((radius * radius - below * below) ** 0.5)
            self.fill(x - half, y + below, 2 * half + 1, 1, colour)

    def words(self, words: Words) -> None:
        """Draws words, letter by letter."""
        length = len(words.text) * ADVANCE * SCALE
        x = words.at[0] * SCALE - {"start": 0, "middle": length // 2, "end": length}[words.anchor]
        top, colour = words.at[1] * SCALE - HEIGHT * SCALE, _INDEX[words.paint]
        for n, sign in enumerate(words.text):
            for down, row in enumerate(rows_of(sign)):
                for across, dot in enumerate(row):
                    if dot == "#":
                        left = x + (n * ADVANCE + across) * SCALE
                        self.fill(left, top + down * SCALE, SCALE, SCALE, colour)

    def png(self) -> bytes:
        """The picture's file."""
        head = struct.pack(">IIBBBBB", self._width, self._height, 8, 3, 0, 0, 0)
        palette = b"".join(bytes.fromhex(colour[1:]) for colour in _PALETTE)
        pixels = zlib.compress(b"".join(b"\0" + row for row in self._rows), 9)
        chunks = ((b"IHDR", head), (b"PLTE", palette), (b"IDAT", pixels), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

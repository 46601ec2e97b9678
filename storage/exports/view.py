"""A part of a picture at a scale, as a pyramid of its own. Knows where its pixels come from; knows no file format.

    picture           +---------------+          view       level 0  round(region * scale)
                      |   +-------+   |          +-----+    level 1  half of that, ceil
                      |   |region |   |   --->   |     |    ...
                      |   +-------+   |          +-----+
                      +---------------+

A pixel of level L covers region / size * 2^L pixels of the picture. It is read from the picture's level next above
that, and resampled from there (Lanczos in linear light) unless the grids agree. Any box gives the same pixels,
whatever other boxes are read, so writers may go through a view tile by tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from storage.exports.contract import ExportError
from storage.exports.picture import Picture, Pixels8
from storage.geometry import Box
from storage.light import Linear, linear_to_srgb_u8, srgb_to_linear
from storage.pyramid import PyramidLayout

PIECE = 1024  # side of what is resampled at once: 40 MB of linear light
ROWS = 16  # of a band
SUPPORT = 6  # Lanczos reaches three pixels of the target, which are at most two of the source


@dataclass(frozen=True)
class View:
    """A box of a picture's full size, and a scale in (0, 1]. `layout` is that of the view's own pyramid."""

    picture: Picture
    region: Box
    scale: float = 1.0

    @property
    def height(self) -> int:
        return max(1, round(self.region.height * self.scale))

    @property
    def width(self) -> int:
        return max(1, round(self.region.width * self.scale))

    @property
    def whole(self) -> bool:
        """Whether this is the picture as it is: then every level is the picture's."""
        return self.region == self.picture.layout.whole(0).box and self.scale == 1

    @cached_property
    def layout(self) -> PyramidLayout:
        if self.whole:
            return self.picture.layout
        tile = self.picture.layout.tile
        return PyramidLayout(self.width, self.height, tile, 4 * tile)

    def read(self, level: int, box: Box) -> Pixels8:
        """(height, width, 3) sRGB pixels of a box of a level of the view."""
        if self.whole:
            return self.picture.read(level, box)
        out = np.empty((*box.shape, 3), np.uint8)
        for piece in _pieces(box):
            out[piece.slices_in(box)] = self._sampled(level, piece)
        return out

    def bands(self, most_bytes: int) -> Iterator[Pixels8]:
        """Level 0 from top to bottom, a few rows at a time; each is only good until the next is asked for.

        A row of tiles is held, or half, a quarter, ... of one where that would take more than `most_bytes`: then each
        tile is decoded that many times.
        """
        rows = self.layout.tile
        while rows > 1 and rows * self.width * 3 > most_bytes:
            rows //= 2
        held = np.empty((min(rows, self.height), self.width, 3), np.uint8)
        for top in range(0, self.height, rows):
            band = Box(top, min(top + rows, self.height), 0, self.width)
            for piece in _pieces(band):
                held[piece.slices_in(band)] = self.read(0, piece)
            for row in range(0, band.height, ROWS):
                yield held[row : min(row + ROWS, band.height)]

    def _sampled(self, level: int, box: Box) -> Pixels8:
        pitch_y = self.region.height / self.height * 2**level
        pitch_x = self.region.width / self.width * 2**level
        source = min(int(math.log2(min(pitch_y, pitch_x))), self.picture.layout.deep_levels - 1)
        top, bottom = ((self.region.y0 + edge * pitch_y) / 2**source for edge in (box.y0, box.y1))
        left, right = ((self.region.x0 + edge * pitch_x) / 2**source for edge in (box.x0, box.x1))
        whole = self.picture.layout.whole(source).box
        if (bottom - top, right - left) == box.shape and top.is_integer() and left.is_integer():
            same = Box(int(top), int(bottom), int(left), int(right))
            if whole.contains(same):
                return self.picture.read(source, same)
        around = Box(math.floor(top), math.ceil(bottom), math.floor(left), math.ceil(right)).expanded(SUPPORT)
        linear = srgb_to_linear(self._read_beyond(source, around))
        place = (left - around.x0, top - around.y0, right - around.x0, bottom - around.y0)
        return linear_to_srgb_u8(_resampled(linear, box.shape, place))

    def _read_beyond(self, level: int, box: Box) -> Pixels8:
        """Pixels of a box that may leave the picture, whose borders then go on."""
        whole = self.picture.layout.whole(level).box
        inside = Box(
            max(0, min(box.y0, whole.y1 - 1)), max(1, min(box.y1, whole.y1)),
            max(0, min(box.x0, whole.x1 - 1)), max(1, min(box.x1, whole.x1)),
        )  # fmt: skip
        beyond = (
            (inside.y0 - min(box.y0, inside.y0), max(box.y1, inside.y1) - inside.y1),
            (inside.x0 - min(box.x0, inside.x0), max(box.x1, inside.x1) - inside.x1),
            (0, 0),
        )
        return np.pad(self.picture.read(level, inside), beyond, mode="edge")


def view_of(picture: Picture, region: tuple[int, int, int, int] | None = None, scale: float = 1.0) -> View:
    """The view of region (x, y, width, height) in pixels of the full size. Raises ExportError where there is none."""
    if not 0 < scale <= 1:
        raise ExportError(f"scale {scale:g} is out of range: give more than 0, and 1 (full size) at most")
    whole = picture.layout.whole(0).box
    if region is None:
        return View(picture, whole, scale)
    x, y, width, height = region
    if min(x, y) < 0 or min(width, height) < 1 or x + width > whole.width or y + height > whole.height:
        raise ExportError(
            f"region {x},{y},{width},{height} is not inside the picture of {whole.width}x{whole.height}; "
            f"give x,y,width,height with x + width up to {whole.width} and y + height up to {whole.height}"
        )
    return View(picture, Box(y, y + height, x, x + width), scale)


def _pieces(box: Box) -> Iterator[Box]:
    for y in range(box.y0, box.y1, PIECE):
        for x in range(box.x0, box.x1, PIECE):
            yield Box(y, min(y + PIECE, box.y1), x, min(x + PIECE, box.x1))


def _resampled(linear: Linear, shape: tuple[int, int], place: tuple[float, float, float, float]) -> Linear:
    """The rectangle `place` (left, top, right, bottom) of the source, as (height, width) pixels."""
    height, width = shape
    out = np.empty((height, width, 3), np.float32)
    for channel in range(3):
        plane = Image.fromarray(np.ascontiguousarray(linear[:, :, channel]))
        out[:, :, channel] = np.asarray(plane.resize((width, height), Image.Resampling.LANCZOS, box=place))
    return out

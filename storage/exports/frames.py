"""The pixels of a shot: which levels of a picture it needs, and how they become a frame. Knows no video format.

    pixels of level n for one of the frame's, in each direction      1.5 ---------------- 2.5 ~~~~ 3
    pixels of level n + 1, which is faded in before it takes over                             ~~~~ 1.5 -------- 2.5

Each frame is resampled from fractional borders, so that motion is smooth to less than a pixel. Levels are means of
2 x 2 pixels, softer and more jagged than a frame should be, so a frame takes one with half as many pixels again.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from math import ceil, floor, log2

import numpy as np
from PIL import Image

from storage.exports.path import Shot, smoothstep
from storage.exports.picture import Picture, Pixels8
from storage.formats.deep_zoom import tile_box
from storage.geometry import TOPOLOGIES, Box, Canvas

GROUND = (16, 17, 19)  # beyond the picture, as on its page
LEAST_DETAIL = 1.5
"""A level's pixels for each of the frame's, at least, in each direction; twice as many at most."""
FADE_FROM = 0.75
"""The share of an octave after which the next level is faded in."""
BAND = 128
"""Rows of a frame that are resampled at once."""
KEPT_BYTES = 128 * 2**20
"""Of tiles at most: those of a frame of 1920 x 1080. Larger frames, or tiles, are read again."""
REACH = 3
"""How many pixels beside a place Lanczos' kernel weighs, at the coarser of both resolutions."""


def canvas_of(picture: Picture) -> Canvas:
    """The picture's size and which of its sides join."""
    return Canvas(picture.height, picture.width, TOPOLOGIES[picture.facts.get("topology", "plane")])


@dataclass
class Frames:
    """Frames of one size from one picture. Keeps the tiles of the last frames, one and a half frames' worth at most."""

    picture: Picture
    width: int
    height: int
    _tiles: OrderedDict[tuple[int, int, int], Pixels8] = field(default_factory=OrderedDict, repr=False)

    def __post_init__(self) -> None:
        self._canvas = canvas_of(self.picture)

    @property
    def kept_tiles(self) -> int:
        """The tiles that are kept, as far as they fit: a frame's tiles at their smallest, those of the level after
        it, some that come next.
        """
        edge = self.picture.layout.tile
        rows, columns = (
            ceil(2 * (LEAST_DETAIL * size + 2 * REACH) / edge) + 1 for size in (self.height, self.width)
        )
        return max(1, min(3 * rows * columns // 2, KEPT_BYTES // (3 * edge**2)))

    def frame(self, shot: Shot) -> Pixels8:
        """(height, width, 3) sRGB pixels, a band at a time: what they are made of is up to nine times as much."""
        octave = log2(shot.width / self.width / LEAST_DETAIL)
        last = self.picture.layout.deep_levels - 1
        level = min(max(floor(octave), 0), last)
        coarser = smoothstep(min(max((octave - level - FADE_FROM) / (1 - FADE_FROM), 0.0), 1.0))
        out = np.empty((self.height, self.width, 3), np.uint8)
        for row in range(0, self.height, BAND):
            band = slice(row, min(row + BAND, self.height))
            out[band] = self._band(shot, level, band)
            if coarser and level < last:
                out[band] = mixed(out[band], self._band(shot, level + 1, band), coarser)
        return out

    def _band(self, shot: Shot, level: int, rows: slice) -> Pixels8:
        """Some of the frame's rows, from one level's pixels."""
        scale = shot.width / self.width  # full-size pixels for each of the frame's
        top = shot.y - scale * self.height / 2
        x0, x1 = ((shot.x + side * shot.width / 2) / 2**level for side in (-1, 1))
        y0, y1 = ((top + scale * row) / 2**level for row in (rows.start, rows.stop))
        margin = ceil(REACH * max(1.0, scale / 2**level)) + 1
        seen = Box(floor(y0), ceil(y1), floor(x0), ceil(x1)).expanded(margin)
        inside = (x0 - seen.x0, y0 - seen.y0, x1 - seen.x0, y1 - seen.y0)
        size = self.width, rows.stop - rows.start
        return np.asarray(
            Image.fromarray(self._pixels(level, seen)).resize(size, Image.Resampling.LANCZOS, box=inside)
        )

    def _pixels(self, level: int, seen: Box) -> Pixels8:
        """A box of a level, which may leave it: pixels of the other side where sides join, else the ground."""
        level_canvas = Canvas(*self.picture.layout.size(level), self._canvas.topology)
        pixels = np.empty((*seen.shape, 3), np.uint8)
        if not level_canvas.box.contains(seen):
            pixels[:] = GROUND
        for piece, source in level_canvas.split_at_edges(seen):
            self._copy(level, source, pixels[piece.slices_in(seen)])
        return pixels

    def _copy(self, level: int, source: Box, out: Pixels8) -> None:
        cells = source.covering(self.picture.layout.tile)
        for row in range(cells.y0, cells.y1):
            for column in range(cells.x0, cells.x1):
                place = tile_box(self.picture.layout, level, row, column)
                part = place.intersection(source)
                if part is not None:
                    out[part.slices_in(source)] = self._tile(level, row, column)[part.slices_in(place)]

    def _tile(self, level: int, row: int, column: int) -> Pixels8:
        """One tile; the one that was not used for longest makes room."""
        key = level, row, column
        if key in self._tiles:
            self._tiles.move_to_end(key)
            return self._tiles[key]
        if len(self._tiles) >= self.kept_tiles:
            self._tiles.popitem(last=False)
        pixels = self.picture.read(level, tile_box(self.picture.layout, level, row, column))
        self._tiles[key] = pixels
        return pixels


def mixed(one: Pixels8, other: Pixels8, share: float) -> Pixels8:
    """`other` laid over `one` with an opacity of `share`, to 1/256. Rounded: Pillow's blend cuts, and darkens."""
    opacity = np.uint16(round(256 * share))
    weighted = one * (np.uint16(256) - opacity)  # at most 255 * 256, which has room for the rounding too
    weighted += other * opacity
    weighted += np.uint16(128)
    weighted >>= np.uint16(8)
    return weighted.astype(np.uint8)

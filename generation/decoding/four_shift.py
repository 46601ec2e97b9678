"""The four-shift blend of decode tiles: hard tiles, decoded at four offsets, one laid over the other. For comparison.

A(y, x) is the picture decoded in tiles side by side; B, C and D are the same with the tiles moved by half a tile along
x, along y, and along both. With v(x) a Hann window over every moved tile, 1 on A's vertical seams and 0 on B's own,

    one = A + v(x) (B - A)          two = one + v(y) (C - one)          picture = two + v(x) v(y) (D - two)

(Aversa et al. 2023, "DiffInfinite".) The weights sum to one exactly: where all four agree, every difference is zero.
C has seams of its own where A has its vertical ones; they keep the weight v(y) (1 - v(y)), up to a quarter.

    A  |-----|-----|-----|    on planes the tiles along a border are not moved: no window reaches into their outer half
    B  ...|-----|-----|...    on rings and tori the moved tiles go round, and every seam has its window

The published program takes squares of whole tiles only; here a canvas of any size is cut evenly into tiles of at most
`tile` latents. Its windows are sampled at 2 pi i / (N - 1), so they do not add up to one when moved by half a tile;
these are sampled at the centres of pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from generation.decoding.decode import DecodeTile, Pixels
from storage.geometry import Box, Canvas

MOVES = ((False, False), (False, True), (True, False), (True, True))
"""Along (y, x), in the order in which the decodings are laid over each other."""


@dataclass(frozen=True)
class FourShift:
    """Tiles without margin; lengths in latents. What is decoded at once is a tile, wherever it is asked for."""

    canvas: Canvas
    scale: int
    tile: int
    passes: ClassVar[int] = 4

    def __post_init__(self) -> None:
        if self.tile < 2:
            raise ValueError(f"decode tile {self.tile} cannot be moved by half of itself; need at least 2")

    def tiles_over(self, box: Box) -> list[DecodeTile]:
        """The tiles of all four decodings that meet a latent box, which may wrap, in the order of the passes."""
        wraps = self.canvas.topology
        y = _Axis(self.canvas.height, self.tile, wraps.wraps_y)
        x = _Axis(self.canvas.width, self.tile, wraps.wraps_x)
        found = []
        for move_y, move_x in MOVES:
            columns = list(x.spans(box.x0, box.x1, move_x))
            for row, column in product(y.spans(box.y0, box.y1, move_y), columns):
                tile = Box(row.start, row.end, column.start, column.end)
                found.append(DecodeTile(tile, tile, tile, (row.seam, column.seam)))
        return found

    def lay(self, under: Pixels, pixels: Pixels, tile: DecodeTile, part: Box) -> None:
        """Lay a tile's pixels of a latent box `part` over what the passes before left there."""
        pixels -= under
        pixels *= self.weights(tile, part)[..., None]
        under += pixels

    def weights(self, tile: DecodeTile, part: Box) -> Pixels:
        """(H, W): the share of what lies under a tile that the tile replaces."""
        (seam_y, seam_x), core = tile.seams, tile.core
        rows = window(core.y0, seam_y, core.y1, part.y0, part.y1, self.scale)
        columns = window(core.x0, seam_x, core.x1, part.x0, part.x1, self.scale)
        return np.multiply.outer(rows, columns).astype(np.float32)


def window(start: int, seam: int | None, end: int, low: int, high: int, scale: int) -> NDArray[np.float64]:
    """The weights of a tile [start, end) over the pixels of [low, high): sin^2 from 0 at its ends to 1 at the seam
    that it hides.

    A tile that hides none is laid down whole. Where the seam is in the middle, this is the Hann window.
    """
    pixels = (np.arange(low * scale, high * scale) + 0.5) / scale
    if seam is None:
        return np.ones_like(pixels)
    ends = np.where(pixels < seam, start, end)
    return np.asarray(np.sin(np.pi / 2 * (pixels - ends) / (seam - ends)) ** 2)


@dataclass(frozen=True)
class _Span:
    """A tile along one axis, and the seam of the tiles in place that it hides, if it is a moved one."""

    start: int
    end: int
    seam: int | None


@dataclass(frozen=True)
class _Axis:
    """Tiles along one axis: `count` of them, as even as integers allow."""

    length: int
    tile: int
    wraps: bool

    @property
    def count(self) -> int:
        return -(-self.length // self.tile)

    def seam(self, k: int) -> int:
        """Where tile k begins; on a ring for every integer k."""
        return k * self.length // self.count

    def middle(self, k: int) -> int:
        """The middle of tile k: where the moved tile round its first seam ends, and that round its second begins."""
        return (self.seam(k) + self.seam(k + 1)) // 2

    def spans(self, low: int, high: int, move: bool) -> Iterator[_Span]:
        """The tiles, in place or moved, that meet [low, high); ascending."""
        first, last = low * self.count // self.length - 1, high * self.count // self.length + 2
        if not self.wraps:
            first, last = max(first, int(move)), min(last, self.count)
        for k in range(first, last):
            seam = self.seam(k)
            span = (
                _Span(self.middle(k - 1), self.middle(k), seam)
                if move
                else _Span(seam, self.seam(k + 1), None)
            )
            if span.start < high and low < span.end:
                yield span

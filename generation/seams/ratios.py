"""Whether borders of the engine show in a picture: differences across them over differences beside them.

    r = sum g(edge) / sum of the mean g of the edges beside it      g: |difference| of the pixels on both sides

An edge is a piece, one cell long, of a line between two rows or columns of pixels; cells are latents. The edges beside
it lie a few cells off on both sides, parallel, and at the same place of their cell, so that neither what the picture
shows there nor a codec's own grid counts; edges of the same lattice are left out.

        beside   edge   beside          r = 1   nothing shows
     |   :   :    |    :   :            r > 1   an edge
    -3  -2        0        2   3 cells  r < 1   a blur

The error is that of a ratio of sums over parts of the canvas. Pixels are read block by block: memory is bounded by a
block and by 64 x 64 parts. Knows pixels and lines (generation/seams/lattices.py); knows no job and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, sqrt

import numpy as np
from numpy.typing import NDArray

from generation.seams.lattices import HORIZONTAL, VERTICAL, Bools, Lattice, Lines, Positions
from storage.geometry import Box, Canvas

Floats = NDArray[np.float64]
ReadPixels = Callable[[Box], NDArray[np.uint8]]
OnProgress = Callable[[int, int], None]

GATE = 0.03
"""How far from 1 a ratio may be."""
SURE = 3
"""A table has some thirty ratios: two errors would call chance a seam in one table of four (docs/seams.md)."""
BLOCK, PARTS, LEAST_PART = 1024, 64, 64
"""Pixels read at once; parts of the canvas along its longer side, at most; pixels along a part, at least."""
FEWEST = 3
"""Parts that an error can be told from."""


@dataclass(frozen=True, eq=False)
class Tally:
    """Sums over the edges of a lattice, by direction and part of the canvas: each (2, rows, columns).

    on: g of the edges; beside: the mean g of those beside; length: pixels.
    """

    on: Floats
    beside: Floats
    length: Floats

    @classmethod
    def empty(cls, rows: int, columns: int) -> Tally:
        shape = (2, rows, columns)
        return cls(np.zeros(shape), np.zeros(shape), np.zeros(shape))

    def seam(self, *directions: int) -> Seam:
        """The seam of the lines of these directions; of all where none is named."""
        chosen = list(directions or (HORIZONTAL, VERTICAL))
        on, beside, length = (sums[chosen].ravel() for sums in (self.on, self.beside, self.length))
        return compared(on, beside, length)


@dataclass(frozen=True)
class Seam:
    """A ratio, its standard error, and how many pixels of border it comes from."""

    ratio: float
    error: float
    pixels: int


def compared(on: Floats, beside: Floats, length: Floats) -> Seam:
    """The ratio of sums; the error is that of a ratio estimator over the parts that hold an edge."""
    held = length > 0
    on, beside, count = on[held], beside[held], int(held.sum())
    total, pixels = float(beside.sum()), int(length.sum())
    if total == 0:  # nothing changes there but, perhaps, at the edges
        return Seam(inf if on.any() else 1.0, 0.0, pixels)
    ratio = float(on.sum()) / total
    if count < FEWEST:
        return Seam(ratio, inf, pixels)
    rest = on - ratio * beside
    return Seam(ratio, sqrt(count / (count - 1) * float((rest**2).sum())) / total, pixels)


def verdict(seam: Seam) -> str:
    """ "inside" of 1 +- GATE, "unclear", or a "seam", which is SURE errors outside of it."""
    off = abs(seam.ratio - 1.0)
    if off > GATE + SURE * seam.error:
        return "seam: edge" if seam.ratio > 1 else "seam: blur"
    if off <= GATE and seam.error <= GATE:
        return "inside"
    return "unclear"


@dataclass(frozen=True)
class Parts:
    """How a canvas of pixels is divided for errors: squares of `side` pixels."""

    canvas: Canvas
    side: int = field(init=False)

    def __post_init__(self) -> None:
        side, longest = LEAST_PART, max(self.canvas.height, self.canvas.width)
        while side * PARTS < longest:
            side *= 2
        object.__setattr__(self, "side", side)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of parts."""
        return -(-self.canvas.height // self.side), -(-self.canvas.width // self.side)


def measure(
    read: ReadPixels,
    canvas: Canvas,
    cell: int,
    lattices: Mapping[str, Sequence[Lattice]],
    on_progress: OnProgress = lambda done, total: None,
) -> dict[str, Tally]:
    """The sums of lattices over a canvas of pixels; those of one name are added up.

    read: (h, w, 3) uint8 of a box inside the canvas. Every pixel is read about once.
    """
    parts = Parts(canvas)
    tallies = {name: Tally.empty(*parts.shape) for name in lattices}
    reach = cell + max(abs(offset) for each in lattices.values() for one in each for offset in one.beside)
    blocks = list(_blocks(canvas, max(cell, BLOCK // cell * cell)))
    for done, block in enumerate(blocks):
        around = canvas.clip(block.expanded(-(-reach // cell) * cell))
        pixels = _unwrapped(read, canvas, around)
        for direction in (HORIZONTAL, VERTICAL):
            view = _View.of(pixels, direction, block, around, cell)
            for name, several in lattices.items():
                for lattice in several:
                    view.add(lattice, tallies[name], parts.side)
        on_progress(done + 1, len(blocks))
    return tallies


def _blocks(canvas: Canvas, side: int) -> Iterator[Box]:
    for y in range(0, canvas.height, side):
        for x in range(0, canvas.width, side):
            yield Box(y, min(y + side, canvas.height), x, min(x + side, canvas.width))


def _unwrapped(read: ReadPixels, canvas: Canvas, box: Box) -> NDArray[np.uint8]:
    """The pixels of a box that may wrap."""
    out = np.empty((*box.shape, 3), np.uint8)
    for piece, home in canvas.split_at_edges(box):
        out[piece.slices_in(box)] = read(home)
    return out


@dataclass(frozen=True, eq=False)
class _View:
    """A block, seen along one direction of lines. Axis 0 cuts the lines, axis 1 goes along them, in cells.

    across: (positions, cells) g, summed over a cell; the line before position n of `around` is in row n, row 0 is
    nothing. first, low, high: positions where `around` and the block begin, and where the block ends. cells: of the
    block, among those of `around`. lengths: pixels of each. begins: the first pixel of each on the canvas.
    """

    direction: int
    around: Box
    cell: int
    across: Floats
    first: int
    low: int
    high: int
    cells: slice
    lengths: Floats
    begins: Positions

    @classmethod
    def of(cls, pixels: NDArray[np.uint8], direction: int, block: Box, around: Box, cell: int) -> _View:
        seen, b, a = pixels, (block.y0, block.y1, block.x0, block.x1), (around.y0, around.x0, around.x1)
        if direction == VERTICAL:
            seen, b, a = pixels.swapaxes(0, 1), (*b[2:], *b[:2]), (around.x0, around.y0, around.y1)
        steps = np.abs(np.diff(seen.astype(np.int16), axis=0)).sum(axis=2, dtype=np.int64)
        across = np.zeros((len(seen), -(-(a[2] - a[1]) // cell)))
        across[1:] = np.add.reduceat(steps, range(0, seen.shape[1], cell), axis=1) if len(steps) else 0
        begins = np.arange(b[2], b[3], cell)
        inside = slice((b[2] - a[1]) // cell, (b[2] - a[1]) // cell + len(begins))
        lengths = np.minimum(begins + cell, b[3]) - begins
        return cls(
            direction, around, cell, across, a[0], b[0], b[1], inside, lengths.astype(np.float64), begins
        )

    def add(self, lattice: Lattice, tally: Tally, side: int) -> None:
        """Add the block's edges of a lattice to their parts' sums."""
        lines = lattice.lines(self.direction, self.around, self.cell)
        mine = ((self.low <= lines.at) & (lines.at < self.high) & (lines.at > self.first)).nonzero()[0]
        if not len(mine):
            return
        at = lines.at[mine]
        beside, known = self._beside(lines, at, lattice.beside)
        held = lines.present[mine][:, self.cells] & known
        ours, along = np.broadcast_arrays(at[:, None] // side, self.begins // side)
        parts = (ours, along) if self.direction == HORIZONTAL else (along, ours)
        sums = (tally.on, tally.beside, tally.length)
        for total, values in zip(sums, (self._g(at), beside, self.lengths[None]), strict=True):
            np.add.at(total[self.direction], parts, np.where(held, values, 0.0))

    def _g(self, at: Positions) -> Floats:
        return self.across[at - self.first][:, self.cells]

    def _beside(self, lines: Lines, at: Positions, offsets: Sequence[int]) -> tuple[Floats, Bools]:
        """(lines, cells) the mean g of the edges beside, and whether there is any that is not of the lattice itself."""
        shape = (len(at), len(self.begins))
        total, count = np.zeros(shape), np.zeros(shape)
        for offset in offsets:
            other = at + offset
            known = (other > self.first) & (other < self.first + len(self.across))
            index = np.minimum(np.searchsorted(lines.at, other), len(lines.at) - 1)
            own = lines.present[index][:, self.cells] & (lines.at[index] == other)[:, None]
            free = known[:, None] & ~own
            total += np.where(free, self._g(np.where(known, other, self.first)), 0.0)
            count += free
        return total / np.maximum(count, 1), count > 0

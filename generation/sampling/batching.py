"""In which batches evaluations go through the network: sizes that depend on the canvas alone. Integers only.

A prediction's bits depend on how many predictions its batch holds, not on which they are. So that neither blocks nor
workers show, the canvas says how many: it is cut into cells, the evaluations of one cell's patches fill whole batches,
and the last batch holds what is left. No place of a batch is wasted:

    batches of 4    a cell of 9 evaluations    a b c d | e f g h | i
                    a cell of 6                a b c d | e f

Small canvases are cells of few evaluations, of which many pictures may be drawn together. All their batches are whole,
the last one padded: a picture's bits are then those that it has alone, whatever shares its batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, sqrt

from storage.geometry import Box, Canvas, Grid

SMALL = 2
"""Sides, in patches, of canvases whose batches are padded."""


@dataclass(frozen=True)
class Batching:
    """size: evaluations in a whole batch. cell: side, in latents, of the squares of the canvas that fill batches."""

    canvas: Canvas
    size: int
    cell: int
    padded: bool

    @property
    def cells(self) -> Grid:
        return Grid(self.canvas, self.cell)

    def cells_in(self, block: Box) -> Iterator[Box]:
        """The cells of a block, which must be made of whole ones."""
        cells = self.cells
        return (cells.box(index) for index in cells.overlapping(block))

    def sizes(self, evaluations: int) -> Iterator[int]:
        """For each of a cell's evaluations, how many its batch holds."""
        if self.padded:
            yield from (self.size for _ in range(evaluations))
            return
        last = evaluations % self.size
        yield from (self.size for _ in range(evaluations - last))
        yield from (last for _ in range(last))

    def seats(self, evaluations: int) -> int:
        """Places of batches that so many evaluations of one block take, those that padding fills included."""
        return -(-evaluations // self.size) * self.size if self.padded else evaluations


def batching(canvas: Canvas, patch: int, stride: int, size: int) -> Batching:
    """Batches of `size` for patches of `patch` latents that lie about `stride` apart."""
    cell = cell_side(stride, size)
    return Batching(canvas, size, cell, padded=max(canvas.height, canvas.width) <= max(SMALL * patch, cell))


def cell_side(stride: int, size: int) -> int:
    """The least side, in latents, of a square of whole strides whose patches fill a batch."""
    return ceil(sqrt(size)) * stride

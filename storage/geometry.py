"""Boxes, grids of blocks, and topologies: all index arithmetic. Knows integers only; no arrays, no files.

Coordinates are (y, x); boxes are half-open; a canvas spans [0, height) x [0, width).

    plane          ring (wraps in x)        torus (wraps in both)
    +------+       ...|------|...           every box may leave the
    |      |       a box may leave it       canvas on every side
    +------+       on the left and right
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Box:
    """The half-open rectangle [y0, y1) x [x0, x1)."""

    y0: int
    y1: int
    x0: int
    x1: int

    def __post_init__(self) -> None:
        if self.y1 < self.y0 or self.x1 < self.x0:
            raise ValueError(f"box {self} ends before it begins")

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def area(self) -> int:
        return self.height * self.width

    def shifted(self, dy: int, dx: int) -> Box:
        return Box(self.y0 + dy, self.y1 + dy, self.x0 + dx, self.x1 + dx)

    def expanded(self, margin: int) -> Box:
        return Box(self.y0 - margin, self.y1 + margin, self.x0 - margin, self.x1 + margin)

    def scaled(self, factor: int) -> Box:
        return Box(self.y0 * factor, self.y1 * factor, self.x0 * factor, self.x1 * factor)

    def covering(self, divisor: int) -> Box:
        """The smallest box of cells `divisor` wide that covers this one."""
        return Box(self.y0 // divisor, -(-self.y1 // divisor), self.x0 // divisor, -(-self.x1 // divisor))

    def intersection(self, other: Box) -> Box | None:
        """The common rectangle, or None where it would be empty."""
        y0, y1 = max(self.y0, other.y0), min(self.y1, other.y1)
        x0, x1 = max(self.x0, other.x0), min(self.x1, other.x1)
        return Box(y0, y1, x0, x1) if y0 < y1 and x0 < x1 else None

    def contains(self, other: Box) -> bool:
        return self.y0 <= other.y0 and other.y1 <= self.y1 and self.x0 <= other.x0 and other.x1 <= self.x1

    def slices_in(self, frame: Box) -> tuple[slice, slice]:
        """Index expressions of this box in an array that holds `frame`."""
        return (
            slice(self.y0 - frame.y0, self.y1 - frame.y0),
            slice(self.x0 - frame.x0, self.x1 - frame.x0),
        )


@dataclass(frozen=True)
class Topology:
    """Which axes of the canvas wrap round."""

    name: str
    wraps_y: bool
    wraps_x: bool


PLANE = Topology("plane", wraps_y=False, wraps_x=False)
RING = Topology("ring", wraps_y=False, wraps_x=True)
TORUS = Topology("torus", wraps_y=True, wraps_x=True)
TOPOLOGIES = {topology.name: topology for topology in (PLANE, RING, TORUS)}


@dataclass(frozen=True)
class Canvas:
    """A latent grid of height x width with a topology."""

    height: int
    width: int
    topology: Topology = PLANE

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(
                f"a canvas of {self.height} x {self.width} latents is empty; both must be at least 1"
            )

    @property
    def box(self) -> Box:
        return Box(0, self.height, 0, self.width)

    def clip(self, box: Box) -> Box:
        """The part of a box that exists: cut at the borders of the axes that do not wrap."""
        y0, y1 = (box.y0, box.y1) if self.topology.wraps_y else (max(0, box.y0), min(self.height, box.y1))
        x0, x1 = (box.x0, box.x1) if self.topology.wraps_x else (max(0, box.x0), min(self.width, box.x1))
        return Box(y0, y1, x0, x1)

    def wrapped_shifts(self, box: Box, within: Box) -> Iterator[tuple[int, int]]:
        """Shifts (dy, dx), whole turns of the canvas, that make `box` meet `within`, in ascending order."""
        for dy in whole_turns(
            box.y0, box.y1, within.y0, within.y1, self.height if self.topology.wraps_y else 0
        ):
            for dx in whole_turns(
                box.x0, box.x1, within.x0, within.x1, self.width if self.topology.wraps_x else 0
            ):
                yield dy, dx

    def split_at_edges(self, box: Box) -> Iterator[tuple[Box, Box]]:
        """Cut a box that may leave the canvas into (piece in box's coordinates, the same piece on the canvas)."""
        for dy, dx in self.wrapped_shifts(self.box, box):
            piece = self.box.shifted(dy, dx).intersection(box)
            if piece is not None:
                yield piece, piece.shifted(-dy, -dx)


def whole_turns(a0: int, a1: int, b0: int, b1: int, period: int) -> Iterator[int]:
    """Multiples t, ascending, of the period for which [a0 + t, a1 + t) meets [b0, b1)."""
    if period == 0:  # the axis does not wrap
        if a0 < b1 and b0 < a1:
            yield 0
        return
    first = -((a1 - 1 - b0) // period)
    last = (b1 - 1 - a0) // period
    for turn in range(first, last + 1):
        yield turn * period


@dataclass(frozen=True)
class Grid:
    """A canvas cut into blocks of at most `block` x `block`, anchored at the origin; the last ones may be smaller."""

    canvas: Canvas
    block: int

    def __post_init__(self) -> None:
        if self.block < 1:
            raise ValueError(f"block size {self.block} must be at least 1")

    @property
    def rows(self) -> int:
        return -(-self.canvas.height // self.block)

    @property
    def columns(self) -> int:
        return -(-self.canvas.width // self.block)

    def __len__(self) -> int:
        return self.rows * self.columns

    def box(self, index: int) -> Box:
        row, column = divmod(index, self.columns)
        whole = Box(
            row * self.block, (row + 1) * self.block, column * self.block, (column + 1) * self.block
        ).intersection(self.canvas.box)
        if whole is None or index < 0:
            raise IndexError(f"block {index} of a grid of {len(self)}")
        return whole

    def overlapping(self, box: Box) -> list[int]:
        """Indices, ascending, of the blocks that a box (which may wrap) touches."""
        found: set[int] = set()
        for _, piece in self.canvas.split_at_edges(box):
            cells = piece.covering(self.block)
            for row in range(cells.y0, cells.y1):
                found.update(row * self.columns + column for column in range(cells.x0, cells.x1))
        return sorted(found)

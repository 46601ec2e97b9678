"""Lines on which something of the engine begins or ends: patches, tiles, blocks. Knows covers, blends and pixels.

Lines lie between two rows or columns of pixels and are told of box by box, so a gigapixel's are never listed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from generation.decoding.decode import Blend, DecodeTile
from generation.sampling.covers import Cover
from generation.sampling.fusion import NO_RANK
from storage.geometry import Box, Canvas, whole_turns

Ids = NDArray[np.uint64]
Bools = NDArray[np.bool_]
Positions = NDArray[np.int64]

HORIZONTAL, VERTICAL = 0, 1
"""Directions of lines, named by the axis of the picture that they cut."""
BESIDE = (-3, -2, 2, 3)
"""Steps from a line to those it is compared with: what decoders smear over the next step is left out."""


@dataclass(frozen=True)
class Lines:
    """Lines of one direction in a box of pixels.

    at: (n,) ascending; a line lies before that row or column. present: (n, cells) which cells of the box it passes.
    """

    at: Positions
    present: Bools


class Lattice(Protocol):
    """Lines between pixels on which something of the engine begins or ends."""

    @property
    def beside(self) -> tuple[int, ...]:
        """How many pixels off those lines are that a line is compared with."""

    def lines(self, direction: int, box: Box, cell: int) -> Lines:
        """The lattice's lines in a box of whole cells, which may leave a canvas that wraps."""


def steps_beside(step: int) -> tuple[int, ...]:
    """Lines a few steps off: those that lie alike where lines recur at every step."""
    return tuple(step * offset for offset in BESIDE)


def between(step: int) -> tuple[int, ...]:
    """All lines nearer to a line of a lattice than to the next, `step` away."""
    return tuple(offset for offset in range(-(step // 2), step // 2 + 1) if offset)


@dataclass(frozen=True, eq=False)
class StraightLines:
    """Whole rows and columns of a canvas of pixels; positions in [0, length), 0 on axes that wrap only."""

    canvas: Canvas
    rows: Positions
    columns: Positions
    beside: tuple[int, ...]

    def lines(self, direction: int, box: Box, cell: int) -> Lines:
        wraps = self.canvas.topology
        cells = box.covering(cell)
        if direction == HORIZONTAL:
            at = _images(self.rows, box.y0, box.y1, self.canvas.height * wraps.wraps_y)
            return Lines(at, np.ones((len(at), cells.width), bool))
        at = _images(self.columns, box.x0, box.x1, self.canvas.width * wraps.wraps_x)
        return Lines(at, np.ones((len(at), cells.height), bool))


def _images(positions: Positions, low: int, high: int, period: int) -> Positions:
    """The positions in [low, high), with their whole turns on an axis that wraps; ascending."""
    if not len(positions):
        return positions
    first, last = int(positions[0]), int(positions[-1])
    moved = np.concatenate(
        [positions + t for t in whole_turns(first, last + 1, low, high, period)] or [positions[:0]]
    )
    return np.asarray(moved[(low <= moved) & (moved < high)])


@dataclass(frozen=True)
class PatchBorders:
    """The borders of a step's patches: where other patches count on one side than on the other.

    scale: pixels along a latent, which must be the cell.
    """

    cover: Cover
    step: int
    scale: int

    @property
    def beside(self) -> tuple[int, ...]:
        return steps_beside(self.scale)

    def lines(self, direction: int, box: Box, cell: int) -> Lines:
        latents = box.covering(self.scale)
        ids = counting(self.cover, self.step, latents)
        first = latents.y0 if direction == HORIZONTAL else latents.x0
        across = ids if direction == HORIZONTAL else ids.T
        differs = across[1:] != across[:-1]
        some = differs.any(axis=1).nonzero()[0]
        return Lines((first + 1 + some) * self.scale, differs[some])


@lru_cache(maxsize=64)
def counting(cover: Cover, step: int, box: Box) -> Ids:
    """(h, w) a number for the set of patches that count at a latent; other sets have other numbers.

    Kept, since both directions of lines ask for it. Not to be written to.
    """
    ids, rank = np.zeros(box.shape, np.uint64), np.full(box.shape, NO_RANK)
    patches = list(cover.overlapping(step, box))
    keys = np.random.default_rng(0).integers(2**64, size=len(patches), dtype=np.uint64)
    for patch, key in zip(patches, keys, strict=True):
        part = patch.owns.intersection(box)
        if part is None:
            continue
        at = part.slices_in(box)
        counts = rank[at] >= np.uint64(patch.rank)  # by ascending rank: none that came before is higher
        ids[at] ^= np.where(counts, key, np.uint64(0))
        rank[at][counts] = patch.rank
    ids.setflags(write=False)
    return ids


# --- of the engine ---------------------------------------------------------------------------------------------------


def every(canvas: Canvas, side: int, step: int) -> StraightLines:
    """Where squares of `side` pixels, anchored at the origin of a canvas of pixels, begin.

    They are compared with lines a few steps off, which lie alike where something recurs at every step.
    """
    wraps = canvas.topology
    rows = np.arange(0 if wraps.wraps_y else side, canvas.height, side)
    columns = np.arange(0 if wraps.wraps_x else side, canvas.width, side)
    return StraightLines(canvas, rows, columns, steps_beside(step))


def latent_lines(canvas: Canvas, scale: int) -> StraightLines:
    """Where latents begin, compared with all lines between them."""
    lines = every(canvas, scale, scale)
    return StraightLines(canvas, lines.rows, lines.columns, between(scale))


def joins(canvas: Canvas, step: int) -> StraightLines:
    """Where the sides of a canvas of pixels join, if they do."""
    wraps = canvas.topology
    rows, columns = np.zeros(int(wraps.wraps_y), np.int64), np.zeros(int(wraps.wraps_x), np.int64)
    return StraightLines(canvas, rows, columns, steps_beside(step))


def decode_borders(blend: Blend, canvas: Canvas, moved: bool = False) -> StraightLines:
    """Where the decode tiles in place meet, or those moved to hide their seams, on a canvas of pixels."""
    latents = blend.canvas
    down = blend.tiles_over(Box(0, latents.height, 0, 1))
    right = blend.tiles_over(Box(0, 1, 0, latents.width))
    rows = [end for tile in _placed(down, 0, moved) for end in (tile.core.y0, tile.core.y1)]
    columns = [end for tile in _placed(right, 1, moved) for end in (tile.core.x0, tile.core.x1)]
    return StraightLines(
        canvas,
        _on_axis(rows, latents.height, blend.scale, canvas.height, canvas.topology.wraps_y),
        _on_axis(columns, latents.width, blend.scale, canvas.width, canvas.topology.wraps_x),
        steps_beside(blend.scale),
    )


def _placed(tiles: Iterable[DecodeTile], axis: int, moved: bool) -> list[DecodeTile]:
    return [tile for tile in tiles if (tile.seams[axis] is not None) == moved]


def _on_axis(latents: Iterable[int], period: int, scale: int, length: int, wraps: bool) -> Positions:
    """Positions in pixels that lie inside a picture, or where its sides join."""
    found = {at % period * scale if wraps else at * scale for at in latents}
    return np.array(sorted(at for at in found if (0 if wraps else 1) <= at < length), np.int64)

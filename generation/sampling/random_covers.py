"""Patches at random places; a latent belongs to the first patch, in random order, that covers it. Knows no network.

The serial rule of tiled random-patch sampling (Aversa et al. 2023, "DiffInfinite"): while latents are left at the
minimum of `times`, pick one of them uniformly at random, put a patch round it, clamped to the canvas, and advance
those of its latents that are at the minimum. Within a step this is a greedy cover, and it has a local form. Draw a
*lot* for every latent, independently. Going through the latents by ascending lot and skipping those already covered
picks, each time, uniformly among the rest: the same law. And whether a latent is picked depends only on latents
near it with lower lots:

    lots      7 2 9 4 8 1 5        patches of 3: 1 is picked and covers 8 and 5; 2 is picked and covers 7 and 9;
    picked      ^   ^   ^          4 is still open: picked

So the plan is a pure function of (seed, step, canvas) that any process can ask about any place: nothing is listed,
nothing is sent. RandomGrid is a cheaper kin of that rule, without patches that own next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from random import Random

import numpy as np
from numpy.typing import NDArray

from generation.sampling.covers import Patch, Product, owned_patches, shifted_tiling
from generation.sampling.noise import TILE, Purpose
from storage.geometry import Box, Canvas, Grid

Lots = NDArray[np.uint64]

TAKEN = np.uint64(2**64 - 1)
"""In place of the lot of a latent that is covered, or that does not exist."""
PLACE_BITS = 12
NEAR = np.uint64((1 << PLACE_BITS) - 1)
"""Latents nearer than this have different lots."""
CELLS = 8
"""Cells along a patch: the lowest lots are searched by cells."""
REGION = 4
"""Side, in patches, of the squares of the canvas that are planned, and kept, at once."""
MARGIN = 2
"""Patches round a region that are tried first; more where they do not settle it."""
COUNTED_REGIONS = 16
"""Regions that `count` plans; of larger canvases it draws so many and scales up."""
USUAL = 2.2
"""Area of all patches of a step over that of a large canvas, by the serial rule."""
COUNTED_CELLS = 256
STRAY = 8
"""The cells of a random grid are narrower than a patch by this part of it: a patch has so much room to stray."""


@dataclass(frozen=True)
class RandomCover:
    """Patches round random latents, in the order of the serial rule: where they overlap, the first is the owner."""

    canvas: Canvas
    patch: int
    seed: int

    @property
    def reach(self) -> int:
        return (self.patch + 1) // 2

    @property
    def regions(self) -> Grid:
        return Grid(self.canvas, REGION * self.patch)

    def overlapping(self, step: int, box: Box) -> Iterator[Patch]:
        near = self.regions.overlapping(self.canvas.clip(box.expanded(self.patch)))
        picked = [patch for region in near for patch in picked_patches(self, step, region)]
        for patch in sorted(picked, key=lambda patch: patch.rank):
            for dy, dx in self.canvas.wrapped_shifts(patch.box, box):
                yield patch.shifted(dy, dx)

    def count(self, step: int) -> int:
        """Exact up to `COUNTED_REGIONS` regions; of larger canvases an estimate, within about 1 %."""
        regions = range(len(self.regions))
        sample = regions if len(regions) <= COUNTED_REGIONS else Random(step).sample(regions, COUNTED_REGIONS)
        counted = sum(len(picked_patches(self, step, region)) for region in sample)
        area = sum(self.regions.box(region).area for region in sample)
        return round(counted * (self.canvas.box.area / area))

    def typical_count(self, step: int, block: Box) -> int:
        del step
        return round(USUAL * block.area / self.patch**2)


@lru_cache(maxsize=1024)
def picked_patches(cover: RandomCover, step: int, region: int) -> tuple[Patch, ...]:
    """The patches round latents of one region, the same as in a plan of the whole canvas."""
    wanted, margin = cover.regions.box(region), MARGIN * cover.patch
    while True:
        picked = _Window(cover, step, wanted, margin).picked()
        if picked is not None:
            return picked
        margin += cover.patch


@dataclass(frozen=True)
class RandomGrid:
    """A patch for each cell of a tiling that is moved at every step. The cells are smaller than a patch, which strays
    at random as far as it still holds its cell; the order, which decides who owns a latent, is random, too. A patch
    of a narrow cell at a border may come to lie where another does: of those the first stays, others would own nothing.
    """

    canvas: Canvas
    patch: int
    seed: int

    @property
    def reach(self) -> int:
        return (self.patch + 1) // 2

    @property
    def cells(self) -> Product:
        return shifted_tiling(self.canvas, self.patch - self.patch // STRAY, self.seed)

    def overlapping(self, step: int, box: Box) -> Iterator[Patch]:
        near = {tile.owns for tile in self.cells.overlapping(step, box.expanded(self.patch))}
        strayed = sorted((self._strayed(step, cell) for cell in near), key=lambda p: (p.rank, p.box))
        first: dict[Box, Patch] = {}
        for patch in strayed:
            first.setdefault(patch.box, patch)
        return (patch for patch in first.values() if patch.box.intersection(box))

    def _strayed(self, step: int, cell: Box) -> Patch:
        height, width, wraps = self.canvas.height, self.canvas.width, self.canvas.topology
        key = np.array([self.seed, int(Purpose.PATCHES) << 32 | 1], np.uint64)
        place = np.array([0, cell.x0 % width, cell.y0 % height, step], np.uint64)
        rank, down, right = np.random.Philox(key=key, counter=place).random_raw(3).tolist()
        y = _strayed(cell.y0, cell.y1, self.patch, None if wraps.wraps_y else height, down)
        x = _strayed(cell.x0, cell.x1, self.patch, None if wraps.wraps_x else width, right)
        box = Box(y, y + self.patch, x, x + self.patch)
        return Patch(box, box, rank)

    def count(self, step: int) -> int:
        """Exact up to `COUNTED_CELLS`; of more, those few that would lie where another does are counted, too."""
        cells = self.cells.count(step)
        return cells if cells > COUNTED_CELLS else len(owned_patches(self, step, self.canvas.box))

    def typical_count(self, step: int, block: Box) -> int:
        del step
        return round(block.area / self.cells.y.patch**2)


def _strayed(low: int, high: int, patch: int, length: int | None, drawn: int) -> int:
    """A start from which the patch holds [low, high), on the axis."""
    first, last = (high - patch, low) if length is None else (max(high - patch, 0), min(low, length - patch))
    return first + drawn % (last - first + 1)


# --- lots ------------------------------------------------------------------------------------------------------------


def lots(seed: int, step: int, box: Box, canvas: Canvas) -> Lots:
    """(h, w) of a latent box that is on the canvas or wraps round it; by place, as noise is. No two near are equal."""
    out = np.empty(box.shape, np.uint64)
    for piece, home in canvas.split_at_edges(box):
        out[piece.slices_in(box)] = _plane_lots(seed, step, home)
    return out


def _plane_lots(seed: int, step: int, box: Box) -> Lots:
    """Random numbers, whose last bits are the place's: so none is another's of a latent near."""
    tiles = box.covering(TILE)
    frame = tiles.scaled(TILE)
    drawn = np.empty(frame.shape, np.uint64)
    for ty, tx in product(range(tiles.y0, tiles.y1), range(tiles.x0, tiles.x1)):
        drawn[Box(ty, ty + 1, tx, tx + 1).scaled(TILE).slices_in(frame)] = _tile_lots(seed, step, ty, tx)
    inside = drawn[box.slices_in(frame)]
    inside &= ~np.uint64((1 << 2 * PLACE_BITS) - 1)
    inside |= (np.arange(box.y0, box.y1, dtype=np.uint64)[:, None] & NEAR) << np.uint64(PLACE_BITS)
    inside |= np.arange(box.x0, box.x1, dtype=np.uint64) & NEAR
    return inside


@lru_cache(maxsize=1024)
def _tile_lots(seed: int, step: int, ty: int, tx: int) -> Lots:
    """(TILE, TILE) of Philox, under a purpose of their own."""
    key = np.array([seed, int(Purpose.PATCHES) << 32], np.uint64)
    generator = np.random.Philox(key=key, counter=np.array([0, tx, ty, step], np.uint64))
    return generator.random_raw(TILE * TILE).reshape(TILE, TILE)


# --- the rule on a window --------------------------------------------------------------------------------------------


class _Window:
    """The rule on a window round the wanted box; what depends on latents outside of it stays undecided.

    open: (h, w) the lot of each latent, or TAKEN; padded to whole cells. lowest: of each cell.
    """

    def __init__(self, cover: RandomCover, step: int, wanted: Box, margin: int) -> None:
        self.cover, self.wanted = cover, wanted
        self.frame = cover.canvas.clip(wanted.expanded(margin))
        self.cell = max(1, cover.patch // CELLS)
        rows, columns = (-(-side // self.cell) for side in self.frame.shape)
        self.open: Lots = np.full((rows * self.cell, columns * self.cell), TAKEN)
        self.open[: self.frame.height, : self.frame.width] = lots(cover.seed, step, self.frame, cover.canvas)
        self.lowest = self._lowest(Box(0, rows, 0, columns))
        wraps = cover.canvas.topology
        self.y = _Line(cover.patch, None if wraps.wraps_y else cover.canvas.height)
        self.x = _Line(cover.patch, None if wraps.wraps_x else cover.canvas.width)
        self.rivals_y = self.y.rivals(self.frame.y0, self.frame.y1, self.cell)
        self.rivals_x = self.x.rivals(self.frame.x0, self.frame.x1, self.cell)

    def picked(self) -> tuple[Patch, ...] | None:
        """The patches round latents of the wanted box; None where the window is too small to tell."""
        inner = self.wanted.shifted(-self.frame.y0, -self.frame.x0).covering(self.cell)
        inside = inner.slices_in(Box(0, 0, 0, 0))
        found: list[Patch] = []
        while (self.lowest[inside] != TAKEN).any():
            ready = np.argwhere(self._ready()).tolist()
            if not ready:
                return None
            for row, column in ready:
                y, x, patch = self._pick(row, column)
                if self.wanted.contains(Box(y, y + 1, x, x + 1)):
                    found.append(patch)
        return tuple(found)

    def _ready(self) -> NDArray[np.bool_]:
        """Cells whose lowest lot is the lowest of all latents that could still matter to it, all of them known."""
        lowest = self.rivals_x.lowest(self.rivals_y.lowest(self.lowest).T).T
        known = self.rivals_y.known[:, None] & self.rivals_x.known
        return np.asarray(known & (self.lowest == lowest) & (lowest != TAKEN))

    def _pick(self, row: int, column: int) -> tuple[int, int, Patch]:
        """The latent of a cell that is next, its patch, whose latents are taken from now on."""
        top, left = row * self.cell, column * self.cell
        place = int(self.open[top : top + self.cell, left : left + self.cell].argmin())
        y, x = top + place // self.cell, left + place % self.cell
        rank = int(self.open[y, x])
        y, x = y + self.frame.y0, x + self.frame.x0
        y0, x0 = self.y.start(y), self.x.start(x)
        box = Box(y0, y0 + self.cover.patch, x0, x0 + self.cover.patch)
        self._take(box)
        return y, x, Patch(box, box, rank)

    def _take(self, box: Box) -> None:
        part = box.intersection(self.frame)
        assert part is not None  # it holds a latent of the frame
        self.open[part.slices_in(self.frame)] = TAKEN
        cells = part.shifted(-self.frame.y0, -self.frame.x0).covering(self.cell)
        self.lowest[cells.slices_in(Box(0, 0, 0, 0))] = self._lowest(cells)

    def _lowest(self, cells: Box) -> Lots:
        lots = self.open[cells.scaled(self.cell).slices_in(Box(0, 0, 0, 0))]
        return np.asarray(lots.reshape(cells.height, self.cell, cells.width, self.cell).min((1, 3)))


@dataclass(frozen=True)
class _Rivals:
    """Along one axis, for each cell: the cells first .. last - 1 whose latents matter to its own, if all are known."""

    bounds: NDArray[np.intp]
    known: NDArray[np.bool_]

    def lowest(self, lots: Lots) -> Lots:
        """(n, m) -> (n, m): the lowest of each cell's rivals along the first axis."""
        padded = np.concatenate([lots, np.full((1, lots.shape[1]), TAKEN)])
        return np.minimum.reduceat(padded, self.bounds, axis=0)[::2]


@dataclass(frozen=True)
class _Line:
    """The rule along one axis; length: None where it wraps."""

    patch: int
    length: int | None

    def start(self, u: int) -> int:
        """Where the patch round latent u begins."""
        begin = u - self.patch // 2
        return begin if self.length is None else min(max(begin, 0), self.length - self.patch)

    def matters(self, v: int) -> tuple[int, int]:
        """The first and the last latent whose patch may cover latent v, or be covered by the patch of v."""
        first, last = v - self.patch // 2, v + self.patch // 2
        if self.length is None:
            return first, last
        if v < self.patch:
            first, last = 0, max(last, self.patch - 1)
        if v >= self.length - self.patch:
            first, last = min(first, self.length - self.patch), self.length - 1
        return max(first, 0), min(last, self.length - 1)

    def rivals(self, low: int, high: int, cell: int) -> _Rivals:
        """The rivals of the cells of a window [low, high)."""
        begins = range(low, high, cell)
        spans = [(self.matters(a)[0], self.matters(min(a + cell, high) - 1)[1]) for a in begins]
        known = [low <= first and last < high for first, last in spans]
        cells = [(max(a, low) - low, min(b, high - 1) - low) for a, b in spans]
        bounds = [(a // cell, b // cell + 1) for a, b in cells]
        return _Rivals(np.array(bounds, np.intp).ravel(), np.array(known))

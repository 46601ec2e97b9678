"""Where the patches of a denoising step lie, anchored to the canvas. Knows no weights, no network, no worker.

A patch reads `box` and its prediction counts on `owns`, a part of it (all of it unless the cover says otherwise).
Of patches of different ranks that overlap, the lowest rank alone counts; those of one rank share what they cover.
A cover answers, lazily and for any box, which patches of a step meet it; so a gigapixel's cover is never listed.
On axes that wrap, patches keep the coordinates in which they meet the asked box: they may leave the canvas.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product
from operator import attrgetter
from typing import Protocol

import numpy as np

from storage.geometry import Box, Canvas, turns

TURNS = ((5**0.5 - 1) / 2, 2**0.5 - 1)
"""The golden and the silver section: no numbers are worse approximated by fractions."""


@dataclass(frozen=True, order=True)
class Patch:
    """One network evaluation: the latents it reads, and those that its prediction counts on."""

    box: Box
    owns: Box
    rank: int = 0

    @property
    def centre(self) -> tuple[int, int]:
        return (self.box.y0 + self.box.y1) // 2, (self.box.x0 + self.box.x1) // 2

    def belongs_to(self, block: Box) -> bool:
        """Whether its centre lies in the block: of the blocks of a grid, one holds it."""
        y, x = self.centre
        return block.y0 <= y < block.y1 and block.x0 <= x < block.x1


class Cover(Protocol):
    """The patches of every step of one job."""

    @property
    def canvas(self) -> Canvas:
        """What is covered."""

    @property
    def patch(self) -> int:
        """Side of a patch."""

    def meeting(self, step: int, box: Box) -> Iterator[Patch]:
        """Patches whose box meets `box`, each in every position in which it does, by rank, in the cover's order."""

    def count(self, step: int) -> int:
        """How many patches the step has."""

    def usual(self, step: int, block: Box) -> int:
        """About how many patches belong to a block: what its task costs, for a driver that asks of every task."""

    def __hash__(self) -> int:
        """A cover is a value."""


@lru_cache(maxsize=256)
def owned_patches(cover: Cover, step: int, block: Box) -> tuple[Patch, ...]:
    """The patches of a step that belong to a block, in the cover's order."""
    reach = block.expanded(cover.patch)
    return tuple(patch for patch in cover.meeting(step, reach) if patch.belongs_to(block))


@dataclass(frozen=True, order=True)
class Interval:
    """A patch along one axis: reads [start, start + patch), owns [own0, own1)."""

    start: int
    own0: int
    own1: int


class Axis(Protocol):
    """A cover along one axis."""

    def intervals(self, step: int) -> list[Interval]:
        """All of them, inside [0, length) or, where the axis wraps, starting there; ascending."""

    def __hash__(self) -> int:
        """An axis is a value."""


@dataclass(frozen=True)
class GridAxis:
    """Overlapping patches every `stride` latents.

    plane  |0----|              the last patch is anchored at the border,
              |s----|           so that no remainder is left out
                |length-patch-|
    ring   ceil(length / stride) patches, spread as evenly as integers allow
    """

    length: int
    patch: int
    stride: int
    wraps: bool

    def intervals(self, step: int) -> list[Interval]:
        del step
        return [Interval(start, start, start + self.patch) for start in self._starts()]

    def _starts(self) -> list[int]:
        if self.wraps:
            count = -(-self.length // self.stride)
            return [index * self.length // count for index in range(count)]
        last = self.length - self.patch
        return [*range(0, last, self.stride), last]


@dataclass(frozen=True)
class ShiftedAxis:
    """A tight tiling whose offset changes every step; each latent has one owner (Frolov et al. 2024, "SpotDiffusion").

    plane, offset o:  owners  |0..o|o..o+P|o+P..o+2P|..length|
                      reads   border owners are narrower than a patch; the patch is moved inside the canvas
    ring:             the tiling turns as a whole; the owner that closes the ring may be narrower
    """

    length: int
    patch: int
    wraps: bool
    seed: int
    axis: int

    def intervals(self, step: int) -> list[Interval]:
        offset = self.offset(step)
        if self.wraps:
            cuts = [*range(offset, offset + self.length, self.patch), offset + self.length]
            return sorted(self._turned(a, b) for a, b in pairwise(cuts))
        cuts = sorted({0, *range(offset, self.length, self.patch), self.length})
        return [Interval(min(a, self.length - self.patch), a, b) for a, b in pairwise(cuts)]

    def _turned(self, own0: int, own1: int) -> Interval:
        turn = own0 // self.length * self.length
        return Interval(own0 - turn, own0 - turn, own1 - turn)

    def offset(self, step: int) -> int:
        """The step's shift in [0, patch): multiples of an irrational number, from a place that the seed picks.

        Successive shifts are far from each other, and after any number of steps all are used about equally often
        (the gaps are of three lengths at most), so no lattice stays.
        """
        start = np.random.Generator(np.random.Philox(key=[self.seed % (1 << 64), self.axis])).random()
        return int((start + step * TURNS[self.axis]) % 1.0 * self.patch)


@dataclass(frozen=True)
class ProductCover:
    """Every pair of an interval in y and one in x."""

    canvas: Canvas
    patch: int
    y: Axis
    x: Axis

    def meeting(self, step: int, box: Box) -> Iterator[Patch]:
        wraps = self.canvas.topology
        rows = _meeting(
            _intervals(self.y, step), self.patch, box.y0, box.y1, self.canvas.height * wraps.wraps_y
        )
        columns = _meeting(
            _intervals(self.x, step), self.patch, box.x0, box.x1, self.canvas.width * wraps.wraps_x
        )
        for row, column in product(rows, columns):
            yield Patch(
                Box(row.start, row.start + self.patch, column.start, column.start + self.patch),
                Box(row.own0, row.own1, column.own0, column.own1),
            )

    def count(self, step: int) -> int:
        return len(_intervals(self.y, step)) * len(_intervals(self.x, step))

    def usual(self, step: int, block: Box) -> int:
        return len(owned_patches(self, step, block))


@lru_cache(maxsize=64)
def _intervals(axis: Axis, step: int) -> tuple[Interval, ...]:
    """An axis's intervals, kept: every block of a step asks for them."""
    return tuple(axis.intervals(step))


def _meeting(intervals: Sequence[Interval], patch: int, low: int, high: int, period: int) -> list[Interval]:
    """The intervals, with all their whole turns on an axis that wraps, that meet [low, high); ascending."""
    first, last = intervals[0].start, intervals[-1].start + patch
    return [
        Interval(interval.start + turn, interval.own0 + turn, interval.own1 + turn)
        for turn in turns(first, last, low, high, period)
        for interval in _between(intervals, low - patch - turn, high - turn)
    ]


def _between(intervals: Sequence[Interval], low: int, high: int) -> Sequence[Interval]:
    """The intervals that start in (low, high)."""
    first = bisect_right(intervals, low, key=_start)
    return intervals[first : bisect_left(intervals, high, key=_start)]


_start = attrgetter("start")


def overlapping_grid(canvas: Canvas, patch: int, overlap: float) -> ProductCover:
    """Patches on a regular grid that share `overlap`, in [0, 1), of their side with the next one."""
    stride = max(1, round(patch * (1 - overlap)))
    return ProductCover(
        canvas,
        patch,
        GridAxis(canvas.height, patch, stride, canvas.topology.wraps_y),
        GridAxis(canvas.width, patch, stride, canvas.topology.wraps_x),
    )


def shifted_tiling(canvas: Canvas, patch: int, seed: int) -> ProductCover:
    """A tight tiling at another offset every step; every latent has one owner."""
    return ProductCover(
        canvas,
        patch,
        ShiftedAxis(canvas.height, patch, canvas.topology.wraps_y, seed, axis=0),
        ShiftedAxis(canvas.width, patch, canvas.topology.wraps_x, seed, axis=1),
    )


@dataclass(frozen=True)
class BlendedAtLast:
    """A cover whose patches each own what they draw, but for the last steps, in which overlapping ones blend.

    The borders between owners are smoothed by the steps that follow; those of the last steps would stay.
    """

    owning: Cover
    blending: Cover
    begin: int

    @property
    def canvas(self) -> Canvas:
        return self.owning.canvas

    @property
    def patch(self) -> int:
        return self.owning.patch

    def meeting(self, step: int, box: Box) -> Iterator[Patch]:
        return self._at(step).meeting(step, box)

    def count(self, step: int) -> int:
        return self._at(step).count(step)

    def usual(self, step: int, block: Box) -> int:
        return self._at(step).usual(step, block)

    def _at(self, step: int) -> Cover:
        return self.blending if step >= self.begin else self.owning

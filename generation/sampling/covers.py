"""Where the patches of a denoising step lie, anchored to the canvas. Knows no network, no worker.

A patch reads `box` and its prediction counts on `owns`, a part of it (all of it unless the placement says otherwise).
A placement answers, lazily and for any box, which patches of a step meet it; so a gigapixel's patches are never listed.
On axes that wrap, patches keep the coordinates in which they meet the asked box: they may leave the canvas.
A cover is a placement whose patches have weights: how much each counts at every latent (generation/sampling/fusion.py).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from operator import attrgetter
from typing import Protocol, overload

import numpy as np
from numpy.typing import NDArray

from storage.geometry import Box, Canvas, whole_turns

IRRATIONALS = ((5**0.5 - 1) / 2, 2**0.5 - 1)
"""The golden and the silver section: no numbers are worse approximated by fractions."""


@dataclass(frozen=True, order=True)
class Patch:
    """One network evaluation: the latents that it reads, and those that its prediction counts on.

    rank: of patches that overlap, those of the lowest rank may be all that count. weight: what a signed cover
    multiplies the prediction with. node: which of several things that patches can be told this one is told.
    """

    box: Box
    owns: Box
    rank: int = 0
    weight: float = 1.0
    node: int = 0

    def shifted(self, dy: int, dx: int) -> Patch:
        return replace(self, box=self.box.shifted(dy, dx), owns=self.owns.shifted(dy, dx))

    @property
    def centre(self) -> tuple[int, int]:
        return (self.box.y0 + self.box.y1) // 2, (self.box.x0 + self.box.x1) // 2

    def belongs_to(self, block: Box) -> bool:
        """Whether its centre lies in the block: of the blocks of a grid, one holds it."""
        y, x = self.centre
        return block.y0 <= y < block.y1 and block.x0 <= x < block.x1


class Placement(Protocol):
    """The patches of every step of one job. A placement is a value."""

    @property
    def canvas(self) -> Canvas:
        """What is covered."""

    @property
    def reach(self) -> int:
        """Latents by which a patch may leave a box that holds its centre, on the side where it leaves it most."""

    def overlapping(self, step: int, box: Box) -> Iterator[Patch]:
        """Patches whose box meets `box`, each in every position in which it does, by rank, in the placement's order."""

    def count(self, step: int) -> int:
        """How many patches the step has."""

    def typical_count(self, step: int, block: Box) -> int:
        """About how many patches belong to a block: what its task costs, for a driver that asks of every task."""

    def __hash__(self) -> int: ...


class Weights(Protocol):
    """How much the patches of one step count on one frame."""

    def of(self, patch: Patch) -> NDArray[np.float32]:
        """(h, w) weights of a patch that lies within the frame."""


class Cover(Placement, Protocol):
    """A placement whose patches have weights, which sum to one at every latent of the canvas."""

    def weights(self, step: int, frame: Box) -> Weights:
        """Those of the step's patches that lie within a frame, which may leave a canvas that wraps."""


@lru_cache(maxsize=1024)
def owned_patches(placement: Placement, step: int, block: Box) -> tuple[Patch, ...]:
    """The patches of a step that belong to a block, in the placement's order."""
    return tuple(patch for patch in placement.overlapping(step, block) if patch.belongs_to(block))


@dataclass(frozen=True, order=True)
class Interval:
    """A patch along one axis: reads [start, end), owns [own0, own1), counts with a weight."""

    start: int
    end: int
    own0: int
    own1: int
    weight: float = 1.0

    def shifted(self, by: int) -> Interval:
        return Interval(self.start + by, self.end + by, self.own0 + by, self.own1 + by, self.weight)


class Axis(Protocol):
    """A placement along one axis. An axis is a value."""

    @property
    def patch(self) -> int:
        """The length of the longest interval."""

    def intervals(self, step: int) -> Intervals:
        """All of them, inside [0, length) or, where the axis wraps, starting there; ascending, no two alike."""

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class Intervals(Sequence[Interval]):
    """A row of intervals of which none is kept: each is computed where it is asked for, however many there are."""

    number: int
    at: Callable[[int], Interval]

    def __len__(self) -> int:
        return self.number

    @overload
    def __getitem__(self, index: int) -> Interval: ...
    @overload
    def __getitem__(self, index: slice) -> list[Interval]: ...
    def __getitem__(self, index: int | slice) -> Interval | list[Interval]:
        places = range(self.number)[index]
        return self.at(places) if isinstance(places, int) else [self.at(place) for place in places]


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

    def intervals(self, step: int) -> Intervals:
        del step
        return Intervals(self._count, self._at)

    @property
    def _count(self) -> int:
        return -(-self.length // self.stride) if self.wraps else 1 - (self.patch - self.length) // self.stride

    def _at(self, index: int) -> Interval:
        if self.wraps:
            start = index * self.length // self._count
        else:
            start = min(index * self.stride, self.length - self.patch)
        return Interval(start, start + self.patch, start, start + self.patch)


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

    def intervals(self, step: int) -> Intervals:
        offset = self.offset(step)
        return self._turning(offset) if self.wraps else self._between_borders(offset)

    def _turning(self, offset: int) -> Intervals:
        count = -(-self.length // self.patch)
        beyond = int(
            offset + (count - 1) * self.patch >= self.length
        )  # the last owner may begin on the next turn

        def at(index: int) -> Interval:
            a = offset + ((index - beyond) % count) * self.patch
            b, turn = min(a + self.patch, offset + self.length), a // self.length * self.length
            return Interval(a - turn, a - turn + self.patch, a - turn, b - turn)

        return Intervals(count, at)

    def _between_borders(self, offset: int) -> Intervals:
        first = offset - self.patch if offset else 0  # where the first owner would begin, but for the border

        def at(index: int) -> Interval:
            a = max(0, first + index * self.patch)
            b = min(first + (index + 1) * self.patch, self.length)
            start = min(a, self.length - self.patch)
            return Interval(start, start + self.patch, a, b)

        return Intervals(-(-(self.length - first) // self.patch), at)

    def offset(self, step: int) -> int:
        """The step's shift in [0, patch): multiples of an irrational number, from a place that the seed picks.

        Successive shifts are far from each other, and after any number of steps all are used about equally often
        (the gaps are of three lengths at most), so no lattice stays. Between borders that are a patch apart nothing
        can shift: both owners would read the same latents.
        """
        if self.length == self.patch and not self.wraps:
            return 0
        key = np.array(
            [self.seed % (1 << 64), self.axis], np.uint64
        )  # a list of large numbers would become floats
        start = np.random.Generator(np.random.Philox(key=key)).random()
        return int((start + step * IRRATIONALS[self.axis]) % 1.0 * self.patch)


@dataclass(frozen=True)
class Product:
    """Every pair of an interval in y and one in x; their weights are multiplied. Satisfies Placement."""

    canvas: Canvas
    y: Axis
    x: Axis

    @property
    def reach(self) -> int:
        return (max(self.y.patch, self.x.patch) + 1) // 2

    def overlapping(self, step: int, box: Box) -> Iterator[Patch]:
        wraps, height, width = self.canvas.topology, self.canvas.height, self.canvas.width
        rows = _overlapping(self.y, step, box.y0, box.y1, height * wraps.wraps_y)
        columns = _overlapping(self.x, step, box.x0, box.x1, width * wraps.wraps_x)
        for row, column in product(rows, columns):
            yield Patch(
                Box(row.start, row.end, column.start, column.end),
                Box(row.own0, row.own1, column.own0, column.own1),
                weight=row.weight * column.weight,
            )

    def count(self, step: int) -> int:
        return len(_intervals(self.y, step)) * len(_intervals(self.x, step))

    def typical_count(self, step: int, block: Box) -> int:
        return len(owned_patches(self, step, block))


@lru_cache(maxsize=64)
def _intervals(axis: Axis, step: int) -> Intervals:
    """Where an axis's intervals of a step lie: every block asks, and drawing its offset takes longest."""
    return axis.intervals(step)


def _overlapping(axis: Axis, step: int, low: int, high: int, period: int) -> list[Interval]:
    """The intervals, with all their whole turns on an axis that wraps, that meet [low, high); ascending."""
    intervals = _intervals(axis, step)
    first, last = intervals[0].start, intervals[-1].start + axis.patch
    return [
        interval.shifted(turn)
        for turn in whole_turns(first, last, low, high, period)
        for interval in _between(intervals, low - axis.patch - turn, high - turn)
        if interval.end + turn > low
    ]


def _between(intervals: Intervals, low: int, high: int) -> list[Interval]:
    """The intervals that start in (low, high)."""
    first = bisect_right(intervals, low, key=_start)
    return intervals[first : bisect_left(intervals, high, key=_start)]


_start = attrgetter("start")


def stride_of(patch: int, overlap: float) -> int:
    """Latents from one patch to the next that share `overlap`, in [0, 1), of their side."""
    return max(1, round(patch * (1 - overlap)))


def overlapping_grid(canvas: Canvas, patch: int, overlap: float) -> Product:
    """Patches on a regular grid that share `overlap`, in [0, 1), of their side with the next one."""
    stride = stride_of(patch, overlap)
    return Product(
        canvas,
        GridAxis(canvas.height, patch, stride, canvas.topology.wraps_y),
        GridAxis(canvas.width, patch, stride, canvas.topology.wraps_x),
    )


def shifted_tiling(canvas: Canvas, patch: int, seed: int) -> Product:
    """A tight tiling at another offset every step; every latent has one owner."""
    return Product(
        canvas,
        ShiftedAxis(canvas.height, patch, canvas.topology.wraps_y, seed, axis=0),
        ShiftedAxis(canvas.width, patch, canvas.topology.wraps_x, seed, axis=1),
    )


@dataclass(frozen=True)
class BlendedAtLast:
    """A placement whose patches each own what they draw, but for the last steps, in which overlapping ones blend.

    The borders between owners are smoothed by the steps that follow; those of the last steps would stay.
    """

    owning: Placement
    blending: Placement
    begin: int

    @property
    def canvas(self) -> Canvas:
        return self.owning.canvas

    @property
    def reach(self) -> int:
        return max(self.owning.reach, self.blending.reach)

    def overlapping(self, step: int, box: Box) -> Iterator[Patch]:
        return self._at(step).overlapping(step, box)

    def count(self, step: int) -> int:
        return self._at(step).count(step)

    def typical_count(self, step: int, block: Box) -> int:
        return self._at(step).typical_count(step, block)

    def _at(self, step: int) -> Placement:
        return self.blending if step >= self.begin else self.owning

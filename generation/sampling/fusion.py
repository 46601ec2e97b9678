"""How overlapping predictions become one: weights of patches, and exact sums. Knows no network.

At a latent u that patches p with weights W_p cover, the fused prediction is

    e(u) = sum_p  W_p(u) e_p(u),        sum_p W_p(u) = 1

Normalised   W_p = w_p / n,  n(u) = sum_p w_p(u), of a window w (Bar-Tal et al. 2023, "MultiDiffusion", eq. 5, with w
             uniform; Jimenez 2023, "Mixture of Diffusers", with w Gaussian). Where patches of different ranks overlap,
             only those of the lowest rank have w > 0: the random covers' owners.
Signed       W_p is the patch's own number, which may be negative: factors of a graph count once, and what
             neighbouring factors share is taken off again (Zhang et al. 2023, "DiffCollage", eq. 5).

Weights follow from the cover, so they are never stored. The terms are rounded to fixed point before they are added:
integer addition is associative, so the sum is the same bits in whatever order, and however the canvas is cut
into blocks, the terms arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from generation.sampling.covers import Patch, Placement
from storage.geometry import Box, Canvas, Grid

Window = Callable[[int], NDArray[np.float64]]

FRACTION_BITS = 22
"""Of sums. Signed terms leave partial sums larger than what they add up to: of predictions of deviation 4, up to 52."""
WINDOW_BITS = 44
"""Windows are multiples of 2^-44, so that float64 adds them exactly: n(u) has the same bits on every frame."""
NO_RANK = np.uint64(2**64 - 1)
SUM_LIMIT = float(2 ** (31 - FRACTION_BITS))
"""Sums of weighted predictions must stay within +-SUM_LIMIT; networks predict quantities of unit variance."""
CHECKED_SIDE, CHECKED_SQUARES = 512, 64
"""Squares of latents, and how many of them, on which a signed cover is checked when it is made."""


def uniform(size: int) -> NDArray[np.float64]:
    """w(i) = 1."""
    return np.ones(size)


def hann(size: int) -> NDArray[np.float64]:
    """w(i) = sin^2(pi (i + 1/2) / size), sampled at latent centres: symmetric and nowhere zero."""
    return np.asarray(np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2)


def gaussian(size: int, variance: float = 0.01) -> NDArray[np.float64]:
    """w(i) = exp(-(x - 1/2)^2 / (2 variance)), x = (i + 1/2) / size: Mixture of Diffusers' window, centred."""
    x = (np.arange(size) + 0.5) / size
    return np.asarray(np.exp(-((x - 0.5) ** 2) / (2 * variance)))


WINDOWS: dict[str, Window] = {"uniform": uniform, "hann": hann, "gaussian": gaussian}


def patch_window(patch: Patch, window: Window) -> NDArray[np.float64]:
    """(h, w) unnormalised weights over the patch's box, zero outside the part that it owns. Not to be written to."""
    box, owns = patch.box, patch.owns
    return _owned_window(*box.shape, owns.shifted(-box.y0, -box.x0), window)


@lru_cache(maxsize=256)
def _owned_window(height: int, width: int, owns: Box, window: Window) -> NDArray[np.float64]:
    """Patches of a cover are of few shapes."""
    weights = np.multiply.outer(window(height), window(width))
    weights = np.rint(weights * 2.0**WINDOW_BITS) * 2.0**-WINDOW_BITS
    owned = np.zeros_like(weights)
    inside = owns.slices_in(Box(0, height, 0, width))
    owned[inside] = weights[inside]
    owned.setflags(write=False)
    return owned


class Normaliser:
    """n(u), the sum of windows, over one frame of the canvas; rank, the lowest of the patches that cover a latent.

    Satisfies Weights.
    """

    def __init__(self, placement: Placement, step: int, frame: Box, window: Window) -> None:
        self.frame = frame
        self.window = window
        self.total = np.zeros(frame.shape)
        self.rank = np.full(frame.shape, NO_RANK)
        for patch in placement.overlapping(step, frame):
            self._add(patch)

    def _add(self, patch: Patch) -> None:
        """Patches come by ascending rank."""
        part = patch.box.intersection(self.frame)
        if part is not None:
            at, weights = (
                part.slices_in(self.frame),
                patch_window(patch, self.window)[part.slices_in(patch.box)],
            )
            counts = self.rank[at] >= np.uint64(patch.rank)
            self.total[at] += np.where(counts, weights, 0.0)
            self.rank[at][counts] = patch.rank

    def of(self, patch: Patch) -> NDArray[np.float32]:
        """(h, w) normalised weights of a patch that lies within the frame."""
        at = patch.box.slices_in(self.frame)
        weights = np.where(self.rank[at] == np.uint64(patch.rank), patch_window(patch, self.window), 0.0)
        return np.divide(weights, self.total[at], out=np.zeros_like(weights), where=weights > 0).astype(
            np.float32
        )


@dataclass(frozen=True)
class _OfPlacement:
    """A cover's patches are those of a placement."""

    placement: Placement

    @property
    def canvas(self) -> Canvas:
        return self.placement.canvas

    @property
    def reach(self) -> int:
        return self.placement.reach

    def overlapping(self, step: int, box: Box) -> Iterator[Patch]:
        return self.placement.overlapping(step, box)

    def count(self, step: int) -> int:
        return self.placement.count(step)

    def typical_count(self, step: int, block: Box) -> int:
        return self.placement.typical_count(step, block)


@dataclass(frozen=True)
class Normalised(_OfPlacement):
    """Patches count as a window says, and all that cover a latent count as much as one. Satisfies Cover."""

    window: Window

    def weights(self, step: int, frame: Box) -> Normaliser:
        return Normaliser(self.placement, step, frame, self.window)


@dataclass(frozen=True)
class Signed(_OfPlacement):
    """Patches count by their own weights, some of them negative. Satisfies Cover.

    Raises ValueError where weights do not sum to one: of canvases up to CHECKED_SQUARES squares of CHECKED_SIDE
    latents at once, whole, at step 0; of larger ones on as many squares; and anywhere, at any step, when it is used.
    """

    def __post_init__(self) -> None:
        squares = Grid(self.canvas, CHECKED_SIDE)
        for index in range(0, len(squares), -(-len(squares) // CHECKED_SQUARES)):
            self.weights(0, squares.box(index))

    def weights(self, step: int, frame: Box) -> SignedWeights:
        return SignedWeights(self.placement, step, frame)


class SignedWeights:
    """The numbers of patches on one frame, which is checked. Satisfies Weights."""

    def __init__(self, placement: Placement, step: int, frame: Box) -> None:
        total = np.zeros(frame.shape)
        for patch in placement.overlapping(step, frame):
            part = patch.owns.intersection(frame)
            if part is not None:
                total[part.slices_in(frame)] += patch.weight
        wrong = np.abs(total - 1) > 1e-9
        if wrong.any():
            y, x = np.argwhere(wrong)[0].tolist()
            raise ValueError(
                f"the weights of the patches at latent (y {frame.y0 + y}, x {frame.x0 + x}), step {step}, sum to "
                f"{total[y, x]:g}; they must sum to 1"
            )

    def of(self, patch: Patch) -> NDArray[np.float32]:
        """(h, w) the patch's number where it counts, zero elsewhere."""
        weights = np.zeros(patch.box.shape, np.float32)
        weights[patch.owns.slices_in(patch.box)] = patch.weight
        return weights


def to_fixed(terms: NDArray[np.float32]) -> NDArray[np.int64]:
    """Round weighted predictions to multiples of 2^-22; scaling a float32 by a power of two is exact."""
    fixed: NDArray[np.int64] = np.rint(terms * np.float32(2**FRACTION_BITS)).astype(np.int64)
    return fixed


def to_storage(total: NDArray[np.int64]) -> NDArray[np.int32]:
    """A block's sum as 32-bit integers. Raises OverflowError where it leaves +-SUM_LIMIT."""
    if total.size and max(abs(int(total.min())), abs(int(total.max()))) >= 2**31:
        worst = float(np.abs(total).max()) / 2**FRACTION_BITS
        raise OverflowError(f"a fused prediction reached {worst:.3g}; the limit is {SUM_LIMIT:g}")
    return total.astype(np.int32)


def from_fixed(total: NDArray[np.int64]) -> NDArray[np.float32]:
    """Fixed point back to float32: rounded once, as scaling by a power of two is exact."""
    values: NDArray[np.float32] = total.astype(np.float32)
    values *= np.float32(2.0**-FRACTION_BITS)
    return values

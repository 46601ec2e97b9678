"""A method by its name: where the patches of its steps lie, and how they count. Composes covers and windows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from generation.sampling.covers import (
    BlendedAtLast,
    Cover,
    Placement,
    overlapping_grid,
    shifted_tiling,
    stride_of,
)
from generation.sampling.fusion import WINDOWS, Normalised, Window
from generation.sampling.random_covers import RandomCover, RandomGrid
from storage.geometry import Canvas

Name = Literal["hann", "uniform", "gaussian", "shifted", "random-patch", "random-grid"]
OVERLAPPING: Mapping[Name, str] = {"hann": "hann", "uniform": "uniform", "gaussian": "gaussian"}
"""Methods that read `overlap`, and their windows; by the others a latent has one owner."""
BLENDED_PART, BLEND_OVERLAP = 4, 0.25
"""The last quarter of the steps, in which patches overlap by a quarter: with less, borders show (docs/seams.md)."""


@dataclass(frozen=True)
class Method:
    """overlap: in [0, 1), of methods that read it. blend_last: steps of `steps`, as `blended` counts them."""

    name: Name
    seed: int
    steps: int
    overlap: float
    blend_last: int

    def cover(self, canvas: Canvas, patch: int, evaluations: int) -> Cover:
        """The cover of all evaluations, of which a solver may take two a step. patch: latents on a side."""
        return Normalised(self._placement(canvas, patch, evaluations), self.window)

    def _placement(self, canvas: Canvas, patch: int, evaluations: int) -> Placement:
        match self.name:
            case "shifted":
                owning: Placement = shifted_tiling(canvas, patch, self.seed)
            case "random-patch":
                owning = RandomCover(canvas, patch, self.seed)
            case "random-grid":
                owning = RandomGrid(canvas, patch, self.seed)
            case _:
                return overlapping_grid(canvas, patch, self.overlap)
        if not self.blend_last:
            return owning
        return BlendedAtLast(
            owning, overlapping_grid(canvas, patch, BLEND_OVERLAP), self.begins_to_blend(evaluations)
        )

    def begins_to_blend(self, evaluations: int) -> int:
        """The first evaluation of those in which patches blend that otherwise have borders; all, where none do."""
        blending = 0 if self.name in OVERLAPPING else self.blend_last
        return evaluations - math.ceil(evaluations * blending / self.steps)

    def stride(self, patch: int) -> int:
        """About how far the patches lie apart, in latents."""
        return stride_of(patch, self.overlap) if self.name in OVERLAPPING else patch

    @property
    def window(self) -> Window:
        """Weights over a patch, before they are divided by their sum."""
        return WINDOWS[OVERLAPPING.get(self.name, "hann" if self.blend_last else "uniform")]


def blended(name: Name, steps: int, asked: int | None = None) -> int:
    """How many last steps blend, of methods whose patches do not otherwise; `asked` takes the place of the usual.

    The published rule of random patches is left as it is unless asked.
    """
    if name in OVERLAPPING:
        return 0
    usual = 0 if name == "random-patch" else -(-steps // BLENDED_PART)
    return min(steps, usual if asked is None else asked)

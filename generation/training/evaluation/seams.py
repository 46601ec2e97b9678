"""Whether borders of the machinery show: gradients across a lattice over gradients beside it. Knows pixels only.

    ratio = sum over lines of g(line) / sum over lines of mean g(beside the line)      g: mean |difference| across

beside: for the lattice of the latents, the pixel rows between two of its lines; for the borders of patches and of
decode tiles, which all lie on it, its lines next to them. One is no seam; more is an edge, less is a blur.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from generation.training.earth import Bytes

Means = NDArray[np.float64]
NEIGHBOURS = 2


@dataclass(frozen=True)
class Seam:
    """A ratio and its standard error over the lattice's lines."""

    ratio: float
    error: float
    lines: int


def gradients(pixels: Bytes, axis: int) -> Means:
    """g of every line: entry n is between rows (axis 0) or columns (axis 1) n - 1 and n; entry 0 is nothing."""
    steps = np.abs(np.diff(pixels.astype(np.float64), axis=axis)).mean(axis=(1 - axis, 2))
    return np.concatenate([[np.nan], steps])


def compared(lines: Means, beside: Means) -> Seam:
    """The ratio of sums; the error is that of a ratio estimator."""
    ratio = float(lines.sum() / max(beside.sum(), 1e-12))
    rest = lines - ratio * beside
    count = len(lines)
    error = (
        float(rest.std(ddof=1) / (np.sqrt(count) * max(beside.mean(), 1e-12))) if count > 1 else float("inf")
    )
    return Seam(ratio, error, count)


def lattice_seam(pixels: Bytes, spacing: int) -> Seam:
    """The seam on every `spacing`-th row and column, against the rows and columns between them."""
    pairs = [
        (g[at], np.mean([g[at + offset] for offset in between(spacing)]))
        for g in (gradients(pixels, 0), gradients(pixels, 1))
        for at in range(spacing, len(g) - spacing // 2, spacing)
    ]
    return compared(*np.array(pairs).T)


def between(spacing: int) -> list[int]:
    """Offsets to the lines nearer to this lattice line than to the next."""
    return [offset for offset in range(-(spacing // 2), spacing // 2 + 1) if offset != 0]


def border_seam(pixels: Bytes, borders: tuple[Sequence[int], Sequence[int]], spacing: int) -> Seam | None:
    """The seam on some lines of a lattice, against its lines next to them; None where there is no border."""
    pairs = []
    for axis, positions in enumerate(borders):
        g, own = gradients(pixels, axis), set(positions)
        for at in positions:
            others = [at + offset * spacing for offset in range(-NEIGHBOURS, NEIGHBOURS + 1) if offset]
            near = [g[other] for other in others if other not in own and 0 < other < len(g)]
            if near and 0 < at < len(g):
                pairs.append((g[at], np.mean(near)))
    return compared(*np.array(pairs).T) if pairs else None

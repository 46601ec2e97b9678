"""Polygons on a grid of latents: which centres lie inside. Pure arithmetic; knows no file and no prompt.

A latent is inside where a ray from its centre crosses the outlines an odd number of times: rings inside rings are
holes, and outlines may cross themselves. Every latent is decided by its own coordinates alone, so a box of a shape is
the crop of the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from generation.places.regions import Ids
from storage.geometry import Box, Canvas

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Polygon:
    """Closed rings, filled by the even-odd rule. edges: (n, 4) y0, x0, y1, x1 with y0 < y1, in latents, by y0."""

    edges: Points

    @classmethod
    def of(cls, rings: Iterable[Sequence[tuple[float, float]]], scale: float) -> Polygon:
        """A polygon of rings of (x, y) in pixels, whether they repeat their first point at the end or not."""
        found: list[Points] = []
        for ring in rings:
            points = np.array(ring, np.float64).reshape(-1, 2)[:, ::-1] / scale
            found.append(np.concatenate([points, np.roll(points, -1, axis=0)], axis=1))
        edges = np.concatenate(found)
        edges = np.where((edges[:, 0] > edges[:, 2])[:, None], edges[:, [2, 3, 0, 1]], edges)
        edges = edges[edges[:, 0] < edges[:, 2]]
        return cls(edges[np.argsort(edges[:, 0], kind="stable")])

    @property
    def bounds(self) -> Box:
        """A box of latents outside of which nothing is inside; empty where there is no area."""
        if not len(self.edges):
            return Box(0, 0, 0, 0)
        low, high = self.edges.min(axis=0), self.edges.max(axis=0)
        left, right = min(low[1], low[3]), max(high[1], high[3])
        return Box(*(int(v) for v in (np.floor(low[0]), np.ceil(high[2]), np.floor(left), np.ceil(right))))

    def inside(self, box: Box) -> NDArray[np.bool_]:
        """(h, w) of a latent box in the polygon's own coordinates, which do not wrap."""
        out = np.zeros(box.shape, np.bool_)
        centres = np.arange(box.x0, box.x1) + 0.5
        last = np.searchsorted(self.edges[:, 0], box.y1, side="left")
        edges = self.edges[:last][self.edges[:last, 2] > box.y0]
        for row in range(box.height):
            y = box.y0 + row + 0.5
            y0, x0, y1, x1 = edges[(edges[:, 0] <= y) & (y < edges[:, 2])].T
            crossings = np.sort(x0 + (y - y0) / (y1 - y0) * (x1 - x0))
            out[row] = np.searchsorted(crossings, centres, side="right") % 2 == 1
        return out


@dataclass(frozen=True)
class ShapeLayer:
    """Polygons that belong to one region; where the canvas wraps they may hang over its borders. Satisfies Layer."""

    canvas: Canvas
    polygons: tuple[Polygon, ...]
    region: int
    bounds: tuple[Box, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bounds", tuple(polygon.bounds for polygon in self.polygons))

    def paint(self, ids: Ids, box: Box) -> None:
        for polygon, bounds in zip(self.polygons, self.bounds, strict=True):
            for dy, dx in self.canvas.wrapped_shifts(bounds, box):
                common = bounds.shifted(dy, dx).intersection(box)
                if common is not None:
                    ids[common.slices_in(box)][polygon.inside(common.shifted(-dy, -dx))] = self.region

"""How much of a latent is whose: weights under tents, and polygons on the grid. Pure arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from generation.places.regions import Region, RegionMap, Regions, tent
from generation.places.shapes import Polygon, ShapeLayer
from generation.sampling.covers import Patch
from storage.geometry import PLANE, TOPOLOGIES, TORUS, Box, Canvas

# --- weights ---------------------------------------------------------------------------------------------------------


class Painted:
    """A map that is known. Satisfies Layer."""

    def __init__(self, canvas: Canvas, ids: NDArray[np.uint8]) -> None:
        self.canvas, self.ids = canvas, ids

    def paint(self, ids: NDArray[np.uint8], box: Box) -> None:
        for piece, home in self.canvas.split_at_edges(box):
            ids[piece.slices_in(box)] = self.ids[home.y0 : home.y1, home.x0 : home.x1]


def regions_on(canvas: Canvas, ids: NDArray[np.uint8], *regions: Region) -> Regions:
    return Regions(RegionMap(canvas, canvas.height, canvas.width, (Painted(canvas, ids),)), regions)


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=lambda topology: topology.name)
def test_weights_sum_to_one_everywhere_and_do_not_depend_on_the_box(topology: Any) -> None:
    canvas = Canvas(40, 50, topology)
    ids = np.random.default_rng(1).integers(0, 5, (10, 10), np.uint8).repeat(4, axis=0).repeat(5, axis=1)
    regions = regions_on(
        canvas, ids, Region(0, blend=3), Region(1, blend=3), Region(2, strength=0.4, blend=5), Region(3),
        Region(1, strength=0.7, blend=8),
    )  # fmt: skip
    whole = regions.weights(canvas.box)
    assert set(whole) == {0, 1, 2, 3}
    np.testing.assert_allclose(sum(whole.values()), 1.0, atol=1e-6)
    assert all(weight.min() >= 0 for weight in whole.values())
    for box in (Box(3, 20, 7, 31), Box(0, 9, 0, 9), Box(31, 40, 44, 50), Box(17, 18, 23, 24)):
        part = regions.weights(box)
        for words, weight in whole.items():
            inside = weight[box.slices_in(canvas.box)]
            assert np.array_equal(part.get(words, np.zeros_like(inside)), inside)
        patch = Patch(box, box)
        assert set(regions.words(patch)) == {words for words, weight in part.items() if weight.any()}


def test_a_feather_is_as_wide_as_asked_and_has_no_kink() -> None:
    canvas, blend = Canvas(8, 80), 16
    ids = np.zeros((8, 80), np.uint8)
    ids[:, 40:] = 1
    weight = regions_on(canvas, ids, Region(0, blend=blend), Region(1, blend=blend)).weights(canvas.box)[1][4]
    between = np.flatnonzero((weight > 0) & (weight < 1))
    assert (between[0], between[-1]) == (40 - (blend - 1), 40 + blend - 2)
    assert (np.diff(weight) >= 0).all() and np.diff(weight).max() < 1.1 / blend
    assert np.abs(np.diff(weight, 2)).max() < 1.1 / blend**2
    np.testing.assert_allclose(weight + weight[::-1], 1.0, atol=1e-6)


def test_weights_wrap_where_the_canvas_does() -> None:
    ids = np.zeros((12, 30), np.uint8)
    ids[:, 20:] = 1
    told_apart = (Region(0, blend=4), Region(1, blend=4))
    torus = regions_on(Canvas(12, 30, TORUS), ids, *told_apart).weights(Box(0, 12, -10, 40))[1]
    plane = regions_on(Canvas(12, 30, PLANE), ids, *told_apart).weights(Box(0, 12, 0, 30))[1]
    assert np.array_equal(torus[:, 0:20], torus[:, 30:50])
    assert torus[6, 9] == 1 - torus[6, 10] == 0.625  # 10 / 16 on the region's side of the seam
    assert plane[6, 0] == 0 and plane[6, 29] == 1


def test_a_tent_of_one_is_the_mask_and_larger_ones_are_its_mean() -> None:
    mask = np.random.default_rng(2).random((9, 11)) < 0.5
    assert np.array_equal(tent(mask, 1), mask)
    line = np.array([1, 2, 3, 2, 1]) / 9
    slow = [
        [float((mask[y : y + 5, x : x + 5] * np.multiply.outer(line, line)).sum()) for x in range(7)]
        for y in range(5)
    ]
    np.testing.assert_allclose(tent(mask, 3), slow, atol=1e-12)


def test_a_weight_leaves_the_rest_to_the_picture() -> None:
    canvas, ids = Canvas(4, 4), np.ones((4, 4), np.uint8)
    weights = regions_on(canvas, ids, Region(0), Region(1, strength=0.25)).weights(canvas.box)
    assert np.unique(weights[1]).tolist() == [0.25] and np.unique(weights[0]).tolist() == [0.75]


# --- shapes ----------------------------------------------------------------------------------------------------------

STAR = [(20.0, 2.0), (31.0, 37.0), (1.0, 15.0), (39.0, 15.0), (9.0, 37.0)]


def slow_inside(rings: list[list[tuple[float, float]]], y: float, x: float) -> bool:
    """Crossings of a ray to the left, edge by edge."""
    crossings = 0
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True):
            if (y0 <= y) != (y1 <= y) and x0 + (y - y0) / (y1 - y0) * (x1 - x0) <= x:
                crossings += 1
    return crossings % 2 == 1


@pytest.mark.parametrize(
    "rings",
    [
        [STAR],
        [[(2.0, 2.0), (38.0, 4.0), (30.0, 39.0), (5.0, 30.0)], [(10.0, 10.0), (25.0, 12.0), (18.0, 28.0)]],
        [[(0.5, 0.5), (20.5, 0.5), (20.5, 20.5), (0.5, 20.5), (0.5, 0.5)]],
    ],
    ids=["crossing itself", "with a hole", "through centres"],
)
def test_polygons_are_filled_by_the_even_odd_rule(rings: list[list[tuple[float, float]]]) -> None:
    polygon = Polygon.of(rings, 1.0)
    whole = polygon.inside(Box(0, 40, 0, 40))
    expected = [[slow_inside(rings, y + 0.5, x + 0.5) for x in range(40)] for y in range(40)]
    assert np.array_equal(whole, expected) and whole.any()
    assert polygon.bounds.contains(Box(*(int(v) for v in edges_of(whole))))
    for box in (Box(3, 17, 9, 30), Box(0, 1, 0, 40), Box(36, 40, 20, 21)):
        assert np.array_equal(polygon.inside(box), whole[box.slices_in(Box(0, 40, 0, 40))])


def edges_of(mask: Any) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask)
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


def test_shapes_hang_over_borders_that_wrap_and_end_at_others() -> None:
    rings = [[(70.0, 10.0), (110.0, 10.0), (110.0, 26.0), (70.0, 26.0)]]
    for topology, expected in ((TORUS, [*range(15), *range(35, 40)]), (PLANE, [*range(35, 40)])):
        canvas = Canvas(20, 40, topology)
        layer = ShapeLayer(canvas, (Polygon.of(rings, 2.0),), 7)
        ids = np.zeros((20, 40), np.uint8)
        layer.paint(ids, canvas.box)
        assert np.flatnonzero(ids[8]).tolist() == expected
        assert np.flatnonzero(ids[:, 37]).tolist() == [*range(5, 13)]
        if topology is TORUS:
            turned = np.zeros((20, 40), np.uint8)
            layer.paint(turned, Box(0, 20, 20, 60))
            assert np.array_equal(turned, np.roll(ids, -20, axis=1))

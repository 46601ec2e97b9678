"""Covers and windows: every patch once, weights that sum to one, sums that do not depend on their order."""

import random

import numpy as np
import pytest

from generation.sampling.covers import BlendedAtLast, Placement, overlapping_grid, shifted_tiling
from generation.sampling.fusion import SUM_LIMIT, WINDOWS, Normaliser, from_fixed, to_fixed, to_storage
from generation.sampling.random_covers import RandomCover, RandomGrid
from storage.geometry import PLANE, RING, TOPOLOGIES, TORUS, Box, Canvas, Topology

PATCH = 16
SIZES = [(16, 16), (53, 37), (80, 104), (17, 31), (16, 97)]


def covers(canvas: Canvas) -> dict[str, Placement]:
    grids = {f"grid {overlap}": overlapping_grid(canvas, PATCH, overlap) for overlap in (0, 0.25, 0.5, 0.9)}
    random = {"random-patch": RandomCover(canvas, PATCH, 5), "random-grid": RandomGrid(canvas, PATCH, 5)}
    shifted = shifted_tiling(canvas, PATCH, seed=5)
    blended = BlendedAtLast(random["random-grid"], grids["grid 0.25"], begin=3)
    return {**grids, **random, "shifted": shifted, "blended": blended}


def patches_of(cover: Placement, step: int, canvas: Canvas):
    """Each patch once, in the position in which its centre is on the canvas."""
    inside = canvas.box
    centred = [(patch, *patch.centre) for patch in cover.overlapping(step, inside)]
    found = [patch for patch, y, x in centred if inside.contains(Box(y, y + 1, x, x + 1))]
    assert len(found) == cover.count(step)
    return found


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_weights_sum_to_one(size: tuple[int, int], topology: Topology) -> None:
    canvas = Canvas(*size, topology)
    for name, cover in covers(canvas).items():
        for window in WINDOWS.values():
            frame = canvas.clip(canvas.box.expanded(PATCH))
            for step in (0, 1, 7):
                normaliser = Normaliser(cover, step, frame, window)
                total = np.zeros(canvas.box.shape)
                for patch in patches_of(cover, step, canvas):
                    weights = normaliser.of(patch)
                    for piece, home in canvas.split_at_edges(patch.box):
                        total[home.slices_in(canvas.box)] += weights[piece.slices_in(patch.box)]
                assert abs(total - 1).max() < 1e-6, (name, window)


@pytest.mark.parametrize("topology", [PLANE, RING, TORUS], ids=str)
def test_a_shifted_tiling_gives_each_latent_one_owner_at_every_step(topology: Topology) -> None:
    canvas = Canvas(53, 37, topology)
    cover = shifted_tiling(canvas, PATCH, seed=3)
    for step in range(9):
        owners = np.zeros(canvas.box.shape, int)
        for patch in patches_of(cover, step, canvas):
            assert patch.box.contains(patch.owns)
            for _, home in canvas.split_at_edges(patch.owns):
                owners[home.slices_in(canvas.box)] += 1
        assert (owners == 1).all()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("seed", range(4))
def test_a_shifted_tiling_moves_its_borders_everywhere(seed: int, axis: int) -> None:
    """Also in few steps: after 12, no latent in three is passed over, and none is met three times."""
    for side, steps, most in ((16, 32, 3), (32, 12, 1), (64, 50, 2)):
        cover = shifted_tiling(Canvas(4 * side, 4 * side), side, seed)
        offsets = [(cover.y, cover.x)[axis].offset(step) for step in range(steps)]
        met = np.bincount(offsets, minlength=side)
        assert met.max() <= most
        gaps = np.diff(sorted({*offsets}), append=min(offsets) + side)
        assert gaps.max() <= max(1, 3.5 * side / steps)
        assert len({offset % 2 for offset in offsets}) == 2


def test_overlapping_patches_take_over_at_last() -> None:
    canvas = Canvas(53, 37)
    owning, blending = shifted_tiling(canvas, PATCH, seed=3), overlapping_grid(canvas, PATCH, 0.25)
    cover = BlendedAtLast(owning, blending, begin=2)
    for step, expected in ((0, owning), (1, owning), (2, blending), (9, blending)):
        assert list(cover.overlapping(step, canvas.box)) == list(expected.overlapping(step, canvas.box))
        assert cover.count(step) == expected.count(step)
        assert cover.typical_count(step, canvas.box) == expected.typical_count(step, canvas.box)
    assert (cover.canvas, cover.reach) == (canvas, PATCH // 2)


def test_border_patches_are_anchored_and_leave_no_remainder() -> None:
    cover = overlapping_grid(Canvas(53, 37), PATCH, 0.25)
    starts = sorted({patch.box.y0 for patch in cover.overlapping(0, Box(0, 53, 0, 37))})
    assert starts == [0, 12, 24, 36, 37]


def test_meeting_a_box_finds_the_same_patches_as_the_whole_canvas() -> None:
    canvas = Canvas(53, 37)
    for cover in covers(canvas).values():
        everything = list(cover.overlapping(3, canvas.box))
        box = Box(11, 19, 5, 23)
        assert list(cover.overlapping(3, box)) == [p for p in everything if p.box.intersection(box)]


def test_fixed_point_sums_are_exact_in_any_order() -> None:
    generator = np.random.default_rng(0)
    terms = [generator.standard_normal((3, 8)).astype(np.float32) for _ in range(40)]
    fixed = [to_fixed(term) for term in terms]
    reference = sum(fixed, np.zeros((3, 8), np.int64))
    for seed in range(3):
        order = random.Random(seed).sample(fixed, len(fixed))
        assert np.array_equal(sum(order, np.zeros((3, 8), np.int64)), reference)
    assert abs(from_fixed(reference) - np.sum(terms, axis=0, dtype=np.float64)).max() < 40 * 2**-22


def test_predictions_beyond_the_limit_are_an_error() -> None:
    with pytest.raises(OverflowError, match="reached 600"):
        to_storage(to_fixed(np.array([600.0], np.float32)))
    assert to_storage(to_fixed(np.array([SUM_LIMIT * 0.99], np.float32))).dtype == np.int32


def test_a_normaliser_has_the_same_bits_on_every_frame() -> None:
    canvas = Canvas(53, 37)
    cover = overlapping_grid(canvas, PATCH, 0.7)
    for window in WINDOWS.values():
        whole = Normaliser(cover, 0, canvas.box, window).total
        frame = Box(7, 41, 3, 30)
        assert np.array_equal(Normaliser(cover, 0, frame, window).total, whole[frame.slices_in(canvas.box)])


def test_fixed_point_becomes_the_nearest_float() -> None:
    """As by way of doubles, which hold every sum and every scaled sum exactly."""
    totals = np.random.default_rng(3).integers(-(2**34), 2**34, 100_000)
    totals[:6] = 0, 1, -1, 2**31 - 1, -(2**31), 2**25 + 1
    assert np.array_equal(from_fixed(totals), (totals * 2.0**-22).astype(np.float32))

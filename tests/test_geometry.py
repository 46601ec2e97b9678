"""Boxes, wrapped pieces and grids, against the slow obvious way: one latent at a time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.geometry import PLANE, TOPOLOGIES, Box, Canvas, Grid

canvases = st.builds(
    Canvas, st.integers(1, 23), st.integers(1, 29), st.sampled_from(sorted(TOPOLOGIES.values(), key=str))
)
boxes = st.builds(
    lambda y, x, h, w: Box(y, y + h, x, x + w),
    st.integers(-40, 40), st.integers(-40, 40), st.integers(0, 50), st.integers(0, 50),
)  # fmt: skip


def homes(canvas: Canvas, box: Box) -> dict[tuple[int, int], tuple[int, int]]:
    """Each latent of the box that exists -> where it lies on the canvas."""
    found = {}
    for y in range(box.y0, box.y1):
        for x in range(box.x0, box.x1):
            home_y = y % canvas.height if canvas.topology.wraps_y else y
            home_x = x % canvas.width if canvas.topology.wraps_x else x
            if 0 <= home_y < canvas.height and 0 <= home_x < canvas.width:
                found[y, x] = (home_y, home_x)
    return found


@given(canvases, boxes)
def test_pieces_hold_each_existing_latent_once(canvas: Canvas, box: Box) -> None:
    found = {}
    for piece, home in canvas.split_at_edges(box):
        assert canvas.box.contains(home) and piece.shape == home.shape
        for dy in range(piece.height):
            for dx in range(piece.width):
                place = (piece.y0 + dy, piece.x0 + dx)
                assert place not in found
                found[place] = (home.y0 + dy, home.x0 + dx)
    assert found == homes(canvas, box)


@given(canvases, boxes, st.integers(1, 11))
def test_blocks_meeting_a_box_are_those_that_hold_one_of_its_latents(
    canvas: Canvas, box: Box, size: int
) -> None:
    grid = Grid(canvas, size)
    expected = {(y // size) * grid.columns + x // size for y, x in homes(canvas, box).values()}
    assert grid.overlapping(box) == sorted(expected)


@given(canvases, st.integers(1, 11))
def test_blocks_tile_the_canvas(canvas: Canvas, size: int) -> None:
    grid = Grid(canvas, size)
    assert sum(grid.box(index).area for index in range(len(grid))) == canvas.box.area
    assert all(canvas.box.contains(grid.box(index)) for index in range(len(grid)))


def test_a_box_does_not_end_before_it_begins() -> None:
    with pytest.raises(ValueError, match=r"Box\(y0=3, y1=2"):
        Box(3, 2, 0, 1)


def test_intersection_and_slices() -> None:
    frame, inner = Box(2, 13, 3, 17), Box(5, 7, 11, 23)
    assert frame.intersection(inner) == Box(5, 7, 11, 17)
    assert Box(5, 7, 11, 17).slices_in(frame) == (slice(3, 5), slice(8, 14))
    assert Canvas(5, 5, PLANE).clip(Box(-3, 9, 1, 2)) == Box(0, 5, 1, 2)

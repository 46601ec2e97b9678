"""A network evaluation is never done twice: the boxes of a step are distinct, on every canvas; and none is listed."""

import sys
import tracemalloc
from pathlib import Path
from typing import get_args

import pytest
from engine import ConvolutionalDenoiser, run_here, tiny_job
from hypothesis import given, settings
from hypothesis import strategies as st

from generation.sampling import random_covers
from generation.sampling.covers import Cover, GridAxis, ShiftedAxis, owned_patches
from generation.sampling.methods import Method, Name
from storage.geometry import TOPOLOGIES, Box, Canvas, Topology

NAMES: tuple[Name, ...] = get_args(Name)
STEPS = 8


@st.composite
def canvases(draw: st.DrawFn) -> tuple[Canvas, int]:
    """Of all topologies, from exactly one patch on, and the side of a patch."""
    patch = draw(st.integers(4, 24))
    sides = st.one_of(st.sampled_from([patch, patch + 1, 2 * patch]), st.integers(patch, 5 * patch))
    return Canvas(draw(sides), draw(sides), draw(st.sampled_from([*TOPOLOGIES.values()]))), patch


def cover_of(name: Name, canvas: Canvas, patch: int, seed: int) -> Cover:
    """Its last quarter blends, where the method does not anyway."""
    return Method(name, seed, STEPS, 0.25, STEPS // 4).cover(canvas, patch, STEPS)


def places(cover: Cover, step: int) -> list[tuple[int, int]]:
    """Where a step's patches begin, modulo the canvas."""
    canvas = cover.canvas
    owned = owned_patches(cover, step, canvas.box)
    return [(patch.box.y0 % canvas.height, patch.box.x0 % canvas.width) for patch in owned]


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=60)
@given(sized=canvases(), seed=st.integers(0, 2**64 - 1), step=st.integers(0, STEPS - 1))
def test_no_box_comes_twice_in_a_step(name: Name, sized: tuple[Canvas, int], seed: int, step: int) -> None:
    cover = cover_of(name, *sized, seed)
    found = places(cover, step)
    assert len(set(found)) == len(found) == cover.count(step)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=str)
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**64 - 1), step=st.integers(0, 5))
def test_a_canvas_of_one_patch_without_wrapping_sides_takes_one(
    name: Name, topology: Topology, seed: int, step: int
) -> None:
    canvas = Canvas(16, 16, topology)
    found = places(cover_of(name, canvas, 16, seed), step)
    assert len(set(found)) == len(found)
    if topology.name == "plane":
        assert found == [(0, 0)]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_cover_keeps_of_a_step_is_what_its_blocks_find(name: Name) -> None:
    """Whatever is left out, is left out for every block alike."""
    canvas = Canvas(37, 41, TOPOLOGIES["torus"])
    for seed in range(6):
        cover = cover_of(name, canvas, 16, seed)
        for step in range(STEPS):
            blocks = [Box(y, min(y + 16, 37), x, min(x + 16, 41)) for y in (0, 16, 32) for x in (0, 16, 32)]
            found = [patch for block in blocks for patch in owned_patches(cover, step, block)]
            assert sorted(found) == sorted(owned_patches(cover, step, canvas.box))


def test_a_picture_of_one_patch_is_evaluated_once_a_step(tmp_path: Path, monkeypatch) -> None:
    for name in NAMES:
        job = tiny_job(
            tmp_path / name, monkeypatch, width=32, height=32, method=name, batch_size=1, preview_every=0
        )
        denoiser = ConvolutionalDenoiser()
        run_here(job, denoiser)
        assert denoiser.evaluated == job.plan.patches == job.plan.steps, name


@pytest.mark.parametrize("seed", [2**63, 2**64 - 1])
def test_seeds_that_only_unsigned_numbers_hold_are_taken_as_they_are(seed: int) -> None:
    offsets = [
        [ShiftedAxis(640, 64, False, each, 0).offset(k) for k in range(4)] for each in (seed, seed - 1)
    ]
    assert offsets[0] != offsets[1]


# --- what a cover keeps ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "axis", [GridAxis(10**9, 64, 48, False), ShiftedAxis(10**9, 64, True, 3, 0)], ids=str
)
def test_intervals_are_computed_and_not_listed(axis: GridAxis | ShiftedAxis) -> None:
    row = axis.intervals(5)
    assert len(row) > 10**7 and sys.getsizeof(row) < 200
    assert row[-1] == row[len(row) - 1] and [row[7], row[8]] == row[7:9]
    with pytest.raises(IndexError):
        row[len(row)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=str)
def test_a_cover_of_a_terapixel_costs_kilobytes(name: Name, topology: Topology) -> None:
    """10^6 x 10^6 pixels of 8 to a latent; beside it lie the places used last, whose number does not grow."""
    canvas = Canvas(125_000, 125_000, topology)
    tracemalloc.start()
    try:
        cover = cover_of(name, canvas, 64, 3)
        for step in (0,) if name == "random-patch" else (0, 3, STEPS - 1):
            assert cover.count(step) > 10**6
        for remembered in (random_covers.picked_patches, random_covers._tile_lots):
            remembered.cache_clear()
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()

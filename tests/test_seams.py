"""The measure of seams: against a loop over edges, planted steps, honest errors, rings, bounded reads; its lattices."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from generation.decoding.decode import Tiling
from generation.decoding.four_shift import FourShift
from generation.sampling.covers import Cover, overlapping_grid, shifted_tiling
from generation.sampling.random_covers import RandomCover, RandomGrid
from generation.seams import ratios as seams
from generation.seams.lattices import (
    HORIZONTAL,
    VERTICAL,
    Lattice,
    PatchBorders,
    StraightLines,
    counting,
    decode_borders,
    every,
    joins,
    latent_lines,
    steps_beside,
)
from generation.seams.ratios import Parts, Seam, Tally, measure, verdict
from storage.geometry import PLANE, RING, TOPOLOGIES, TORUS, Box, Canvas

Pixels = NDArray[np.uint8]
SCALE = 8


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(60, 180, (height, width, 3)).astype(np.uint8)


def clouds(side: int, seed: int) -> Pixels:
    """Smooth on some scales, rough on others, here calm and there wild: neighbouring differences are alike."""
    random = np.random.default_rng(seed)
    total = np.zeros((side, side))
    for scale in (4, 16, 64):
        coarse = random.normal(size=(side // scale + 2, side // scale + 2))
        at = np.arange(side) / scale
        rows = np.array([np.interp(at, np.arange(len(coarse)), column) for column in coarse.T]).T
        total += scale * np.array([np.interp(at, np.arange(rows.shape[1]), row) for row in rows])
    return np.clip(128 + total[..., None] * [1, 0.8, 0.6], 0, 255).astype(np.uint8)


def found(
    pixels: Pixels, lattices: dict[str, list[Lattice]], topology=PLANE, cell: int = SCALE
) -> dict[str, Tally]:
    canvas = Canvas(*pixels.shape[:2], topology)
    return measure(lambda box: pixels[box.slices_in(canvas.box)], canvas, cell, lattices)


def at(canvas: Canvas, rows: list[int], columns: list[int], step: int = SCALE) -> StraightLines:
    return StraightLines(canvas, np.array(rows, np.int64), np.array(columns, np.int64), steps_beside(step))


# --- the figure ------------------------------------------------------------------------------------------------------


def test_without_a_seam_the_ratio_is_one() -> None:
    pixels = noise(512, 512)
    canvas = Canvas(512, 512)
    tallies = found(pixels, {"blocks": [every(canvas, 128, 8)], "latents": [latent_lines(canvas, 8)]})
    for name, length in (("blocks", 2 * 3 * 512), ("latents", 2 * 63 * 512)):
        seam = tallies[name].seam()
        assert abs(seam.ratio - 1) < 4 * seam.error < 0.2
        assert seam.pixels == length


def test_a_planted_step_is_found_on_its_lattice_and_no_other() -> None:
    pixels = noise(512, 512) // 8 + 40
    canvas = Canvas(512, 512)
    for line in range(96, 512, 96):
        pixels[:, line:] += 5
    tallies = found(
        pixels,
        {
            "right": [every(canvas, 96, 8)],
            "other": [every(canvas, 104, 8)],
            "fine": [latent_lines(canvas, 8)],
        },
    )
    assert tallies["right"].seam(VERTICAL).ratio > 1.2
    assert verdict(tallies["right"].seam(VERTICAL)) == "seam: edge"
    for name, way in (("right", HORIZONTAL), ("other", VERTICAL), ("other", HORIZONTAL)):
        assert not verdict(tallies[name].seam(way)).startswith("seam")


def test_a_blur_across_lines_is_found_too() -> None:
    pixels = noise(256, 256).astype(float)
    for line in range(8, 256, 8):
        pixels[line] = pixels[line - 1] = (pixels[line] + pixels[line - 1]) / 2
    seam = found(pixels.astype(np.uint8), {"latents": [latent_lines(Canvas(256, 256), 8)]})["latents"].seam(
        HORIZONTAL
    )
    assert seam.ratio < 0.8
    assert verdict(seam) == "seam: blur"


def test_a_grid_of_the_codec_is_no_seam_of_what_lies_on_it() -> None:
    """Lines are compared with those that lie alike: a grid of 8 pixels is told of the latents alone."""
    grid = (9 * (np.arange(512) // 8 % 2)).astype(np.uint8)
    pixels = noise(512, 512) // 8 + grid[:, None, None] + grid[None, :, None]
    canvas = Canvas(512, 512)
    tallies = found(pixels, {"blocks": [every(canvas, 64, 8)], "latents": [latent_lines(canvas, 8)]})
    assert tallies["latents"].seam().ratio > 1.3
    assert abs(tallies["blocks"].seam().ratio - 1) < 4 * tallies["blocks"].seam().error


def test_errors_are_what_they_say() -> None:
    """Lines at random places of pictures without seams: z has mean 0 and deviation 1, and few verdicts are wrong."""
    z = []
    for seed in range(6):
        pixels, canvas, random = clouds(512, seed), Canvas(512, 512), np.random.default_rng(seed)
        lattices: dict[str, list[Lattice]] = {
            str(index): [
                at(canvas, *(sorted(random.choice(range(32, 480, 8), 6, replace=False)) for _ in "yx"))
            ]
            for index in range(12)
        }
        z += [(seam.ratio - 1) / seam.error for seam in (t.seam() for t in found(pixels, lattices).values())]
    assert abs(np.mean(z)) < 0.35
    assert 0.7 < np.std(z) < 1.35
    assert max(map(abs, z)) < 4


def test_where_nothing_changes_a_step_is_a_seam_and_none_is_none() -> None:
    flat = np.full((256, 256, 3), 90, np.uint8)
    canvas = Canvas(256, 256)
    assert verdict(found(flat, {"a": [every(canvas, 64, 8)]})["a"].seam()) == "inside"
    flat[:, 64:] += 1
    seam = found(flat, {"a": [every(canvas, 64, 8)]})["a"].seam()
    assert seam.ratio == np.inf and verdict(seam) == "seam: edge"


@pytest.mark.parametrize(
    ("ratio", "error", "words"),
    [
        (1.02, 0.001, "inside"), (0.98, 0.029, "inside"), (1.02, 0.05, "unclear"), (1.1, 0.001, "seam: edge"),
        (0.9, 0.001, "seam: blur"), (1.1, 0.03, "unclear"), (1.0, np.inf, "unclear"),
    ],
)  # fmt: skip
def test_a_seam_is_told_as_far_as_its_error_allows(ratio: float, error: float, words: str) -> None:
    assert verdict(Seam(ratio, error, 10)) == words


# --- against a loop --------------------------------------------------------------------------------------------------


def slow(
    pixels: Pixels, canvas: Canvas, edges: set[tuple[int, int, int]], offsets: tuple[int, ...], cell: int
) -> Tally:
    """Edge by edge: (way, line, pixel along the line). A cell belongs to the part in which it begins."""
    tally = Tally.empty(*Parts(canvas).shape)
    lengths = (canvas.height, canvas.width)
    wraps = (canvas.topology.wraps_y, canvas.topology.wraps_x)

    def g(way: int, line: int, along: int) -> int | None:
        if not wraps[way] and not 0 < line < lengths[way]:
            return None
        here, before = line % lengths[way], (line - 1) % lengths[way]
        one, other = (
            ((here, along), (before, along)) if way == HORIZONTAL else ((along, here), (along, before))
        )
        return int(np.abs(pixels[one].astype(int) - pixels[other]).sum())

    for way, line, along in edges:
        near = [
            value
            for offset in offsets
            if (way, (line + offset) % lengths[way] if wraps[way] else line + offset, along) not in edges
            and (value := g(way, line + offset, along)) is not None
        ]
        own = g(way, line, along)
        if near and own is not None:
            begin = along // cell * cell
            y, x = (line, begin) if way == HORIZONTAL else (begin, line)
            place = (way, y // Parts(canvas).side, x // Parts(canvas).side)
            tally.on[place] += own
            tally.beside[place] += np.mean(near)
            tally.length[place] += 1
    return tally


def patch_edges(cover: Cover, step: int, scale: int, picture: Canvas) -> set[tuple[int, int, int]]:
    """Where the sets of patches that count differ, latent by latent."""
    canvas = cover.canvas
    sets = {}
    for y, x in product(range(canvas.height), range(canvas.width)):
        patches = [
            p
            for p in cover.overlapping(step, Box(y, y + 1, x, x + 1))
            if p.owns.contains(Box(y, y + 1, x, x + 1))
        ]
        lowest = min(patch.rank for patch in patches)
        sets[y, x] = {(p.owns.y0 - y, p.owns.x0 - x, p.rank) for p in patches if p.rank == lowest}
    edges = set()
    for (y, x), here in sets.items():
        for way, dy, dx in ((HORIZONTAL, 1, 0), (VERTICAL, 0, 1)):
            before = (y - dy, x - dx)
            if canvas.topology.wraps_y:
                before = (before[0] % canvas.height, before[1])
            if canvas.topology.wraps_x:
                before = (before[0], before[1] % canvas.width)
            if before in sets and {(a - dy, b - dx, r) for a, b, r in sets[before]} != here:
                line, first = (y, x) if way == HORIZONTAL else (x, y)
                edges |= {(way, line * scale, first * scale + n) for n in range(scale)}
    limits = (picture.width, picture.height)
    return {edge for edge in edges if edge[1] < limits[1 - edge[0]] and edge[2] < limits[edge[0]]}


COVERS = {
    "hann": lambda canvas: overlapping_grid(canvas, 8, 0.4),
    "tight": lambda canvas: overlapping_grid(canvas, 8, 0.0),
    "shifted": lambda canvas: shifted_tiling(canvas, 8, seed=5),
    "random-patch": lambda canvas: RandomCover(canvas, 8, 5),
    "random-grid": lambda canvas: RandomGrid(canvas, 8, 5),
}


@pytest.mark.parametrize("topology", [PLANE, RING, TORUS])
@pytest.mark.parametrize("method", COVERS)
@pytest.mark.parametrize("block", [24, 1024])
def test_borders_of_patches_are_those_of_a_loop_over_edges(
    method: str, topology, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of any size; on planes the canvas is cut off in the middle of a latent."""
    monkeypatch.setattr(seams, "BLOCK", block)
    scale = 3
    cover: Cover = COVERS[method](Canvas(21, 26, topology))
    height, width = 63 - 2 * (not topology.wraps_y), 78 - 4 * (not topology.wraps_x)
    pixels = noise(height, width, seed=3)
    canvas = Canvas(height, width, topology)
    for step in (0, 3):
        lattice = PatchBorders(cover, step, scale)
        ours = found(pixels, {"patches": [lattice]}, topology, scale)["patches"]
        expected = slow(pixels, canvas, patch_edges(cover, step, scale, canvas), lattice.beside, scale)
        assert expected.length.sum() > 0
        for name in ("on", "beside", "length"):
            assert np.allclose(getattr(ours, name), getattr(expected, name), rtol=1e-12), name


@pytest.mark.parametrize("topology", [PLANE, RING, TORUS])
def test_straight_lines_are_those_of_a_loop_over_edges(topology) -> None:
    canvas = Canvas(72, 96, topology)
    pixels = noise(72, 96, seed=4)
    lines = every(canvas, 20, 8)
    edges = {(HORIZONTAL, int(y), x) for y in lines.rows for x in range(96)}
    edges |= {(VERTICAL, int(x), y) for x in lines.columns for y in range(72)}
    ours = found(pixels, {"a": [lines]}, topology)["a"]
    expected = slow(pixels, canvas, edges, lines.beside, SCALE)
    assert np.allclose(ours.on, expected.on) and np.allclose(ours.beside, expected.beside)
    assert (0 in lines.columns) == topology.wraps_x and (0 in lines.rows) == topology.wraps_y


@pytest.mark.parametrize("method", COVERS)
def test_boxes_agree_on_where_patches_meet(method: str) -> None:
    cover = COVERS[method](Canvas(40, 40, TORUS))
    whole = counting(cover, 2, Box(-4, 44, -4, 44))
    part = counting(cover, 2, Box(5, 30, -3, 20))
    inside = whole[9:34, 1:24]
    assert np.array_equal(part[1:] != part[:-1], inside[1:] != inside[:-1])
    assert np.array_equal(part[:, 1:] != part[:, :-1], inside[:, 1:] != inside[:, :-1])


# --- lattices --------------------------------------------------------------------------------------------------------


def test_the_joined_sides_of_a_ring_are_measured_and_those_of_a_plane_are_none() -> None:
    pixels = noise(128, 256) // 8
    pixels += (np.arange(256) * 100 // 256).astype(np.uint8)[None, :, None]
    ring = Canvas(128, 256, RING)
    seam = found(pixels, {"joined": [joins(ring, 8)]}, RING)["joined"]
    assert seam.seam(VERTICAL).ratio > 5 and seam.seam(VERTICAL).pixels == 128
    assert seam.seam(HORIZONTAL).pixels == 0
    assert found(pixels, {"joined": [joins(Canvas(128, 256), 8)]})["joined"].seam().pixels == 0


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_decode_tiles_meet_where_the_blends_put_them(topology: str) -> None:
    canvas, pixels = Canvas(64, 96, TOPOLOGIES[topology]), Canvas(512, 768, TOPOLOGIES[topology])
    wraps = int(canvas.topology.wraps_x)
    ours = decode_borders(Tiling(canvas, 8, 40, 4, local=True), pixels)
    assert ours.columns.tolist() == [0] * wraps + [256, 512]
    blend = FourShift(canvas, 8, 32)
    assert decode_borders(blend, pixels).columns.tolist() == [0] * wraps + [256, 512]
    assert decode_borders(blend, pixels, moved=True).columns.tolist() == [128, 384, 640]


def test_a_lattice_without_free_lines_beside_it_is_not_measured() -> None:
    canvas = Canvas(64, 64)
    assert found(noise(64, 64), {"a": [at(canvas, list(range(8, 64, 8)), [])]})["a"].seam().pixels == 0


# --- any size --------------------------------------------------------------------------------------------------------


def test_reads_are_bounded_by_a_block_and_sums_by_the_parts() -> None:
    canvas, asked = Canvas(2000, 3001, RING), []

    def read(box: Box) -> Pixels:
        asked.append(box)
        assert canvas.box.contains(box)
        return noise(*box.shape)

    measure(read, canvas, 8, {"a": [every(canvas, 512, 8)], "b": [latent_lines(canvas, 8)]})
    assert max(max(box.shape) for box in asked) <= 1024 + 2 * 32
    assert sum(box.area for box in asked) < 1.15 * canvas.box.area
    assert max(Parts(Canvas(10_000_000, 9_000_000)).shape) <= 64
    assert Parts(Canvas(300, 100)).shape == (5, 2)


@pytest.mark.parametrize("size", [(1, 1), (5, 900), (7, 7), (9, 17), (33, 8)])
def test_small_and_odd_pictures_are_measured_as_far_as_they_go(size: tuple[int, int]) -> None:
    canvas = Canvas(*size)
    tallies = found(noise(*size), {"latents": [latent_lines(canvas, 8)], "blocks": [every(canvas, 256, 8)]})
    length = (size[0] - 1) // 8 * size[1] + (size[1] - 1) // 8 * size[0]
    assert tallies["latents"].seam().pixels == length
    assert np.isfinite(tallies["blocks"].seam().ratio)

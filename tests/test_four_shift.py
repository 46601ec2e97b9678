"""The four-shift blend: against a loop over the whole picture as published, blocks, rings, its cost and its fault."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from engine import INFO, files_of, run_here, tiny_job, whole_block
from numpy.typing import NDArray
from typer.testing import CliRunner

from cluster.commands.app import app
from cluster.jobs.report import guessed_pace
from cluster.spec.fields import JobSpec, SpecError
from cluster.spec.identity import picture_facts
from generation.decoding.decode import Blend, Tiling, decode_box
from generation.decoding.four_shift import FourShift
from storage.geometry import TOPOLOGIES, Box, Canvas

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
CPU = torch.device("cpu")
Latents = NDArray[np.float32]


class Enlarged:
    """Pixels are the latents, enlarged."""

    def __init__(self, scale: int) -> None:
        self.scale = scale

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(pixels, self.scale)


class Normalising(Enlarged):
    """What a tile's pixels are depends on the whole tile, as with normalisation over groups."""

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return super().decode(latents - latents.mean((2, 3), keepdim=True) / 2)


class OffsetByTile(Enlarged):
    """Every tile is brighter or darker than it should be: a mean colour that only its own content decides."""

    def __init__(self, scale: int, size: float) -> None:
        super().__init__(scale)
        self.size = size

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        drawn = np.random.default_rng(int(abs(latents.double().sum().item()) * 1e6))
        offset = drawn.uniform(-self.size, self.size)
        return torch.zeros_like(super().decode(latents)) + 2 * offset


def field(canvas: Canvas, seed: int = 1) -> Latents:
    return np.random.default_rng(seed).uniform(-0.4, 0.4, (3, *canvas.box.shape)).astype(np.float32)


def decoded(codec: Enlarged, blend: Blend, latents: Latents, box: Box | None = None) -> NDArray[np.float32]:
    canvas = blend.canvas

    def read(asked: Box) -> Latents:
        out = np.empty((3, *asked.shape), np.float32)
        for piece, home in canvas.split_at_edges(asked):
            out[(slice(None), *piece.slices_in(asked))] = latents[(slice(None), *home.slices_in(canvas.box))]
        return out

    return decode_box(codec, blend, box or canvas.box, read, CPU)


# --- as published ----------------------------------------------------------------------------------------------------


def published(codec: Enlarged, latents: Latents, tile: int) -> NDArray[np.float64]:
    """Four decodings of the whole picture, three of them cut off by half a tile; three lerps."""
    half, scale = tile // 2, codec.scale
    p = tile * scale

    def tiled(z: Latents) -> NDArray[np.float64]:
        rows = [
            np.concatenate([one(z[:, y : y + tile, x : x + tile]) for x in range(0, z.shape[2], tile)], axis=1)
            for y in range(0, z.shape[1], tile)
        ]  # fmt: skip
        return np.concatenate(rows, axis=0)

    def one(z: Latents) -> NDArray[np.float64]:
        pixels = codec.decode(torch.from_numpy(np.ascontiguousarray(z))[None])[0]
        return pixels.numpy().transpose(1, 2, 0).astype(np.float64) * 0.5 + 0.5

    image = tiled(latents)
    vertical, horizontal = tiled(latents[:, :, half:-half]), tiled(latents[:, half:-half])
    cross = tiled(latents[:, half:-half, half:-half])
    hann = 0.5 * (1 - np.cos(2 * np.pi * (np.arange(p) + 0.5) / p))
    height, width, _ = image.shape
    rows, columns = (
        np.tile(hann, height // p - 1)[:, None, None],
        np.tile(hann, width // p - 1)[None, :, None],
    )
    h = slice(p // 2, -(p // 2))
    image[:, h] = image[:, h] * (1 - columns) + vertical * columns
    image[h] = image[h] * (1 - rows) + horizontal * rows
    image[h, h] = image[h, h] * (1 - rows * columns) + cross * rows * columns
    return image


@pytest.mark.parametrize(("rows", "columns", "tile"), [(2, 2, 6), (3, 5, 8), (4, 2, 10)])
def test_whole_tiles_are_blended_as_published(rows: int, columns: int, tile: int) -> None:
    canvas, codec = Canvas(rows * tile, columns * tile), Normalising(4)
    latents = field(canvas)
    ours = decoded(codec, FourShift(canvas, 4, tile), latents)
    assert abs(ours - published(codec, latents, tile)).max() < 1e-6


# --- any canvas ------------------------------------------------------------------------------------------------------

SIZES = [(5, 3), (16, 17), (23, 40), (64, 37), (7, 31)]


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tile", [4, 7, 16])
def test_weights_sum_to_one_exactly(topology: str, size: tuple[int, int], tile: int) -> None:
    """Where all decodings agree, what comes out is what they say, to the last bit."""
    canvas = Canvas(*size, TOPOLOGIES[topology])
    latents = field(canvas)
    ours = decoded(Enlarged(2), FourShift(canvas, 2, tile), latents)
    expected = latents.repeat(2, 1).repeat(2, 2).transpose(1, 2, 0) * np.float32(0.5) + np.float32(0.5)
    assert np.array_equal(ours, expected)


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tile", [4, 7, 16])
def test_tiles_of_each_decoding_are_disjoint_and_no_larger_than_asked(
    topology: str, size: tuple[int, int], tile: int
) -> None:
    canvas = Canvas(*size, TOPOLOGIES[topology])
    tiles = FourShift(canvas, 2, tile).tiles_over(canvas.box)
    for hides_y in (False, True):
        for hides_x in (False, True):
            count = np.zeros(size, int)
            for one in tiles:
                if (one.seams[0] is not None, one.seams[1] is not None) == (hides_y, hides_x):
                    assert max(one.source.shape) <= max(tile, 1)
                    part = one.core.intersection(canvas.box)
                    assert part is not None
                    count[part.slices_in(canvas.box)] += 1
            assert count.max() <= 1
            whole = canvas.topology.wraps_y >= hides_y and canvas.topology.wraps_x >= hides_x
            assert count.min() == int(whole), "moved tiles do not reach the borders of a plane"


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_pixel_depends_on_its_place_alone(topology: str) -> None:
    canvas = Canvas(45, 53, TOPOLOGIES[topology])
    codec, latents = Normalising(2), field(canvas)
    blend = FourShift(canvas, 2, 16)
    whole = decoded(codec, blend, latents)
    for box in boxes(canvas, 19):
        part = decoded(codec, blend, latents, box)
        assert np.array_equal(part, whole[box.scaled(2).slices_in(canvas.box.scaled(2))])


def boxes(canvas: Canvas, side: int) -> Iterator[Box]:
    for y in range(0, canvas.height, side):
        for x in range(0, canvas.width, side):
            box = Box(y, y + side, x, x + side).intersection(canvas.box)
            assert box is not None
            yield box


@pytest.mark.parametrize("topology", ["ring", "torus"])
def test_on_a_ring_no_place_is_special(topology: str) -> None:
    """Turning the latents by a whole tile turns the picture; on a plane the borders would show."""
    canvas = Canvas(32, 48, TOPOLOGIES[topology])
    codec, latents, blend = Normalising(2), field(canvas), FourShift(canvas, 2, 16)
    turned = decoded(codec, blend, np.roll(latents, 16, axis=2))
    assert np.array_equal(turned, np.roll(decoded(codec, blend, latents), 32, axis=1))
    if topology == "torus":
        turned = decoded(codec, blend, np.roll(latents, 16, axis=1))
        assert np.array_equal(turned, np.roll(decoded(codec, blend, latents), 32, axis=0))


# --- its fault -------------------------------------------------------------------------------------------------------


def edge_on(pixels: NDArray[np.float32], columns: list[int]) -> float:
    """The largest step between the columns on both sides of some borders."""
    return max(float(abs(pixels[:, x] - pixels[:, x - 1]).max()) for x in columns)


def test_a_quarter_of_an_offset_between_tiles_stays_as_a_seam() -> None:
    """Tiles of 512 pixels whose brightness is off by up to a quarter of white, on both sides.

    A Hann window over tiles that overlap by half has 1e-5 of its height at its ends, and no other edge.
    """
    canvas, codec = Canvas(192, 256), OffsetByTile(8, 0.25)
    latents = field(canvas)
    four_shift = decoded(codec, FourShift(canvas, 8, 64), latents)
    ours = decoded(codec, Tiling(canvas, 8, 64, 16, local=False), latents)
    borders = [512, 1024, 1536]
    ends = [8 * latent for latent in range(32, 256, 32)]
    figures = edge_on(four_shift, borders), edge_on(ours, ends)
    assert 0.04 < figures[0] <= 0.25 * 0.5, figures
    assert 0 < figures[1] < 2e-5, figures
    rows = np.argmax(abs(four_shift[:, 512] - four_shift[:, 511]).max(axis=1))
    assert min(rows % 256, 256 - rows % 256) > 32, "it shows where the window of the pass is half way"


# --- in a job --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_job_in_blocks_writes_the_bytes_of_one_block(topology: str, tmp_path: Path, monkeypatch) -> None:
    job = tiny_job(tmp_path / "a", monkeypatch, decode="four-shift", topology=topology)
    run_here(job)
    other = whole_block(tiny_job(tmp_path / "b", monkeypatch, decode="four-shift", topology=topology))
    run_here(other)
    assert len(job.plan.grid) > 1 and job.plan.layout.task_count(0) > 1
    pictures = [
        {name: data for name, data in files_of(one.spec.out).items() if name.startswith("image")}
        for one in (job, other)
    ]
    assert pictures[0] == pictures[1] and pictures[0]


def test_the_plan_knows_what_it_costs(tmp_path: Path, monkeypatch) -> None:
    wide = {"width": 4000, "height": 4000, "block": 64, "tile": 64}
    ours = tiny_job(tmp_path / "a", monkeypatch, **wide)
    other = tiny_job(tmp_path / "b", monkeypatch, decode="four-shift", **wide)
    whole = other.plan.canvas.box
    area = sum(tile.source.area for tile in other.plan.tiling.tiles_over(whole))
    assert area / whole.area == pytest.approx(4, abs=0.08)
    assert guessed_pace(other).megapixel == 4 * guessed_pace(ours).megapixel
    side = INFO.tile - 2 * INFO.tile_margin
    assert other.plan.tiling.tile == side == ours.plan.tiling.tile - 2 * INFO.tile_margin
    wide, ours_side, others_side = ours.plan.layout.superblock, INFO.tile * INFO.scale, side * INFO.scale
    band, whole_block = wide * ours_side, wide * wide  # four passes over each other come as a whole
    more = 3 * 4 * (whole_block - band + 3 * (others_side**2 - ours_side**2))
    assert other.plan.decode_bytes - ours.plan.decode_bytes == more > 0
    last = other.plan.dependencies((other.plan.stages_of("decode")[0], 0))
    reads = {tile.source for tile in other.plan.tiling.tiles_over(other.plan.decode_box(0))}
    assert {block for _, block in last} == {b for box in reads for b in other.plan.grid.overlapping(box)}


def test_only_the_other_blend_is_identity() -> None:
    fields = {"prompt": "x", "width": 64, "height": 64, "out": Path("out")}
    usual, other = JobSpec(**fields), JobSpec(**fields, decode="four-shift")
    assert "decode" not in picture_facts(usual)
    assert picture_facts(other) == {**picture_facts(usual), "decode": "four-shift"}


def test_another_word_is_one_line() -> None:
    with pytest.raises(SpecError, match="unknown decode 'fourshift'; choose hann or four-shift"):
        JobSpec(prompt="x", width=64, height=64, out=Path("out"), decode="fourshift")
    result = CliRunner().invoke(app, ["plan", "archipelago", "--decode", "median"])
    assert (result.exit_code, len(result.stderr.strip().splitlines())) == (2, 1)
    with pytest.raises(ValueError, match="decode tile 1 cannot be moved"):
        FourShift(Canvas(8, 8), 2, 1)
